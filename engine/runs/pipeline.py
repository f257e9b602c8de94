"""A run from its configuration to scores.parquet, stage by stage; a stage whose artifact exists is not computed again."""

import copy
import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from engine.config import RunConfig, digest
from engine.curvature.base import Curvature
from engine.curvature.fit import fit_curvature, restore_curvature
from engine.curvature.linearization import HEAD_BATCH, predict
from engine.data.dataset import LabeledImages, SelectedImages
from engine.data.load import load_splits, open_sources
from engine.diagnostics import figures
from engine.diagnostics.embedding import embed, nearest
from engine.diagnostics.metrics import quality
from engine.errors import InputError
from engine.files import replacing
from engine.influence.base import Candidates, Evaluation, Method, Scores, ScoringContext
from engine.influence.evaluation import evaluate
from engine.influence.methods import loss_posterior, select_methods
from engine.influence.noise_posterior import NoisePosterior
from engine.influence.trajectory import TrajectoryContext
from engine.progress import Progress, Report
from engine.runs.store import RunRow, describe_dataset, store
from engine.runs.submission import identify
from engine.runs.workspace import RunFolder, Workspace
from engine.training.batches import read_batches
from engine.training.budgets import plans
from engine.training.devices import peak_memory_mb, select_device
from engine.training.models import Classifier, build_model, input_size, whiten
from engine.training.trainer import Snapshot, TrainingPlan, snapshots, train

WHITENING_IMAGES = 2000
EVIDENCE_IMAGES = 4
# Small, so that the app reads one image's candidate scores without the others'.
SCORES_ROW_GROUP = 10_000

Note = Callable[[str], None]
Result = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What every stage needs to know about its run.

    Attributes:
        config: of the run.
        workspace: where artifacts are kept.
        device: where to compute.
        report: called as the stage goes on.
        note: called with what the user should know.
    """

    config: RunConfig
    workspace: Workspace
    device: torch.device
    report: Report
    note: Note


def execute(config: RunConfig, row: RunRow, workspace: Workspace, device_name: str, report: Report, note: Note) -> Result:
    """Compute a run, or finish one that was interrupted.

    Args:
        config: of the run.
        row: the run in the store.
        workspace: where it is kept.
        device_name: where to compute it.
        report: called as it goes on.
        note: called with what the user should know.

    Returns:
        The run's result, as in result.json.

    Raises:
        InputError: whatever is wrong with the input.
    """
    started = time.monotonic()
    stage = Stage(config, workspace, select_device(device_name), report, note)
    methods = select_methods(config)
    training, validation = load(stage, row)
    minima: dict[str, tuple[Trained, ScoringContext]] = {}
    # The classical methods alone need no validation minimum, yet suggestions, confidence and the map do.
    for name in sorted({method.minimum for method in methods} - {"trained"}) or ["erm" if config.optimizer == "erm" else "flat"]:
        trained = validation_minimum(stage, "erm" if name == "erm" else config.optimizer, training, validation)
        evaluation = evaluate_minimum(stage, f"score ({name})", trained, training, validation)
        minima[name] = trained, ScoringContext(training.labels, len(training.class_names), evaluation)
    main, context = minima[methods[0].minimum] if methods[0].minimum in minima else next(iter(minima.values()))

    scores: dict[str, Scores] = {}
    summaries: dict[str, Result] = {}
    for method in methods:
        if method.minimum == "trained":
            scores[method.name], seconds = classical_scores(stage, method, main, training, validation)
        else:
            clock = time.monotonic()
            scores[method.name] = method.score(minima[method.minimum][1])
            seconds = time.monotonic() - clock + minima[method.minimum][1].evaluation.seconds
        measured = quality(scores[method.name], training.labels, training.true_labels)
        summaries[method.name] = {**measured, "score_seconds": round(seconds, 3)}
    beliefs = loss_posterior(context)
    folder = workspace.run(row.id)
    write_scores(folder, training, scores, beliefs)
    passes = sum(seen.evaluation.seconds for _, seen in minima.values())
    result: Result = {
        "run": row.id,
        "n": len(training),
        "classes": len(training.class_names),
        "seconds": round(time.monotonic() - started, 3),
        "images_per_second": round(len(training) * len(minima) / passes, 1),
        "device": _device_name(stage.device),
        "peak_memory_mb": peak_memory_mb(),
        "expected_wrong": round(beliefs.expected_wrong, 1),
        "ranked_by": methods[0].name,
        "skipped": len(training.skipped) + len(validation.skipped),
        "methods": summaries,
        "scores": str(folder.scores),
        "classes_in_order": list(training.class_names),
        "images": {"training": training.folder.name, "validation": validation.folder.name},
    }
    with replacing(folder.result) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    write_map(stage, folder, main, context.evaluation, beliefs, training, validation)
    if config.figures:
        write_figures(stage, folder, beliefs, training, validation)
    return result


def load(stage: Stage, row: RunRow) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split; records what was found and what was left out.

    Raises:
        InputError: the sources are not what they were when the run was submitted, or cannot be used.
    """
    sources = open_sources(stage.config)
    if identify(stage.config, sources) != (row.id, row.dataset):
        raise InputError(f"{stage.config.train} or its validation split changed since this run was submitted: submit it again")
    training, validation = load_splits(
        stage.config,
        sources,
        stage.workspace.decoded,
        lambda natural: input_size(stage.config.model, natural),
        _image_report("decode", stage.report),
    )
    folder = stage.workspace.run(row.id)
    with replacing(folder.config) as temporary:
        temporary.write_text(stage.config.to_json())
    with replacing(folder.skipped) as temporary:
        pd.concat([training.skipped, validation.skipped], ignore_index=True).to_csv(temporary, index=False)
    with store(stage.workspace) as connection:
        describe_dataset(connection, row.dataset, training.class_names, training.class_counts().tolist())
    return training, validation


@dataclass(frozen=True)
class Trained:
    """A network at a validation minimum.

    Attributes:
        model: in eval mode.
        key: identifies it.
        snapshots: of the way there, by stage, `pretrain` (where there is one) and `minimum`.
        origins: what identifies each of these stages.
    """

    model: Classifier
    key: str
    snapshots: dict[str, tuple[Snapshot, ...]]
    origins: dict[str, str]


def validation_minimum(stage: Stage, optimizer: str, training: LabeledImages, validation: LabeledImages) -> Trained:
    """θ̃: pre-trained on the given labels, then trained on the validation split by `optimizer`."""
    config, device = stage.config, stage.device
    model = build_model(config.model, len(training.class_names), config.weights, config.seed).to(device)
    if config.model == "small" and config.weights is None:
        rows = np.arange(min(len(training), WHITENING_IMAGES))
        whiten(model, next(read_batches(training.images, rows, len(rows), device))[1])
    pretraining, minimizing = plans(config.budget, len(training), len(validation), config.mirror, config.weights is not None)
    steps = [("minimum", validation, replace(minimizing, optimizer=optimizer))]
    if config.pretrains:
        steps.insert(0, ("pretrain", training, pretraining))
    upstream: list[object] = [config.model, config.weights, config.seed, device.type, training.key()]
    kept, origins = {}, {}
    for name, images, plan in steps:
        upstream, kept[name] = _train_stage(stage, name, model, images, plan, upstream)
        origins[name] = digest(upstream)
    return Trained(model.eval(), digest(upstream), kept, origins)


def _train_stage(
    stage: Stage, name: str, model: Classifier, images: LabeledImages, plan: TrainingPlan, upstream: list[object]
) -> tuple[list[object], tuple[Snapshot, ...]]:
    """Train in place, or load what an earlier run trained; what identifies the result, and the snapshots."""
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def attempt(divisor: int) -> tuple[list[object], tuple[Snapshot, ...]]:
        smaller = replace(plan, batch_size=max(2, plan.batch_size // divisor))
        key = [*upstream, name, asdict(smaller), images.key()]
        checkpoint = stage.workspace.artifact(name, digest(key))
        model.load_state_dict(start)
        train(
            model,
            images.images,
            images.labels,
            smaller,
            stage=name if name == "pretrain" else f"{name} ({plan.optimizer})",
            seed=stage.config.seed,
            device=stage.device,
            checkpoint=checkpoint,
            report=stage.report,
        )
        return key, tuple(snapshots(smaller, len(images), checkpoint))

    return with_smaller_batches(attempt, stage.note)


def classical_scores(
    stage: Stage, method: Method, trained: Trained, training: LabeledImages, validation: LabeledImages
) -> tuple[Scores, float]:
    """Scores of a method on the network trained on the given labels, and how many seconds they took; read where they exist."""
    config = stage.config
    key = digest(trained.origins["pretrain"], validation.key(), config.parameters, config.damping, config.mirror)
    artifact = stage.workspace.artifact(f"scores-{method.name}", key)
    if not artifact.exists():
        stage.report(Progress(f"score ({method.name})", 0, 1, "fit", None, 0.0, 0.0))
        started = time.monotonic()
        context = TrajectoryContext(
            copy.deepcopy(trained.model), trained.snapshots["pretrain"], training.images, training.labels, validation.images,
            validation.labels, config.parameters, config.damping, config.mirror, stage.device, config.seed,
            _image_report(f"score ({method.name})", stage.report),
        )  # fmt: skip
        found = method.score(context)
        tensors = {"influence": found.influence, "seconds": np.array(time.monotonic() - started)}
        if found.candidates is not None:
            tensors |= {"classes": np.ascontiguousarray(found.candidates.classes), "scores": found.candidates.scores}
        with replacing(artifact) as temporary:
            save_file(tensors, temporary)
    kept = load_file(artifact)
    candidates = Candidates(kept["classes"], kept["scores"]) if "classes" in kept and config.candidates else None
    return Scores(kept["influence"], candidates), float(kept["seconds"])


def evaluate_minimum(
    stage: Stage, title: str, trained: Trained, training: LabeledImages, validation: LabeledImages
) -> Evaluation:
    """The training set's evaluation at a minimum: its curvature, then the scores; read where they exist."""
    config, model = stage.config, trained.model
    upstream = [trained.key, config.curvature, config.parameters, config.damping, validation.key()]
    factored = stage.workspace.artifact("curvature", digest(upstream))
    if not factored.exists():
        stage.report(Progress("curvature", 0, 1, "fit", None, 0.0, 0.0))

        def fit(divisor: int) -> Curvature:
            return fit_curvature(
                model, config.curvature, config.parameters, validation.images, config.damping, stage.device, config.seed, divisor
            )

        state = with_smaller_batches(fit, stage.note).state()
        with replacing(factored) as temporary:
            save_torch_file({name: value.cpu().contiguous() for name, value in state.items()}, temporary)
    artifact = stage.workspace.artifact("evaluation", digest(upstream, training.key(), config.candidates, config.mirror))
    if not artifact.exists():
        curvature = restore_curvature(config.curvature, load_torch_file(factored, device=str(stage.device)))

        def score(divisor: int) -> Evaluation:
            return evaluate(
                model,
                curvature,
                training.images,
                training.labels,
                parameters=config.parameters,
                all_candidates=config.candidates,
                mirrored=config.mirror,
                device=stage.device,
                report=_image_report(title, stage.report),
                divisor=divisor,
            )

        evaluation = with_smaller_batches(score, stage.note)
        with replacing(artifact) as temporary:
            save_file({key: np.asarray(value) for key, value in vars(evaluation).items() if value is not None}, temporary)
    tensors = load_file(artifact)
    return Evaluation(**{"leverage": None, **tensors, "seconds": float(tensors["seconds"])})  # type: ignore[arg-type]


def with_smaller_batches(action: Callable[[int], T], note: Note) -> T:
    """Call `action` with a batch divisor of 1; where memory runs out, with 2, 4 and at last 8."""
    for divisor in (1, 2, 4):
        try:
            return action(divisor)
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(error)):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        note(f"Memory ran out: the stage was tried again with batches 1/{2 * divisor} of the usual size.")
    return action(8)


def write_scores(folder: RunFolder, training: LabeledImages, scores: dict[str, Scores], beliefs: NoisePosterior) -> None:
    """Write scores.parquet: one row an image in the order of the training set, one column a method.

    `rank` is 1 for the most suspicious image under the first method. `suggested_label` is the class of highest noise
    posterior, which weighs the given label and the noise learnt from all of them; `confidence` is that posterior and
    `wrong_probability` the posterior that the given label is wrong. `candidate_classes` and `candidate_scores` are lists:
    the first method's score of every candidate label; `image_row` is the image's row in the decoded dataset.
    """
    names = np.array(training.class_names, dtype=object)
    first = next(iter(scores.values()))
    candidates = first.candidates or beliefs.candidates
    suggested = beliefs.candidates.best()
    table = pd.DataFrame({"id": training.ids, "given_label": _named(training.labels, training)})
    if training.true_labels is not None:
        table["true_label"] = _named(training.true_labels, training)
    for name, score in scores.items():
        table[name] = score.influence
    order = np.lexsort((np.arange(len(training)), -first.influence))
    table.loc[order, "rank"] = np.arange(1, len(training) + 1)
    table["rank"] = table["rank"].astype(np.int64)
    table["suggested_label"] = _named(suggested, training)
    table["confidence"] = np.exp(-beliefs.candidates.of(suggested))
    table["wrong_probability"] = beliefs.wrong
    table["candidate_classes"] = list(names[candidates.classes])
    table["candidate_scores"] = list(candidates.scores)
    table["image_row"] = training.rows
    with replacing(folder.scores) as temporary:
        table.to_parquet(temporary, index=False, row_group_size=SCORES_ROW_GROUP)


def write_map(
    stage: Stage,
    folder: RunFolder,
    trained: Trained,
    evaluation: Evaluation,
    beliefs: NoisePosterior,
    training: LabeledImages,
    validation: LabeledImages,
) -> None:
    """Write embedding.parquet, row for row beside scores.parquet: `x` and `y` on the map, and the validation images most
    like the image, `near_given` of its given label and `near_suggested` of the suggested one (rows of the decoded split)."""
    artifact = stage.workspace.artifact("map", digest(trained.key, training.key(), validation.key(), stage.config.mirror))
    if not artifact.exists():
        stage.report(Progress("map", 0, 1, "fit", None, 0.0, 0.0))
        batches = read_batches(validation.images, np.arange(len(validation)), HEAD_BATCH, stage.device)
        references = torch.cat([predict(trained.model, batch)[0].half().cpu() for _, batch in batches])
        suspicion = np.argsort(np.argsort(-beliefs.wrong, kind="stable"))
        coordinates = embed(evaluation.features, suspicion, stage.config.seed)
        with replacing(artifact) as temporary:
            save_file({"coordinates": coordinates, "references": references.numpy()}, temporary)
    tensors = load_file(artifact)
    table = pd.DataFrame(tensors["coordinates"], columns=["x", "y"])
    for name, labels in (("near_given", training.labels), ("near_suggested", beliefs.candidates.best())):
        found = nearest(evaluation.features, labels, tensors["references"], validation.labels, EVIDENCE_IMAGES, stage.device)
        table[name] = list(np.where(found < 0, -1, validation.rows[found]))
    with replacing(folder.embedding) as temporary:
        table.to_parquet(temporary, index=False, row_group_size=SCORES_ROW_GROUP)


def write_figures(
    stage: Stage, folder: RunFolder, beliefs: NoisePosterior, training: LabeledImages, validation: LabeledImages
) -> None:
    """Write diagnostics.parquet (see `engine.diagnostics.figures`), checkpoint by checkpoint; those measured before are read."""
    config = stage.config
    judged = figures.judged_by_truth(training)
    if judged is None:
        validation, judged = figures.canaries(validation, beliefs.transition, config.seed)
        if not judged.wrong.any():
            stage.note("The figures were left out: hardly any label seems to be wrong, so there is nothing to measure.")
            return
        stage.note("There are no true labels: the figures are measured on validation images with labels flipped on purpose.")
    flat = "lpf-sgd" if config.optimizer == "erm" else config.optimizer
    minima = {phase: validation_minimum(stage, name, training, validation) for phase, name in (("erm", "erm"), ("flat", flat))}
    checkpoints = [("pretrain", minima["flat"], s) for s in minima["flat"].snapshots.get("pretrain", ())]
    checkpoints += [(phase, trained, s) for phase, trained in minima.items() for s in trained.snapshots["minimum"]]
    rows = figures.evenly(len(validation), figures.VALIDATION_IMAGES)
    context = TrajectoryContext(
        copy.deepcopy(minima["flat"].model), (), judged.images, judged.labels, SelectedImages(validation.images, rows),
        validation.labels[rows], config.parameters, config.damping, config.mirror, stage.device, config.seed,
    )  # fmt: skip
    tables, started = [], time.monotonic()
    judging = hashlib.sha256(judged.labels.tobytes() + judged.wrong.tobytes()).hexdigest()
    for number, (phase, trained, snapshot) in enumerate(checkpoints):
        rate = number / max(time.monotonic() - started, 1e-9)
        left = (len(checkpoints) - number) / rate if number else 0.0
        stage.report(Progress("figures", number, len(checkpoints), "checkpoint", None, 0.0, left))
        key = digest(
            snapshot.path.name,
            validation.key(),
            judging,
            config.parameters,
            config.curvature,
            config.damping,
            config.mirror,
            phase,
        )
        artifact = stage.workspace.artifact("figure", key).with_suffix(".parquet")
        if not artifact.exists():
            found = [figures.checkpoint_rows(context, judged, phase, snapshot, config.curvature)]
            if phase != "pretrain" and snapshot is trained.snapshots["minimum"][-1]:
                found.append(figures.landscape_rows(context, phase, snapshot))
            with replacing(artifact) as temporary:
                pd.concat(found, ignore_index=True).to_parquet(temporary, index=False)
        tables.append(pd.read_parquet(artifact))
    with replacing(folder.diagnostics) as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)


def _named(labels: np.ndarray, images: LabeledImages) -> "pd.Categorical[str]":
    return pd.Categorical.from_codes(labels.tolist(), pd.Index(images.class_names))


def _image_report(title: str, report: Report) -> Callable[[int, int], None]:
    started = time.monotonic()

    def image_report(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        report(Progress(title, done, total, "image", None, rate, (total - done) / max(rate, 1e-9)))

    return image_report


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
