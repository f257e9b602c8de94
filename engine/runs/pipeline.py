"""A run from its configuration to scores.parquet, stage by stage; a stage whose artifact exists is not computed again."""

import copy
import json
import platform
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file

from engine.config import RunConfig, digest
from engine.curvature.linearization import HEAD_BATCH, predict
from engine.data.dataset import LabeledImages
from engine.data.load import load_splits, open_sources
from engine.diagnostics.embedding import embed, nearest
from engine.diagnostics.metrics import label_accuracy, quality
from engine.errors import InputError
from engine.files import replacing
from engine.influence.base import Candidates, Evaluation, Method, Scores, ScoringContext
from engine.influence.methods import loss_posterior, select_methods
from engine.influence.noise_posterior import NoisePosterior
from engine.influence.trajectory import TrajectoryContext
from engine.progress import Progress, Report, timed
from engine.runs.diagnosis import write_canaries, write_figures
from engine.runs.minimum import Trained, evaluate_minima, validation_minima
from engine.runs.stage import Note, Stage, image_report
from engine.runs.store import RunRow, describe_dataset, store
from engine.runs.submission import identify
from engine.runs.workspace import RunFolder, Workspace
from engine.training.batches import read_batches
from engine.training.devices import peak_memory_mb, select_device, watched_memory
from engine.training.models import input_size

EVIDENCE_IMAGES = 4
LEAST_PROBABILITY = 1e-3
# Small, so that the app reads one image's candidate scores without the others'.
SCORES_ROW_GROUP = 10_000

Result = dict[str, Any]


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
    stage_seconds: dict[str, float] = {}
    stage = Stage(config, workspace, select_device(device_name), timed(report, stage_seconds), note)
    methods = select_methods(config)
    training, validation = load(stage, row)
    minima: dict[str, tuple[list[Trained], ScoringContext]] = {}
    # The classical methods alone need no validation minimum, yet suggestions, confidence and the map do.
    for name in sorted({method.minimum for method in methods} - {"trained"}) or ["erm" if config.optimizer == "erm" else "flat"]:
        found = validation_minima(stage, "erm" if name == "erm" else config.optimizer, training, validation)
        evaluation = evaluate_minima(stage, f"score ({name})", found, training, validation)
        minima[name] = found, ScoringContext(training.labels, len(training.class_names), evaluation, found[-1].reliance)
    main, context = minima[methods[0].minimum] if methods[0].minimum in minima else next(iter(minima.values()))

    scores: dict[str, Scores] = {}
    summaries: dict[str, Result] = {}
    for method in methods:
        if method.minimum == "trained":
            scores[method.name], seconds, memory = classical_scores(stage, method, main[-1], training, validation)
        else:
            clock = time.monotonic()
            seen = minima[method.minimum][1]
            scores[method.name] = method.score(seen)
            seconds, memory = time.monotonic() - clock + seen.evaluation.seconds, seen.evaluation.memory_mb
        measured = quality(scores[method.name], training.labels, training.true_labels)
        summaries[method.name] = {**measured, "score_seconds": round(seconds, 3), "memory_mb": memory}
    beliefs = loss_posterior(context)
    folder = workspace.run(row.id)
    write_scores(folder, training, scores, beliefs)
    write_transition(folder, training, beliefs)
    seconds = sum(seen.evaluation.seconds for _, seen in minima.values())
    passes = sum(len(found) for found, _ in minima.values())
    result: Result = {
        "run": row.id,
        "n": len(training),
        "classes": len(training.class_names),
        "seconds": round(time.monotonic() - started, 3),
        "stage_seconds": {name: round(spent, 1) for name, spent in stage_seconds.items()},
        "images_per_second": round(len(training) * passes / seconds, 1),
        "device": _device_name(stage.device),
        "peak_memory_mb": peak_memory_mb(),
        "expected_wrong": round(beliefs.expected_wrong, 1),
        "expected_wrong_interval": [round(end, 1) for end in beliefs.interval],
        "label_accuracy": label_accuracy(training.labels, beliefs.candidates, training.true_labels),
        "ranked_by": methods[0].name,
        "skipped": len(training.skipped) + len(validation.skipped),
        "methods": summaries,
        "scores": str(folder.scores),
        "classes_in_order": list(training.class_names),
        "images": {"training": training.folder.name, "validation": validation.folder.name},
    }
    with replacing(folder.result) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    write_map(stage, folder, main[-1], context.evaluation, beliefs, training, validation)
    if config.figures:
        write_canaries(stage, folder, beliefs, training, validation)
        write_figures(stage, folder, beliefs, training, validation)
    return result


def load(stage: Stage, row: RunRow) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split; records what was found and what was left out.

    Raises:
        InputError: the sources are not what they were when the run was submitted, or cannot be used.
    """
    sources = open_sources(stage.config)
    if identify(stage.config, sources) != (row.id, row.dataset):
        raise InputError(
            f"{stage.config.train}, its validation split or --weights changed since this run was submitted: submit it again"
        )
    training, validation = load_splits(
        stage.config,
        sources,
        stage.workspace.decoded,
        lambda natural: input_size(stage.config.model, natural),
        image_report("decode", stage.report),
    )
    folder = stage.workspace.run(row.id)
    with replacing(folder.config) as temporary:
        temporary.write_text(stage.config.to_json())
    with replacing(folder.skipped) as temporary:
        pd.concat([training.skipped, validation.skipped], ignore_index=True).to_csv(temporary, index=False)
    with store(stage.workspace) as connection:
        describe_dataset(connection, row.dataset, training.class_names, training.class_counts().tolist())
    return training, validation


def classical_scores(
    stage: Stage, method: Method, trained: Trained, training: LabeledImages, validation: LabeledImages
) -> tuple[Scores, float, float]:
    """Scores of a method on the network trained on the given labels, how many seconds they took, and how much memory at most;
    read where they exist."""
    config = stage.config
    key = digest(trained.origins["pretrain"], validation.key(), config.parameters, config.damping, config.mirror)
    artifact = stage.workspace.artifact(f"scores-{method.name}", key)
    if not artifact.exists():
        stage.report(Progress(f"score ({method.name})", 0, 1, "fit", None, 0.0, 0.0))
        started = time.monotonic()
        context = TrajectoryContext(
            copy.deepcopy(trained.model), trained.snapshots["pretrain"], training.images, training.labels, validation.images,
            validation.labels, config.parameters, config.damping, config.mirror, stage.device, config.seed,
            image_report(f"score ({method.name})", stage.report),
        )  # fmt: skip
        with watched_memory(stage.device) as peak_memory:
            found = method.score(context)
            memory = peak_memory()
        tensors = {
            "influence": found.influence,
            "seconds": np.array(time.monotonic() - started),
            "memory_mb": np.array(memory),
        }
        if found.candidates is not None:
            tensors |= {"classes": np.ascontiguousarray(found.candidates.classes), "scores": found.candidates.scores}
        with replacing(artifact) as temporary:
            save_file(tensors, temporary)
    kept = load_file(artifact)
    candidates = Candidates(kept["classes"], kept["scores"]) if "classes" in kept and config.candidates else None
    return Scores(kept["influence"], candidates), float(kept["seconds"]), float(kept["memory_mb"])


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


def write_transition(folder: RunFolder, training: LabeledImages, beliefs: NoisePosterior) -> None:
    """Write transition.parquet: one row for every pair of a `true_label` and a `given_label` of probability T[t, y] worth showing."""
    true, given = np.nonzero(beliefs.transition >= LEAST_PROBABILITY)
    columns = {"true_label": _named(true, training), "given_label": _named(given, training)}
    with replacing(folder.transition) as temporary:
        pd.DataFrame({**columns, "probability": beliefs.transition[true, given]}).to_parquet(temporary, index=False)


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
    key = digest(trained.key, training.key(), validation.key(), stage.config.parameters, stage.config.mirror)
    artifact = stage.workspace.artifact("map", key)
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


def _named(labels: np.ndarray, images: LabeledImages) -> "pd.Categorical[str]":
    return pd.Categorical.from_codes(labels.tolist(), pd.Index(images.class_names))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
