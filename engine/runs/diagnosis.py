"""The stage that measures the figures of the Diagnostics page, checkpoint by checkpoint."""

import copy
import hashlib
import time

import pandas as pd

from engine.config import digest
from engine.data.dataset import LabeledImages, SelectedImages
from engine.diagnostics import figures
from engine.files import replacing
from engine.influence.noise_posterior import NoisePosterior
from engine.influence.trajectory import TrajectoryContext
from engine.progress import Progress
from engine.runs.minimum import validation_minimum
from engine.runs.stage import Stage
from engine.runs.workspace import RunFolder


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
