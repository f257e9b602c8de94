"""The stages that measure rather than score: the figures of the Diagnostics page, and quality without true
labels."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from sharpeye.data.dataset import LabeledImages, SelectedImages
from sharpeye.diagnostics import checkpoints
from sharpeye.diagnostics.checkpoints import KnownLabels
from sharpeye.files import replacing
from sharpeye.influence import canaries
from sharpeye.influence.base import Candidates, ScoringContext
from sharpeye.influence.evaluation import joined_evaluation
from sharpeye.influence.methods import MINIMUM_METHODS
from sharpeye.influence.noise_posterior import RELIANCE, NoisePosterior
from sharpeye.influence.tracin import tracin_at
from sharpeye.influence.trajectory import TrajectoryContext
from sharpeye.progress import Progress
from sharpeye.runs.artifacts import cached, load_array, save_array
from sharpeye.runs.context import Execution, RunContext
from sharpeye.runs.estimates import CanaryEstimates
from sharpeye.runs.folds import evaluate_held
from sharpeye.runs.minimum import first_minimum, validation_minima
from sharpeye.runs.networks import Minimum
from sharpeye.runs.scoring import evaluate_minima
from sharpeye.runs.stages import CANARIES, FIGURES
from sharpeye.runs.workspace import RunFolder
from sharpeye.training.budgets import EnsemblePlan
from sharpeye.training.trainer import Snapshot

# Methods whose score under another label can be told from one pass over the canaries.
ESTIMATED = ("fvm", "fvm_normalized", "val_loss", "val_loss_posterior", "margin")
# Of `gex`, which is trained at every checkpoint of the figures.
ENSEMBLE = EnsemblePlan(members=8, steps=4)


@dataclass(frozen=True)
class ScoredRun:
    """A run that has scores: its folder, its images, and what is believed of their labels."""

    folder: RunFolder
    beliefs: NoisePosterior
    training: LabeledImages
    validation: LabeledImages


@dataclass(frozen=True)
class FigureInputs:
    """All that decides what is measured at one checkpoint.

    Attributes:
        phase: `pretrain`, `erm` or `flat`.
        snapshot: the checkpoint.
        before: the checkpoints on the way to it.
        landscape: whether the risk around it is drawn.
        validation: gives gradients, curvature and sharpness.
        known: labels that are ranked, as arrays.
        training: what the network was trained on.
        parameters: what the influence is taken over.
        curvature: kind of curvature of the new influence.
        damping: relative to the mean eigenvalue.
        mirror: whether the mean over mirrored views is taken.
        seed: of what is drawn at random.
    """

    phase: str
    snapshot: Snapshot
    before: tuple[Snapshot, ...]
    landscape: bool
    validation: LabeledImages
    known: KnownLabels
    training: LabeledImages
    parameters: str
    curvature: str
    damping: float
    mirror: bool
    seed: int


def write_figures(context: RunContext, scored: ScoredRun) -> None:
    """Write diagnostics.parquet (see `sharpeye.diagnostics.checkpoints`).

    Checkpoints measured before are read.
    """
    config, execution, beliefs = context.config, context.execution, scored.beliefs
    training, validation = scored.training, scored.validation
    known = checkpoints.labels_known_by_truth(training)
    if known is None:
        validation, known = checkpoints.labels_of_canaries(validation, beliefs.transition, config.seed)
        if len(np.unique(validation.labels)) < 2:
            execution.note(
                "The figures were left out: without true labels they take two validation images of each "
                "class."
            )
            return
        if not known.wrong.any():
            execution.note(
                "The figures were left out: hardly any label seems to be wrong, so there is nothing to "
                "measure."
            )
            return
        execution.note(
            "There are no true labels: the figures are measured on validation images with labels flipped on "
            "purpose."
        )
    flat = "lpf-sgd" if config.optimizer == "erm" else config.optimizer
    inside = context.within(FIGURES)
    minima = {
        phase: first_minimum(inside, optimizer, training, validation)
        for phase, optimizer in (("erm", "erm"), ("flat", flat))
    }
    stages = minima["flat"].stages
    pretrained = stages["pretrain"].snapshots if "pretrain" in stages else ()
    ways = {"pretrain": pretrained} | {
        phase: (*pretrained, *minimum.stages["minimum"].snapshots) for phase, minimum in minima.items()
    }
    way = [
        (phase, snapshots[: number + 1])
        for phase, snapshots in ways.items()
        for number in range(0 if phase == "pretrain" else len(pretrained), len(snapshots))
    ]
    tables, started = [], time.monotonic()
    for number, (phase, (*before, snapshot)) in enumerate(way):
        rate = number / max(time.monotonic() - started, 1e-9)
        left = (len(way) - number) / rate if number else 0.0
        execution.report(Progress(FIGURES, number, len(way), "checkpoint", seconds_left=left))
        ends = phase != "pretrain" and snapshot is minima[phase].stages["minimum"].snapshots[-1]
        inputs = FigureInputs(
            phase,
            snapshot,
            tuple(before),
            ends,
            validation,
            known,
            training,
            config.parameters,
            config.curvature,
            config.damping,
            config.mirror,
            config.seed,
        )
        tables.append(_measured_at(context, inputs, minima["flat"]))
    with replacing(scored.folder.diagnostics) as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)


def _measured_at(context: RunContext, inputs: FigureInputs, minimum: Minimum) -> pd.DataFrame:
    """What is measured at one checkpoint."""

    def measure(inputs: FigureInputs, execution: Execution) -> pd.DataFrame:
        validation, training = inputs.validation, inputs.training
        sample = checkpoints.evenly(len(training), checkpoints.TRAINING_IMAGES)
        rows = checkpoints.evenly(len(validation), checkpoints.VALIDATION_IMAGES)
        # Of this network only its kind matters: a snapshot's weights take the place of its own.
        network = copy.deepcopy(minimum.model)
        trajectory = TrajectoryContext(
            network,
            (),
            inputs.known.images,
            inputs.known.labels,
            SelectedImages(validation.images, rows),
            validation.labels[rows],
            inputs.parameters,
            inputs.damping,
            inputs.mirror,
            execution.device,
            inputs.seed,
            trained_on=(SelectedImages(training.images, sample), training.labels[sample]),
            ensemble=ENSEMBLE,
        )
        at = inputs.phase, inputs.snapshot
        traced = _traced(context, inputs, trajectory)
        tables = [checkpoints.checkpoint_rows(trajectory, inputs.known, *at, inputs.curvature, traced)]
        if inputs.landscape:
            tables.append(checkpoints.landscape_rows(trajectory, *at))
        return pd.concat(tables, ignore_index=True)

    def save(table: pd.DataFrame, path: Path) -> None:
        table.to_parquet(path, index=False)

    return cached(context, "figure", inputs, measure, save, pd.read_parquet, ".parquet")


@dataclass(frozen=True)
class TracedInputs:
    """All that decides one checkpoint's part of TracIn on labels that are ranked."""

    snapshot: Snapshot
    validation: LabeledImages
    known: KnownLabels
    parameters: str
    mirror: bool


def _traced(context: RunContext, inputs: FigureInputs, trajectory: TrajectoryContext) -> np.ndarray:
    """TracIn of the ranked labels over the checkpoints up to one, (N,); each part is computed once."""
    labels = inputs.known.labels
    total = np.zeros(len(labels))
    for snapshot in (*inputs.before, inputs.snapshot):
        part = TracedInputs(snapshot, inputs.validation, inputs.known, inputs.parameters, inputs.mirror)

        def compute(part: TracedInputs, execution: Execution) -> np.ndarray:
            return tracin_at(trajectory, part.snapshot)[np.arange(len(labels)), labels]

        total += cached(context, "traced", part, compute, save_array, load_array)
    return total


def write_canaries(context: RunContext, scored: ScoredRun) -> None:
    """Write canaries.json: each method's quality, estimated on the validation split (see
    `sharpeye.influence.canaries`)."""
    config, beliefs = context.config, scored.beliefs
    training, validation = scored.training, scored.validation
    names = [name for name in config.methods if name in ESTIMATED]
    if config.optimizer == "erm" or not config.candidates or not names:
        return
    if validation.class_counts().max() < canaries.FOLDS:
        context.execution.note(
            f"Quality was not estimated without true labels: that takes {canaries.FOLDS} validation images "
            "of a class."
        )
        return
    scoring = cross_fitted(context, training, validation)
    energies = Candidates(scoring.evaluation.classes, scoring.evaluation.losses)
    posterior = canaries.posteriors(energies, beliefs)
    estimates = {}
    for name in names:
        if name == "val_loss_posterior":
            scores = Candidates(energies.classes, 1 - np.einsum("bii->bi", posterior))
        else:
            candidates = MINIMUM_METHODS[name].score(scoring).candidates
            assert candidates is not None
            scores = candidates
        estimated = canaries.estimate(scores, validation.labels, beliefs.transition)
        if estimated is not None:
            estimates[name] = estimated
    reliable = canaries.reliability(posterior, energies, validation.labels, beliefs.transition)
    with replacing(scored.folder.canaries) as temporary:
        temporary.write_bytes(msgspec.json.encode(CanaryEstimates(len(validation), estimates, reliable)))


def cross_fitted(context: RunContext, training: LabeledImages, validation: LabeledImages) -> ScoringContext:
    """The validation split as methods are given it, each fold at the flat minimum of the others."""
    config = context.config
    fold = canaries.folds(validation.labels, config.seed)
    parts, order = [], []
    for number in range(canaries.FOLDS):
        rest, held = validation.subset(fold != number), validation.subset(fold == number)
        inside = context.within(CANARIES, f"{number + 1} of {canaries.FOLDS}")
        if config.on_features:
            parts.append(evaluate_held(inside, "flat", training, rest, held))
        else:
            minima = validation_minima(inside, config.optimizer, training, rest)
            parts.append(evaluate_minima(inside, "flat", minima, held, rest))
        order.append(np.flatnonzero(fold == number))
    evaluation = joined_evaluation(parts, np.argsort(np.concatenate(order)))
    return ScoringContext(validation.labels, len(training.class_names), evaluation, RELIANCE)
