"""The stages that measure rather than score: the figures of the Diagnostics page, and quality without true labels."""

import copy
import hashlib
import json
import time
from dataclasses import asdict

import numpy as np
import pandas as pd

from engine.config import digest
from engine.data.dataset import LabeledImages, SelectedImages
from engine.diagnostics import figures
from engine.files import replacing
from engine.influence import canaries
from engine.influence.base import Candidates, Evaluation, ScoringContext
from engine.influence.methods import METHODS
from engine.influence.noise_posterior import NoisePosterior
from engine.influence.trajectory import TrajectoryContext
from engine.progress import Progress
from engine.runs.minimum import evaluate_minima, first_minimum, validation_minima
from engine.runs.stage import Stage
from engine.runs.workspace import RunFolder

# Methods whose score under another label can be told from one pass over the canaries.
ESTIMATED = ("fvm", "fvm_normalized", "val_loss", "val_loss_posterior", "margin")


def write_figures(
    stage: Stage, folder: RunFolder, beliefs: NoisePosterior, training: LabeledImages, validation: LabeledImages
) -> None:
    """Write diagnostics.parquet (see `engine.diagnostics.figures`), checkpoint by checkpoint; those measured before are read."""
    config = stage.config
    judged = figures.judged_by_truth(training)
    if judged is None:
        validation, judged = figures.judged_canaries(validation, beliefs.transition, config.seed)
        if len(np.unique(validation.labels)) < 2:
            stage.note("The figures were left out: without true labels they take two validation images of each class.")
            return
        if not judged.wrong.any():
            stage.note("The figures were left out: hardly any label seems to be wrong, so there is nothing to measure.")
            return
        stage.note("There are no true labels: the figures are measured on validation images with labels flipped on purpose.")
    flat = "lpf-sgd" if config.optimizer == "erm" else config.optimizer
    inside = stage.within("figures")
    minima = {phase: first_minimum(inside, name, training, validation) for phase, name in (("erm", "erm"), ("flat", flat))}
    checkpoints = [("pretrain", minima["flat"], s) for s in minima["flat"].snapshots.get("pretrain", ())]
    checkpoints += [(phase, trained, s) for phase, trained in minima.items() for s in trained.snapshots["minimum"]]
    rows = figures.evenly(len(validation), figures.VALIDATION_IMAGES)
    context = TrajectoryContext(
        copy.deepcopy(minima["flat"].model), (), judged.images, judged.labels, SelectedImages(validation.images, rows),
        validation.labels[rows], config.parameters, config.damping, config.mirror, stage.device, config.seed, trained_on=(training.images, training.labels),
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


def write_canaries(
    stage: Stage, folder: RunFolder, beliefs: NoisePosterior, training: LabeledImages, validation: LabeledImages
) -> None:
    """Write canaries.json: each method's detection quality, estimated on the validation split (see `engine.influence.canaries`)."""
    config = stage.config
    names = [name for name in config.methods if name in ESTIMATED]
    if config.optimizer == "erm" or not config.candidates or not names:
        return
    if validation.class_counts().max() < canaries.FOLDS:
        stage.note(f"Quality was not estimated without true labels: that takes {canaries.FOLDS} validation images of a class.")
        return
    seen = cross_fitted(stage, training, validation)
    energies = Candidates(seen.evaluation.classes, seen.evaluation.losses)
    posterior = canaries.posteriors(energies, beliefs.transition, beliefs.temperature, seen.reliance)
    found = {}
    for name in names:
        if name == "val_loss_posterior":
            scores = Candidates(energies.classes, 1 - np.einsum("bii->bi", posterior))
        else:
            candidates = METHODS[name].score(seen).candidates
            assert candidates is not None
            scores = candidates
        estimated = canaries.estimate(scores, validation.labels, beliefs.transition)
        if estimated is not None:
            found[name] = asdict(estimated)
    reliable = canaries.reliability(posterior, energies, validation.labels, beliefs.transition)
    with replacing(folder.canaries) as temporary:
        temporary.write_text(json.dumps({"images": len(validation), "methods": found, "suggestions": asdict(reliable)}))


def cross_fitted(stage: Stage, training: LabeledImages, validation: LabeledImages) -> ScoringContext:
    """The validation split as methods see it, each part at the flat minimum of the others; read where it exists."""
    config = stage.config
    fold = canaries.folds(validation.labels, config.seed)
    parts, order = [], []
    for number in range(canaries.FOLDS):
        rest, held = validation.subset(fold != number), validation.subset(fold == number)
        part = stage.within(f"canaries {number + 1} of {canaries.FOLDS}")
        minima = validation_minima(part, config.optimizer, training, rest)
        parts.append(evaluate_minima(part, "score", minima, held, rest))
        order.append(np.flatnonzero(fold == number))
    back = np.argsort(np.concatenate(order))
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])[back]
        for name in ("classes", "losses", "influence", "leverage", "features")
    }
    evaluation = Evaluation(
        **columns, seconds=sum(part.seconds for part in parts), memory_mb=max(part.memory_mb for part in parts)
    )
    return ScoringContext(validation.labels, len(training.class_names), evaluation, minima[-1].reliance)
