"""Influence of feature vectors under a linear classifier, on plain arrays: no images, no workspace."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sharpeye.errors import InputError
from sharpeye.influence.base import Candidates, ScoringContext
from sharpeye.influence.noise_posterior import RELIANCE, NoisePosterior, noise_posterior

# Of the mean squared distance that features are scaled to.
LEARNING_RATE = 1.0
WEIGHT_DECAY = 1e-3
EPOCHS = 60
MOST_STEPS_AN_EPOCH = 50
SMALLEST = 1e-12


def score_features(
    features: ArrayLike,
    labels: ArrayLike,
    validation_features: ArrayLike,
    validation_labels: ArrayLike,
    damping: float,
    seed: int,
) -> pd.DataFrame:
    """See `sharpeye.score`."""
    import torch

    from sharpeye.curvature.fit import fit_curvature
    from sharpeye.influence.evaluation import evaluate
    from sharpeye.influence.methods import MINIMUM_METHODS, loss_posterior
    from sharpeye.training.heads import zero_head
    from sharpeye.training.trainer import TrainingPlan, train

    training, split = _matrix("features", features), _matrix("validation_features", validation_features)
    if training.shape[1] != split.shape[1]:
        raise InputError(f"features have {training.shape[1]} columns, validation_features {split.shape[1]}")
    given, trusted = np.asarray(labels).reshape(-1), np.asarray(validation_labels).reshape(-1)
    for name, values, rows in (("labels", given, training), ("validation_labels", trusted, split)):
        if len(values) != len(rows):
            raise InputError(f"{name} has {len(values):,} entries for {len(rows):,} rows of features")
    classes = np.unique(trusted)
    unknown = ~np.isin(given, classes)
    if unknown.any():
        row = int(unknown.argmax())
        raise InputError(f"labels, row {row}: no validation image has the label {given[row].item()!r}")
    if len(classes) < 2:
        raise InputError("validation_labels: at least two classes are needed")
    codes, targets = np.searchsorted(classes, given), np.searchsorted(classes, trusted)

    device = torch.device("cpu")
    model = zero_head(split, np.arange(len(split)), len(classes), device).classifier()
    plan = TrainingPlan(
        epochs=EPOCHS,
        optimizer="lpf-sgd",
        learning_rate=LEARNING_RATE,
        batch_size=max(2, len(split) // min(MOST_STEPS_AN_EPOCH, max(1, len(split) // 8))),
        weight_decay=WEIGHT_DECAY,
        snapshots=0,
    )
    train(model, split, targets, plan, stage="minimum", seed=seed, device=device)
    curvature = fit_curvature(model, "kfac", "head", split, damping, device, seed)
    evaluation = evaluate(
        model,
        curvature,
        training,
        codes,
        parameters="head",
        all_candidates=True,
        mirrored=False,
        device=device,
    )
    shares = np.bincount(targets, minlength=len(classes)) / len(targets)
    scoring = ScoringContext(codes, len(classes), evaluation, RELIANCE, prior=shares)
    posterior = loss_posterior(scoring)
    return pd.DataFrame(
        {
            "fvm": MINIMUM_METHODS["fvm"].score(scoring).influence,
            "val_loss": MINIMUM_METHODS["val_loss"].score(scoring).influence,
            "suggested_label": classes[posterior.suggestion],
            "confidence": posterior.confidence,
            "wrong_probability": posterior.wrong,
        }
    )


def posterior_of_probabilities(
    probabilities: ArrayLike, labels: ArrayLike, prior: ArrayLike | None
) -> NoisePosterior:
    """See `sharpeye.noise_posterior`."""
    p, given = _matrix("probabilities", probabilities), np.asarray(labels).reshape(-1)
    if len(given) != len(p):
        raise InputError(f"labels has {len(given):,} entries for {len(p):,} rows of probabilities")
    if not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"labels must be class numbers, not {given.dtype}")
    broken = (p < 0).any(1) | (np.abs(p.sum(1) - 1) > 1e-3)
    outside = (given < 0) | (given >= p.shape[1])
    for rows, what in (
        (broken, "is no distribution"),
        (outside, f"has a label outside the {p.shape[1]} classes"),
    ):
        if rows.any():
            raise InputError(f"row {int(rows.argmax())} {what}")
    shares = None if prior is None else np.asarray(prior, dtype=np.float64)
    if shares is not None and (shares.shape != p.shape[1:] or not (shares >= 0).all() or shares.sum() <= 0):
        raise InputError(f"prior must be {p.shape[1]} shares, none of them negative")
    shares = None if shares is None else shares / shares.sum()
    return noise_posterior(every_class(p), given.astype(np.int64), p.shape[1], temperature=1.0, prior=shares)


def every_class(probabilities: np.ndarray) -> Candidates:
    """−log of the probability of every class, (N, C)."""
    classes = np.broadcast_to(np.arange(probabilities.shape[1]), probabilities.shape)
    return Candidates(classes, -np.log(np.maximum(probabilities, SMALLEST)))


def _matrix(name: str, values: ArrayLike) -> np.ndarray:
    """A finite matrix of float32; raises InputError that names it."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} must have two axes and at least one row, not the shape {array.shape}")
    finite = np.isfinite(array).all(1)
    if not finite.all():
        raise InputError(f"{name}, row {int((~finite).argmax())}: a number is missing or infinite")
    return array
