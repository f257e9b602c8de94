"""The Learn page's experiment: a small network on a part of the packaged demo, for one way to reach the validation minimum.

    python -m engine.diagnostics.lesson WORKSPACE OPTIMIZER STRENGTH

A process of its own, some seconds long; what it found is a file, kept for the next time.
"""

import json
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.files import replacing
from engine.runs.workspace import Workspace

TRAINING_IMAGES = 1500
VALIDATION_IMAGES = 500
WIDTHS = (16, 32, 64)
SEED = 0
SHOWN = 12
SLICE_REACH = 0.6

Lesson = dict[str, Any]


def lesson_path(workspace: Workspace, optimizer: str, strength: float) -> Path:
    """Where the experiment of an optimizer (`erm`, `sam`, `lpf-sgd`) and its ρ or σ is kept."""
    return workspace.lessons / f"{optimizer}-{strength:g}.json"


def start_lesson(workspace: Workspace, optimizer: str, strength: float) -> None:
    """Start the experiment in a process of its own."""
    workspace.lessons.mkdir(parents=True, exist_ok=True)
    with (workspace.lessons / "log.txt").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "engine.diagnostics.lesson", str(workspace.root), optimizer, f"{strength:g}"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def read_lesson(workspace: Workspace, optimizer: str, strength: float) -> Lesson | None:
    """What the experiment found, or `{"error": …}`; None while it is not there."""
    try:
        found: Lesson = json.loads(lesson_path(workspace, optimizer, strength).read_text())
    except (OSError, ValueError):
        return None
    return found


def compute(workspace: Workspace, optimizer: str, strength: float) -> Lesson:
    """Train to the validation minimum and measure what the lesson shows of it.

    Returns:
        `checkpoints` along the way (epoch, sharpness, gradient, AUC of new and of classical influence), `histogram` (log₁₀
        influence of right and of wrong labels), `slice` (risk along a random direction), `suspects` (row of the picture,
        given label, candidate scores), `leverage` (AUC with and without it, and the pictures first in either ranking).
    """
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score

    from engine.curvature.fit import fit_curvature
    from engine.data.dataset import ingest
    from engine.data.sources import SourceOptions, open_source
    from engine.diagnostics import sharpness
    from engine.diagnostics.figures import validation_risk
    from engine.diagnostics.landscape import directions
    from engine.influence.base import ScoringContext
    from engine.influence.evaluation import evaluate
    from engine.influence.methods import METHODS
    from engine.influence.noise_posterior import RELIANCE
    from engine.influence.trajectory import TrajectoryContext
    from engine.training.models import small_network
    from engine.training.trainer import TrainingPlan, load_snapshot, snapshots, train

    device = torch.device("cpu")
    training, validation = (
        ingest(open_source("demo", SourceOptions(), split), workspace.decoded, 28, limit)
        for split, limit in (("train", TRAINING_IMAGES), ("validation", VALIDATION_IMAGES))
    )
    assert training.true_labels is not None
    torch.manual_seed(SEED)
    model = small_network(len(training.class_names), WIDTHS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stage(name: str, images: Any, plan: TrainingPlan) -> Any:
        checkpoint = workspace.lessons / f"{name}.safetensors"
        train(
            model, images.images, images.labels, plan, stage=name, seed=SEED, device=device, checkpoint=checkpoint, report=lambda p: None
        )  # fmt: skip
        return snapshots(plan, len(images), checkpoint)

    [pretrained] = stage(
        "pretrain", training, TrainingPlan(epochs=5, learning_rate=0.2, batch_size=64, label_smoothing=0.1, snapshots=1)
    )
    load_snapshot(model, pretrained, device)
    plan = TrainingPlan(
        epochs=10, optimizer=optimizer, learning_rate=0.05, batch_size=64, rho=strength, sigma=strength, snapshots=3
    )
    way = [pretrained, *stage(f"{optimizer}-{strength:g}", validation, plan)]

    wrong = training.labels != training.true_labels
    context = TrajectoryContext(
        model,
        (),
        training.images,
        training.labels,
        validation.images,
        validation.labels,
        "head",
        1.0,
        False,
        device,
        SEED,
    )
    checkpoints, seen = [], None
    for epoch, snapshot in enumerate(way):
        here = replace(context, snapshots=(snapshot,))
        at = here.trained()
        curvature = fit_curvature(at, "kfac", "head", validation.images, 1.0, device, SEED)
        evaluation = evaluate(
            at, curvature, training.images, training.labels, parameters="head", all_candidates=True, mirrored=False, device=device
        )
        seen = ScoringContext(training.labels, len(training.class_names), evaluation, RELIANCE)
        risk, parameters = validation_risk(here, at)
        with torch.no_grad():
            value = float(risk(parameters))
        checkpoints.append({
            "epoch": 0 if epoch == 0 else snapshot.epoch, "risk": value,
            "sharpness": sharpness.noisy_risk(risk, parameters, 0.2) - value,
            "gradient": sharpness.norm(sharpness.gradient(risk, parameters)),
            "new": float(roc_auc_score(wrong, METHODS["fvm"].score(seen).influence)),
            "classical": float(roc_auc_score(wrong, METHODS["datainf"].score(here).influence)),
        })  # fmt: skip
    assert seen is not None
    influence = METHODS["fvm"].score(seen)
    plain = METHODS["fvm_normalized"].score(seen)
    assert influence.candidates is not None
    bins = np.linspace(-6, 4, 41)
    histogram = {
        kind: (np.histogram(np.log10(influence.influence[chosen].clip(1e-30)).clip(-6, 4), bins)[0] / chosen.sum()).tolist()
        for kind, chosen in (("right", ~wrong), ("wrong", wrong))
    }
    direction = directions(parameters, SEED)[0]
    places = np.linspace(-SLICE_REACH, SLICE_REACH, 21)
    with torch.no_grad():
        risks = [float(risk(sharpness.moved(parameters, direction, float(x)))) for x in places]
    first = {name: np.argsort(-scores.influence)[:SHOWN] for name, scores in (("with", influence), ("without", plain))}
    return {
        "decoded": training.folder.name,
        "classes": list(training.class_names),
        "checkpoints": checkpoints,
        "histogram": {"x": ((bins[1:] + bins[:-1]) / 2).tolist(), **histogram},
        "slice": {"x": places.tolist(), "risk": risks},
        "suspects": [
            {"row": int(training.rows[i]), "given": int(training.labels[i]), "scores": influence.candidates.scores[i].tolist()}
            for i in first["with"]
        ],
        "leverage": {
            name: {
                "auc": float(roc_auc_score(wrong, scores.influence)),
                "rows": training.rows[first[name]].tolist(),
                "wrong": wrong[first[name]].tolist(),
            }
            for name, scores in (("with", influence), ("without", plain))
        },
    }


def main(workspace: Workspace, optimizer: str, strength: float) -> None:
    """Compute the experiment and write it down; what goes wrong is written down too."""
    try:
        found = compute(workspace, optimizer, strength)
    except Exception as error:  # whatever it was, the page says so
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    with replacing(lesson_path(workspace, optimizer, strength)) as temporary:
        temporary.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Workspace(Path(sys.argv[1])), sys.argv[2], float(sys.argv[3]))
