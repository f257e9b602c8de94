"""The data of the paper's Figures 2 and 3, and of the loss landscape: one table for all.

Columns: `figure` (trajectory, distribution, landscape), `phase` (pretrain, erm, flat), `epoch`, `name`, `x`,
`y`, `value`.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from sharpeye.config import SHARPNESS_NOISE, SHARPNESS_RADIUS
from sharpeye.curvature.fit import fit_curvature
from sharpeye.curvature.linearization import predict
from sharpeye.data.dataset import Images, LabeledImages, SelectedImages
from sharpeye.data.noise import flip_labels
from sharpeye.data.splits import stratified_share
from sharpeye.diagnostics.landscape import risk_slice
from sharpeye.diagnostics.sharpness import (
    Parameters,
    Risk,
    gradient,
    hessian_trace,
    noisy_risk,
    norm,
    risk_of,
    top_eigenvalue,
    trained_parameters,
    worst_risk,
)
from sharpeye.influence.base import ScoringContext
from sharpeye.influence.evaluation import evaluate
from sharpeye.influence.methods import MINIMUM_METHODS, TRAJECTORY_METHODS
from sharpeye.influence.noise_posterior import RELIANCE
from sharpeye.influence.trajectory import TrajectoryContext
from sharpeye.training.batches import read_batches
from sharpeye.training.models import Classifier
from sharpeye.training.trainer import Snapshot

SHARPNESS_IMAGES = 128
LANDSCAPE_REACH = 0.5
RANKED_IMAGES = 2000
# Of the training set, for the classical methods' curvature and ensemble.
TRAINING_IMAGES = 4096
VALIDATION_IMAGES = 1000
# One image in so many of the validation split becomes a canary.
CANARY_SHARE = 3
BINS = np.linspace(-6, 4, 61)
CLASSICAL = ("lissa", "datainf")
# The members of an ensemble are trained for each checkpoint: only where the paper's Figure 2 looks.
PRETRAIN_ONLY = ("gex",)

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class KnownLabels:
    """Images whose labels are known to be right or wrong.

    Attributes:
        images: uint8 (N, S, S, 3).
        labels: given labels, (N,).
        wrong: whether the given label is, (N,).
    """

    images: Images
    labels: np.ndarray
    wrong: np.ndarray

    def key(self) -> str:
        return hashlib.sha256(self.labels.tobytes() + self.wrong.tobytes()).hexdigest()


def labels_known_by_truth(images: LabeledImages) -> KnownLabels | None:
    """Up to RANKED_IMAGES training images whose true label is known.

    None where that tells no right label from a wrong one.
    """
    if images.true_labels is None:
        return None
    rows = np.flatnonzero(images.true_labels >= 0)
    rows = rows[evenly(len(rows), RANKED_IMAGES)] if len(rows) else rows
    wrong = images.labels[rows] != images.true_labels[rows]
    if not wrong.any() or wrong.all():
        return None
    return KnownLabels(SelectedImages(images.images, rows), images.labels[rows], wrong)


def labels_of_canaries(
    validation: LabeledImages, transition: np.ndarray, seed: int
) -> tuple[LabeledImages, KnownLabels]:
    """What is left of the validation split, and a share of it with labels flipped as training labels seem to
    be.

    The canaries must be scored by networks that trained on the rest alone.

    Args:
        validation: trusted.
        transition: T[t, y] = P(given y | true t), estimated, (C, C).
        seed: which images, and which labels.
    """
    chosen = stratified_share(validation.labels, 1 / CANARY_SHARE, seed)
    held = validation.subset(chosen)
    flipped = flip_labels(held.labels, transition / transition.sum(1, keepdims=True), seed)
    return validation.subset(~chosen), KnownLabels(held.images, flipped, flipped != held.labels)


def checkpoint_rows(
    context: TrajectoryContext,
    known: KnownLabels,
    phase: str,
    snapshot: Snapshot,
    curvature: str,
    traced: np.ndarray,
) -> pd.DataFrame:
    """All that is measured at one checkpoint: validation accuracy, loss and sharpness, each method's AUC, and
    how the influence of right and of wrong labels is distributed.

    Args:
        context: of the run; its validation split gives gradients, curvature and sharpness.
        known: whose labels are ranked.
        phase: `pretrain`, `erm` or `flat`.
        snapshot: the checkpoint.
        curvature: kind of curvature of the new influence.
        traced: TracIn over the checkpoints up to this one, (N,).
    """
    context = replace(context, snapshots=(snapshot,), images=known.images, labels=known.labels)
    values, distributions = _influence(context, known, curvature)
    for name in CLASSICAL + (PRETRAIN_ONLY if phase == "pretrain" else ()):
        scores = TRAJECTORY_METHODS[name].score(context).influence
        values[f"auc {name}"] = float(roc_auc_score(known.wrong, scores))
        if name == "lissa":
            distributions["lissa"] = scores / max(float(np.abs(scores).mean()), 1e-30)
    values["auc tracin"] = float(roc_auc_score(known.wrong, traced))
    values |= _sharpness(context)
    rows: Rows = [{"figure": "trajectory", "name": name, "value": value} for name, value in values.items()]
    for name, scores in distributions.items():
        for kind, chosen in (("right", ~known.wrong), ("wrong", known.wrong)):
            counts, _ = np.histogram(scores[chosen].clip(BINS[0], BINS[-1]), BINS)
            rows += [
                {"figure": "distribution", "name": f"{name} {kind}", "x": float(x), "value": float(share)}
                for x, share in zip((BINS[1:] + BINS[:-1]) / 2, counts / max(chosen.sum(), 1), strict=True)
            ]
    return _table(rows, phase, snapshot.epoch)


def landscape_rows(context: TrajectoryContext, phase: str, snapshot: Snapshot) -> pd.DataFrame:
    """The validation risk in a filter-normalised slice around a minimum."""
    risk, at = validation_risk(context, context.at(snapshot))
    places, values = risk_slice(risk, at, LANDSCAPE_REACH, context.seed)
    rows: Rows = [
        {"figure": "landscape", "name": "risk", "x": float(x), "y": float(y), "value": float(values[j, i])}
        for i, x in enumerate(places)
        for j, y in enumerate(places)
    ]
    return _table(rows, phase, snapshot.epoch)


def _table(rows: Rows, phase: str, epoch: int) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["figure", "name", "x", "y", "value"]).astype(
        {"x": float, "y": float, "value": float}
    )
    return table.assign(phase=phase, epoch=epoch)


def _influence(
    context: TrajectoryContext, known: KnownLabels, curvature: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """AUC of the new influence and of the plain loss, and log₁₀ of the new influence."""
    model = context.trained()
    fitted = fit_curvature(
        model,
        curvature,
        context.parameters,
        context.validation_images,
        context.damping,
        context.device,
        context.seed,
    )
    evaluation = evaluate(
        model,
        fitted,
        known.images,
        known.labels,
        parameters=context.parameters,
        all_candidates=True,
        mirrored=context.mirrored,
        device=context.device,
    )
    scoring = ScoringContext(known.labels, model.head.out_features, evaluation, RELIANCE)
    scores = {
        name: MINIMUM_METHODS[method].score(scoring).influence
        for name, method in (("influence", "fvm"), ("val_loss", "val_loss"))
    }
    values = {f"auc {name}": float(roc_auc_score(known.wrong, score)) for name, score in scores.items()}
    return values, {"influence": np.log10(scores["influence"].clip(1e-30))}


def validation_risk(context: TrajectoryContext, model: Classifier) -> tuple[Risk, Parameters]:
    """R around a model, on up to SHARPNESS_IMAGES validation images, and the parameters there."""
    rows = np.unique(np.linspace(0, len(context.validation_labels) - 1, SHARPNESS_IMAGES).astype(int))
    [(_, batch)] = read_batches(context.validation_images, rows, len(rows), context.device)
    labels = torch.from_numpy(context.validation_labels[rows]).to(context.device)
    return risk_of(model, batch, labels), trained_parameters(model)


def _sharpness(context: TrajectoryContext) -> dict[str, float]:
    """Accuracy, loss and sharpness on the validation split; what is estimated at random with its error."""
    model = context.trained()
    right, losses = [], []
    for rows, batch in read_batches(
        context.validation_images, np.arange(len(context.validation_labels)), 500, context.device
    ):
        log_p = predict(model, batch)[1].cpu().numpy()
        labels = context.validation_labels[rows]
        right.append(log_p.argmax(1) == labels)
        losses.append(-log_p[np.arange(len(rows)), labels])
    risk, at = validation_risk(context, model)
    with torch.no_grad():
        here = float(risk(at))
    worst = worst_risk(risk, at, SHARPNESS_RADIUS)
    eigenvalue, eigenvalue_error = top_eigenvalue(risk, at)
    trace, trace_error = hessian_trace(risk, at)
    return {
        "accuracy": float(np.concatenate(right).mean()),
        "loss": float(np.concatenate(losses).mean()),
        "sharpness": worst - here,
        "noisy sharpness": noisy_risk(risk, at, SHARPNESS_NOISE) - here,
        "top eigenvalue": eigenvalue,
        "top eigenvalue error": eigenvalue_error,
        "trace": trace,
        "trace error": trace_error,
        "gradient": norm(gradient(risk, at)),
    }


def evenly(count: int, most: int) -> np.ndarray:
    """At most that many row numbers, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
