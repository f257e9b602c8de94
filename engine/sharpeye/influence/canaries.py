"""Canaries: quality without true labels, from trusted images whose labels are flipped on purpose and scored
like training data.

Not one flip is drawn: every canary counts under every label it might have been given, weighted with how
likely that is.
"""

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from sharpeye.influence.base import Candidates
from sharpeye.influence.noise_posterior import SMALLEST, NoisePosterior
from sharpeye.quality import Estimate, Reliability

FOLDS = 3
CONFIDENCE_BINS = 15
CURVE_POINTS = 101


def folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """A fold for each trusted image, stratified, so that no image is scored by a network that trained on
    it, (M,)."""
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


def posteriors(energies: Candidates, beliefs: NoisePosterior) -> np.ndarray:
    """r[i, t, y], the posterior of the true label (second axis) for every label that image i might be
    given (third), (M, k, k); see `sharpeye.influence.noise_posterior`.

    Args:
        energies: of trusted images, (M, k).
        beliefs: about the training set, whose T, reliance, class weights and temperature are taken.
    """
    classes, lowest = energies.classes, energies.scores.min(1, keepdims=True)
    p = np.exp(-(energies.scores - lowest).astype(np.float64) / beliefs.temperature)
    errors = beliefs.transition[classes[:, :, None], classes[:, None, :]] ** beliefs.reliance
    joint = (p * beliefs.class_weights[classes])[:, :, None] * errors
    result: np.ndarray = joint / np.maximum(joint.sum(1, keepdims=True), SMALLEST)
    return result


def reliability(
    posterior: np.ndarray, energies: Candidates, trusted: np.ndarray, transition: np.ndarray
) -> Reliability:
    """How often suggestions are right, by their confidence, as if each image had been given label y with
    probability T[t, y].

    Args:
        posterior: of every canary under every label, see `posteriors`, (M, k, k).
        energies: whose classes these are, (M, k).
        trusted: true labels t, (M,).
        transition: T[t, y], (C, C).
    """
    weights = transition[trusted[:, None], energies.classes]
    right = np.take_along_axis(energies.classes, posterior.argmax(1), 1) == trusted[:, None]
    return calibration(posterior.max(1).ravel(), right.ravel(), weights.ravel())


def calibration(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None) -> Reliability:
    """Confidence against accuracy in CONFIDENCE_BINS bins, and the expected calibration error (Guo et al.
    2017, arXiv 1706.04599)."""
    weights = np.ones(len(confidence)) if weights is None else weights
    at = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    mass, sure, hits = (
        np.bincount(at, weights * values, CONFIDENCE_BINS) for values in (1.0, confidence, right)
    )
    filled = mass > 0
    means = [values[filled] / mass[filled] for values in (sure, hits)]
    share = mass[filled] / mass.sum()
    return Reliability(
        means[0].tolist(),
        means[1].tolist(),
        share.tolist(),
        float((share * np.abs(means[1] - means[0])).sum()),
    )
