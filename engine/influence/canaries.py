"""Canaries: quality without true labels, from trusted images whose labels are flipped on purpose and scored like training data.

Not one flip is drawn: every canary counts under every label it might have been given, weighted with how likely that is.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from engine.influence.base import Candidates

FOLDS = 3
CURVE_POINTS = 101


@dataclass(frozen=True)
class Estimate:
    """What canaries say of a method.

    Attributes:
        auc, ap: estimated detection AUC and average precision.
        recall, precision: a curve of CURVE_POINTS points.
    """

    auc: float
    ap: float
    recall: list[float]
    precision: list[float]


def folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """A fold for each trusted image, stratified, so that no image is scored by a network that trained on it, (M,)."""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        fold[rows] = np.arange(len(rows)) % FOLDS
    return fold


def estimate(scores: Candidates, trusted: np.ndarray, transition: np.ndarray) -> Estimate | None:
    """Detection quality of scores, as if each image had been given label y with probability T[t, y].

    Args:
        scores: of every canary under every candidate label, higher = more suspicious, (M, k).
        trusted: true labels t, (M,).
        transition: T[t, y] = P(given y | true t), (C, C).

    Returns:
        None where T flips nothing.
    """
    weights = transition[trusted[:, None], scores.classes].ravel()
    wrong = (scores.classes != trusted[:, None]).ravel()
    values = scores.scores.ravel()
    if weights[wrong].sum() <= 0 or weights[~wrong].sum() <= 0:
        return None
    precision, recall, _ = precision_recall_curve(wrong, values, sample_weight=weights)
    grid = np.linspace(0, 1, CURVE_POINTS)
    return Estimate(
        auc=float(roc_auc_score(wrong, values, sample_weight=weights)),
        ap=float(average_precision_score(wrong, values, sample_weight=weights)),
        recall=grid.tolist(),
        precision=np.interp(grid, recall[::-1], precision[::-1]).tolist(),
    )


def posterior_scores(energies: Candidates, transition: np.ndarray, temperature: float) -> Candidates:
    """1 − r(y) for every label y an image might be given: P(y is wrong) ∝ Σ_{t ≠ y} p(t|x) T[t, y] (see noise_posterior)."""
    shifted = -(energies.scores - energies.scores.min(1, keepdims=True)).astype(np.float64) / temperature
    p = np.exp(shifted)
    joint = p[:, :, None] * transition[energies.classes[:, :, None], energies.classes[:, None, :]]
    evidence = np.maximum(joint.sum(1), 1e-300)
    return Candidates(energies.classes, 1 - np.einsum("bii->bi", joint) / evidence)
