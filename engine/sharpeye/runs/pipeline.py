"""A run from its configuration to scores.parquet, stage by stage.

A stage whose artifact exists is not computed again.
"""

import copy
import platform
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file

from sharpeye.config import VERSION, RunConfig
from sharpeye.data.dataset import LabeledImages, ingest, natural_size
from sharpeye.data.load import load_splits, open_sources
from sharpeye.data.records import Source
from sharpeye.data.tables import read_table
from sharpeye.diagnostics.metrics import label_accuracy, quality
from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.influence.base import (
    Candidates,
    MinimumKind,
    MinimumMethod,
    Scores,
    ScoringContext,
    TrajectoryMethod,
)
from sharpeye.influence.methods import TRAJECTORY_METHODS, loss_posterior, select_methods
from sharpeye.influence.noise_posterior import REFINED_RELIANCE, RELIANCE, NoisePosterior
from sharpeye.influence.trajectory import TrajectoryContext
from sharpeye.progress import Progress, Report, image_report, timed
from sharpeye.runs.artifacts import cached
from sharpeye.runs.cluster import connected
from sharpeye.runs.context import Execution, Note, RunContext
from sharpeye.runs.diagnosis import ScoredRun, write_canaries, write_figures
from sharpeye.runs.embedding import embedded
from sharpeye.runs.findings import ImageFindings, image_findings
from sharpeye.runs.folds import evaluate_folds
from sharpeye.runs.map import references_of, write_map
from sharpeye.runs.minimum import validation_minima
from sharpeye.runs.network_folds import evaluate_network_folds
from sharpeye.runs.networks import Minimum, TrainedStage
from sharpeye.runs.result import DecodedImages, MethodResult, RunResult
from sharpeye.runs.scores import ScoreColumns, ranks_of, write_scores
from sharpeye.runs.scoring import evaluate_minima
from sharpeye.runs.stages import CANARIES, DECODE, FIGURES, minima_of, score_stage, stages_of
from sharpeye.runs.store import RunRow, describe_dataset, store
from sharpeye.runs.submission import identify
from sharpeye.runs.workspace import RunFolder, Workspace
from sharpeye.specs import NoValidation, TrustedList
from sharpeye.training.budgets import ENSEMBLES, EnsemblePlan
from sharpeye.training.devices import peak_memory_mb, select_device, watched_memory
from sharpeye.training.models import input_size

LEAST_PROBABILITY = 1e-3
# Classes of highest posterior that are kept of each image.
LIKELY = 10
SHOWN_MEASURES = ("width", "height", "brightness", "sharpness")


@dataclass(frozen=True)
class TrajectoryInputs:
    """All that decides what a classical method makes of the network trained on the given labels."""

    method: str
    trained: TrainedStage
    training: LabeledImages
    validation: LabeledImages
    parameters: str
    damping: float
    mirror: bool
    seed: int
    ensemble: EnsemblePlan


@dataclass(frozen=True)
class MethodScores:
    """Scores of a method, and what they cost in seconds and at most in memory."""

    scores: Scores
    seconds: float
    memory_mb: float


def execute(
    config: RunConfig, row: RunRow, workspace: Workspace, device_name: str, report: Report, note: Note
) -> RunResult:
    """Compute a run, or finish one that was interrupted.

    Args:
        config: of the run.
        row: the run in the store.
        workspace: where it is kept.
        device_name: where to compute it.
        report: called as it goes on.
        note: called with what the user should know.

    Raises:
        InputError: whatever is wrong with the input.
    """
    # Only where a cluster is wanted is Ray needed.
    with connected(config.cluster, note) if config.cluster else nullcontext() as cluster:
        execution = Execution(select_device(device_name), report, note, cluster)
        return compute(RunContext(config, workspace, execution), row)


def compute(context: RunContext, row: RunRow) -> RunResult:
    """Compute a run, or finish it; see `execute`."""
    config, execution = context.config, context.execution
    started = time.monotonic()
    stage_seconds: dict[str, float] = {}
    stages = stages_of(config)
    reported = stages_only(stages, timed(execution.report, stage_seconds))
    context = replace(context, execution=replace(execution, report=reported))
    methods = select_methods(config)
    training, validation = load(context, row)
    judged = {kind: judge(context, kind, training, validation) for kind in minima_of(config)}
    some = next(iter(judged.values()))
    results: dict[str, MethodScores] = {}
    for method in methods:
        if isinstance(method, TrajectoryMethod):
            results[method.name] = classical_scores(context, method, some.minima[-1], training, validation)
        else:
            results[method.name] = minimum_scores(method, judged[method.minimum].scoring)
    first = methods[0]
    ranking = judged[first.minimum] if isinstance(first, MinimumMethod) else some
    beliefs = loss_posterior(ranking.scoring)
    folder = context.workspace.run(row.id)
    scores = {name: result.scores for name, result in results.items()}
    features = ranking.scoring.evaluation.features
    found = image_findings(context, training, features)
    write_scores(folder.scores, score_columns(training, scores, beliefs, found))
    write_transition(folder, training, beliefs)
    seconds = sum(one.scoring.evaluation.seconds for one in judged.values())
    passes = sum(max(len(one.minima), 1) for one in judged.values())
    network = ranking.minima[-1] if ranking.minima else None
    references = references_of(context, network, beliefs, training, validation)
    result = RunResult(
        run=row.id,
        version=VERSION,
        n=len(training),
        classes=len(training.class_names),
        seconds=round(time.monotonic() - started, 3),
        stage_seconds={name: round(spent, 1) for name, spent in stage_seconds.items()},
        images_per_second=round(len(training) * passes / seconds, 1),
        device=_device_name(context.execution.device),
        peak_memory_mb=peak_memory_mb(),
        expected_wrong=round(beliefs.expected_wrong, 1),
        expected_wrong_interval=(round(beliefs.interval[0], 1), round(beliefs.interval[1], 1)),
        label_accuracy=label_accuracy(training.labels, beliefs.candidates, training.true_labels),
        ranked_by=first.name,
        skipped=len(training.skipped) + len(validation.skipped),
        methods={
            name: MethodResult(
                **asdict(quality(one.scores, training.labels, training.true_labels)),
                score_seconds=round(one.seconds, 3),
                memory_mb=one.memory_mb,
            )
            for name, one in results.items()
        },
        scores=str(folder.scores),
        classes_in_order=training.class_names,
        images=DecodedImages(training.folder.name, references.images.folder.name, len(validation) > 0),
    )
    with replacing(folder.result) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    scored = ScoredRun(folder, beliefs, training, validation)
    write_map(context, scored, features, references)
    if CANARIES in stages:
        write_canaries(context, scored)
    if FIGURES in stages:
        write_figures(context, scored)
    return result


@dataclass(frozen=True)
class Judged:
    """The training set at validation minima of one kind.

    Attributes:
        scoring: what methods are given.
        minima: the networks; empty where heads are cross-fitted on features, and of cross-fitted networks the
            first alone.
    """

    scoring: ScoringContext
    minima: tuple[Minimum, ...]


def judge(
    context: RunContext, kind: MinimumKind, training: LabeledImages, validation: LabeledImages
) -> Judged:
    """The training set at validation minima of a kind."""
    config = context.config
    if config.on_features:
        scoring = evaluate_folds(context, kind, training, validation)
        return Judged(scoring, ())
    if isinstance(config.data.validation, NoValidation):
        scoring, network = evaluate_network_folds(
            context, kind, training, on_frozen_features(context, training)
        )
        return Judged(scoring, (network,))
    networks = validation_minima(context, "erm" if kind == "erm" else config.optimizer, training, validation)
    evaluation = evaluate_minima(context, kind, networks, training, validation)
    scoring = ScoringContext(
        training.labels, len(training.class_names), evaluation, RELIANCE, prior=validation.class_shares()
    )
    if len(networks) > 1:
        scoring = replace(scoring, reliance=REFINED_RELIANCE, temperature=1.0)
    return Judged(scoring, tuple(networks))


def on_frozen_features(context: RunContext, training: LabeledImages) -> LabeledImages:
    """The training set with features, under the frozen network whose heads say what is believed of its
    labels, in the place of pixels.

    Raises:
        InputError: they cannot be had, or the images changed since they were read.
    """
    inside = replace(context, config=context.config.on_frozen_features())
    again, _ = read_splits(inside, open_sources(context.config.data))
    if again.ids.tolist() != training.ids.tolist():
        raise InputError(f"{context.config.data.train} changed while it was read: submit this run again")
    return replace(training, images=again.images)


def stages_only(stages: tuple[str, ...], report: Report) -> Report:
    """A report that accepts progress of these stages alone, so that no stage is missing in `stages_of`."""

    def report_known(step: Progress) -> None:
        if step.stage not in stages:
            raise ValueError(f"stage {step.stage!r} is not among those of this run: {', '.join(stages)}")
        report(step)

    return report_known


def load(context: RunContext, row: RunRow) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split; records what they hold and what was left out.

    Raises:
        InputError: the sources are not what they were when the run was submitted, or cannot be used.
    """
    config, folder = context.config, context.workspace.run(row.id)
    sources = open_sources(config.data)
    if identify(config, sources) != (row.id, row.dataset):
        raise InputError(
            f"{config.data.train}, its validation split or --weights changed since this run was submitted: "
            "submit it again"
        )
    training, validation = read_splits(context, sources)
    for said in dict.fromkeys((*training.notes, *validation.notes)):
        context.execution.note(said)
    with replacing(folder.config) as temporary:
        temporary.write_text(config.to_json())
    with replacing(folder.skipped) as temporary:
        pd.concat([training.skipped, validation.skipped], ignore_index=True).to_csv(temporary, index=False)
    listed = config.data.confirmed
    if isinstance(config.data.validation, TrustedList):
        listed = config.data.validation.path
    if listed is not None:
        with replacing(folder.trusted) as temporary:
            read_table(Path(listed).expanduser())[0].to_csv(temporary, index=False)
    with store(context.workspace) as connection:
        describe_dataset(connection, row.dataset, training.class_names, training.class_counts().tolist())
    return training, validation


def read_splits(
    context: RunContext, sources: tuple[Source, Source | None]
) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split of a resolved configuration, decoded, and embedded where heads are
    trained.

    Raises:
        InputError: the sources cannot be used.
    """
    config = context.config
    size = None if config.on_features else input_size(config, natural_size(sources[0]))

    def read(source: Source, limit: int | None) -> LabeledImages:
        report = image_report(DECODE, context.execution.report)
        images = ingest(source, context.workspace.decoded, size, limit, report)
        return embedded(context, source, images) if config.on_features else images

    return load_splits(config, sources, read)


def minimum_scores(method: MinimumMethod, scoring: ScoringContext) -> MethodScores:
    """Scores of a method at a validation minimum; what they cost includes the evaluation there."""
    started = time.monotonic()
    scores = method.score(scoring)
    seconds = time.monotonic() - started + scoring.evaluation.seconds
    return MethodScores(scores, seconds, scoring.evaluation.memory_mb)


def classical_scores(
    context: RunContext,
    method: TrajectoryMethod,
    minimum: Minimum,
    training: LabeledImages,
    validation: LabeledImages,
) -> MethodScores:
    """Scores of a method on the network trained on the given labels; read where they exist."""
    config = context.config
    inputs = TrajectoryInputs(
        method.name,
        minimum.stages["pretrain"],
        training,
        validation,
        config.parameters,
        config.damping,
        config.mirror,
        config.seed,
        ENSEMBLES[config.budget],
    )

    def compute(inputs: TrajectoryInputs, execution: Execution) -> MethodScores:
        execution.start(score_stage(inputs.method))
        started = time.monotonic()
        # Of this network only its kind matters: a snapshot's weights take the place of its own.
        network = copy.deepcopy(minimum.model)
        trajectory = TrajectoryContext.of(
            network,
            inputs.trained.snapshots,
            (inputs.training, inputs.validation),
            inputs.parameters,
            inputs.damping,
            inputs.mirror,
            execution.device,
            inputs.seed,
        )
        report = image_report(score_stage(inputs.method), execution.report)
        trajectory = replace(trajectory, report=report, ensemble=inputs.ensemble)
        with watched_memory(execution.device) as peak_memory:
            scores = TRAJECTORY_METHODS[inputs.method].score(trajectory)
            return MethodScores(scores, time.monotonic() - started, peak_memory())

    result = cached(context, f"scores-{method.name}", inputs, compute, _save_scores, _load_scores)
    candidates = result.scores.candidates if config.candidates else None
    return MethodScores(Scores(result.scores.influence, candidates), result.seconds, result.memory_mb)


def _save_scores(result: MethodScores, path: Path) -> None:
    tensors = {
        "influence": result.scores.influence,
        "seconds": np.array(result.seconds),
        "memory_mb": np.array(result.memory_mb),
    }
    if result.scores.candidates is not None:
        candidates = result.scores.candidates
        tensors |= {"classes": np.ascontiguousarray(candidates.classes), "scores": candidates.scores}
    save_file(tensors, path)


def _load_scores(path: Path) -> MethodScores:
    tensors = load_file(path)
    candidates = Candidates(tensors["classes"], tensors["scores"]) if "classes" in tensors else None
    scores = Scores(tensors["influence"], candidates)
    return MethodScores(scores, float(tensors["seconds"]), float(tensors["memory_mb"]))


def score_columns(
    training: LabeledImages, scores: dict[str, Scores], beliefs: NoisePosterior, found: ImageFindings
) -> ScoreColumns:
    """The table of a run's scores; the first method ranks, the noise posterior suggests labels."""
    first = next(iter(scores.values()))
    candidates = first.candidates or beliefs.candidates
    # What stands in the validation split under another label is wrong for certain.
    certain = training.trusted >= 0
    suggested = np.where(certain, training.trusted, beliefs.candidates.best())
    likely, probabilities = likely_classes(training, beliefs)
    return ScoreColumns(
        id=training.ids,
        given_label=_named(training.labels, training),
        true_label=None if training.true_labels is None else _named(training.true_labels, training),
        influence={name: one.influence for name, one in scores.items()},
        rank=ranks_of(first.influence, certain),
        suggested_label=_named(suggested, training),
        confidence=np.where(certain, 1.0, np.exp(-beliefs.candidates.scores.min(1))),
        wrong_probability=np.where(certain, 1.0, beliefs.wrong),
        likely_labels=np.array(training.class_names, dtype=object)[likely],
        likely_probabilities=probabilities,
        candidate_classes=np.array(training.class_names, dtype=object)[candidates.classes],
        candidate_scores=candidates.scores,
        image_row=training.rows,
        findings=found.findings,
        duplicate_group=found.duplicate_group,
        outlier_distance=found.outlier_distance,
        **{name: found.measures[name].to_numpy() for name in SHOWN_MEASURES},
    )


def likely_classes(training: LabeledImages, beliefs: NoisePosterior) -> tuple[np.ndarray, np.ndarray]:
    """The LIKELY classes of highest noise posterior of each image, the given one among them, best first, and
    that posterior, (N, k) each. What stands in the validation split under another label has that label."""
    classes, probabilities = beliefs.candidates.classes, np.exp(-beliefs.candidates.scores)
    given, certain = training.labels[:, None], training.trusted[:, None]
    # The given class stays, wherever it is in the order.
    order = np.argsort(-(probabilities + 2 * (classes == given)), axis=1, kind="stable")[:, :LIKELY]
    classes, probabilities = (np.take_along_axis(part, order, 1) for part in (classes, probabilities))
    unlisted = (certain[:, 0] >= 0) & ~(classes == certain).any(1)
    classes[unlisted, -1] = training.trusted[unlisted]
    probabilities = np.where(certain >= 0, classes == certain, probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    classes, probabilities = (np.take_along_axis(part, order, 1) for part in (classes, probabilities))
    return classes, probabilities.astype(np.float32)


def write_transition(folder: RunFolder, training: LabeledImages, beliefs: NoisePosterior) -> None:
    """Write transition.parquet: a row for each pair of a `true_label` and a `given_label` with T[t, y]
    worth showing."""
    true, given = np.nonzero(beliefs.transition >= LEAST_PROBABILITY)
    columns = {"true_label": _named(true, training), "given_label": _named(given, training)}
    table = pd.DataFrame({**columns, "probability": beliefs.transition[true, given]})
    with replacing(folder.transition) as temporary:
        table.to_parquet(temporary, index=False)


def _named(labels: np.ndarray, images: LabeledImages) -> "pd.Categorical[str]":
    return pd.Categorical.from_codes(labels.tolist(), pd.Index(images.class_names))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
