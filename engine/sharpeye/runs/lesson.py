"""The Learn page's experiment: a small network on a part of the packaged demo, trained in one way to the
validation minimum.

    python -P -m sharpeye.runs.lesson WORKSPACE OPTIMIZER STRENGTH

It is a process of its own, some seconds long. Its report is a file, kept for the next time.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from sharpeye.runs.reports import Advance, Report, read_report, start_report, write_report
from sharpeye.runs.workspace import ReportFolder, Workspace

TRAINING_IMAGES = 1500
VALIDATION_IMAGES = 500
WIDTHS = (16, 32, 64)
SEED = 0
SHOWN = 12
# Relative lengths of the noise under which the risk is drawn.
NOISES = tuple(0.05 * step for step in range(13))
SHARPNESS = 0.2
# w of the Newton step, from influence to the loss.
WEIGHTS = (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Checkpoint:
    """What is measured at one checkpoint.

    Attributes:
        epoch: of training on the clean images; 0 before it.
        risk: R of the validation split.
        sharpness: rise of the risk under noise.
        gradient: length of the mean validation gradient.
        new: AUC of the new influence.
        classical: AUC of classical influence, by LiSSA.
    """

    epoch: int
    risk: float
    sharpness: float
    gradient: float
    new: float
    classical: float


@dataclass(frozen=True)
class Histogram:
    """How log₁₀ influence is distributed: bin centres, and shares of right and of wrong labels."""

    x: tuple[float, ...]
    right: tuple[float, ...]
    wrong: tuple[float, ...]


@dataclass(frozen=True)
class RiskUnderNoise:
    """The mean validation risk under noise, by its length relative to each filter's."""

    x: tuple[float, ...]
    risk: tuple[float, ...]


@dataclass(frozen=True)
class Suspect:
    """A suspicious image: its row, its given label, and the score of every label."""

    row: int
    given: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Ranking:
    """A ranking: its AUC, the first rows, and whether their labels are wrong."""

    auc: float
    rows: tuple[int, ...]
    wrong: tuple[bool, ...]


@dataclass(frozen=True)
class Member:
    """The ranking by one member of the family that joins influence and the loss; w None for the loss."""

    weight: float | None
    ranking: Ranking


@dataclass(frozen=True)
class Lesson:
    """What the experiment measured.

    Attributes:
        decoded: name of the decoded images.
        classes: their names.
        checkpoints: along the way.
        histogram: of influence at the end.
        noise: the risk at the end, under noise.
        suspects: the most suspicious images.
        with_leverage: the ranking by influence.
        without_leverage: the ranking with the leverage divided out.
        family: rankings from influence (w = 0) to the loss.
    """

    decoded: str
    classes: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...]
    histogram: Histogram
    noise: RiskUnderNoise
    suspects: tuple[Suspect, ...]
    with_leverage: Ranking
    without_leverage: Ranking
    family: tuple[Member, ...]


def lesson_folder(workspace: Workspace, optimizer: str, strength: float) -> ReportFolder:
    """Where the experiment of an optimizer (`erm`, `sam`, `lpf-sgd`) and its ρ or σ is kept."""
    return workspace.lesson(f"{optimizer}-{strength:g}")


def start_lesson(workspace: Workspace, optimizer: str, strength: float) -> None:
    """Start the experiment in a process of its own."""
    folder = lesson_folder(workspace, optimizer, strength)
    start_report(folder, "sharpeye.runs.lesson", str(workspace.root), optimizer, f"{strength:g}")


def read_lesson(workspace: Workspace, optimizer: str, strength: float) -> Report[Lesson] | None:
    """The report of the experiment as it stands; None where it was not started."""
    return read_report(lesson_folder(workspace, optimizer, strength), Lesson)


def compute(workspace: Workspace, optimizer: str, strength: float, advance: Advance) -> Lesson:
    """Train to the validation minimum and measure what the lesson shows of it."""
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score

    from sharpeye.config import SourceOptions
    from sharpeye.curvature.base import Curvature
    from sharpeye.curvature.fit import fit_curvature
    from sharpeye.data.dataset import LabeledImages, ingest
    from sharpeye.data.sources import open_source
    from sharpeye.diagnostics import sharpness
    from sharpeye.diagnostics.checkpoints import validation_risk
    from sharpeye.influence.base import Scores, ScoringContext
    from sharpeye.influence.evaluation import NEWTON_WEIGHT, evaluate
    from sharpeye.influence.methods import MINIMUM_METHODS, TRAJECTORY_METHODS
    from sharpeye.influence.noise_posterior import RELIANCE
    from sharpeye.influence.trajectory import TrajectoryContext
    from sharpeye.specs import DemoSource
    from sharpeye.training.models import Classifier, small_network
    from sharpeye.training.trainer import Snapshot, TrainingPlan, load_snapshot, snapshots, train

    device = torch.device("cpu")
    training, validation = (
        ingest(open_source(DemoSource(), SourceOptions(), split), workspace.decoded, 28, limit)
        for split, limit in (("train", TRAINING_IMAGES), ("validation", VALIDATION_IMAGES))
    )
    assert training.true_labels is not None
    torch.manual_seed(SEED)
    network = small_network(len(training.class_names), WIDTHS)
    model = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def trained(name: str, images: LabeledImages, plan: TrainingPlan) -> list[Snapshot]:
        checkpoint = workspace.lessons / f"{name}.safetensors"
        train(
            model,
            images.images,
            images.labels,
            plan,
            stage=name,
            seed=SEED,
            device=device,
            checkpoint=checkpoint,
            report=lambda step: advance(step.stage, step.done, step.total),
        )
        return snapshots(plan, len(images), checkpoint)

    start = TrainingPlan(epochs=5, learning_rate=0.2, batch_size=64, label_smoothing=0.1, snapshots=1)
    [pretrained] = trained("pretrain", training, start)
    load_snapshot(model, pretrained, device)
    plan = TrainingPlan(
        epochs=10,
        optimizer=optimizer,
        learning_rate=0.05,
        batch_size=64,
        rho=strength,
        sigma=strength,
        snapshots=3,
    )
    way = [pretrained, *trained(f"{optimizer}-{strength:g}", validation, plan)]

    def scored(model: Classifier, curvature: Curvature, weight: float) -> ScoringContext:
        evaluation = evaluate(
            model,
            curvature,
            training.images,
            training.labels,
            parameters="head",
            all_candidates=True,
            mirrored=False,
            device=device,
            newton_weight=weight,
        )
        return ScoringContext(training.labels, len(training.class_names), evaluation, RELIANCE)

    def newton(weight: float) -> Scores:
        """At the end of the way."""
        return MINIMUM_METHODS["fvm_newton"].score(scored(at, curvature, weight))

    wrong = training.labels != training.true_labels
    context = TrajectoryContext.of(model, (), (training, validation), "head", 1.0, False, device, SEED)
    checkpoints: list[Checkpoint] = []
    for number, snapshot in enumerate(way):
        advance("measure", number, len(way))
        here = replace(context, snapshots=(snapshot,))
        at = here.trained()
        curvature = fit_curvature(at, "kfac", "head", validation.images, 1.0, device, SEED)
        scoring = scored(at, curvature, NEWTON_WEIGHT)
        influence = MINIMUM_METHODS["fvm"].score(scoring)
        classical = TRAJECTORY_METHODS["lissa"].score(here).influence
        risk, parameters = validation_risk(here, at)
        with torch.no_grad():
            value = float(risk(parameters))
        checkpoints.append(
            Checkpoint(
                epoch=0 if number == 0 else snapshot.epoch,
                risk=value,
                sharpness=sharpness.noisy_risk(risk, parameters, SHARPNESS) - value,
                gradient=sharpness.norm(sharpness.gradient(risk, parameters)),
                new=float(roc_auc_score(wrong, influence.influence)),
                classical=float(roc_auc_score(wrong, classical)),
            )
        )
    assert influence.candidates is not None
    bins = np.linspace(-6, 4, 41)
    logs = np.log10(influence.influence.clip(1e-30)).clip(-6, 4)
    right_share, wrong_share = (np.histogram(logs[of], bins)[0] / of.sum() for of in (~wrong, wrong))
    risks = tuple(sharpness.noisy_risk(risk, parameters, length) for length in NOISES)

    def ranking(scores: Scores) -> Ranking:
        first = np.argsort(-scores.influence)[:SHOWN]
        auc = float(roc_auc_score(wrong, scores.influence))
        return Ranking(auc, tuple(training.rows[first].tolist()), tuple(wrong[first].tolist()))

    first = np.argsort(-influence.influence)[:SHOWN]
    return Lesson(
        decoded=training.folder.name,
        classes=training.class_names,
        checkpoints=tuple(checkpoints),
        histogram=Histogram(
            tuple(((bins[1:] + bins[:-1]) / 2).tolist()),
            tuple(right_share.tolist()),
            tuple(wrong_share.tolist()),
        ),
        noise=RiskUnderNoise(NOISES, risks),
        suspects=tuple(
            Suspect(
                int(training.rows[i]), int(training.labels[i]), tuple(influence.candidates.scores[i].tolist())
            )
            for i in first
        ),
        with_leverage=ranking(influence),
        without_leverage=ranking(MINIMUM_METHODS["fvm_normalized"].score(scoring)),
        family=(
            *(Member(weight, ranking(newton(weight))) for weight in WEIGHTS),
            Member(None, ranking(MINIMUM_METHODS["val_loss"].score(scoring))),
        ),
    )


def main(workspace: Workspace, optimizer: str, strength: float) -> None:
    """Compute the experiment and write its report."""
    folder = lesson_folder(workspace, optimizer, strength)
    write_report(folder, lambda advance: compute(workspace, optimizer, strength, advance))


if __name__ == "__main__":
    main(Workspace(Path(sys.argv[1])), sys.argv[2], float(sys.argv[3]))
