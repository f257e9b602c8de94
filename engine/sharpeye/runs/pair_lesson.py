"""The Learn page's example of pairwise influence: points in a plane, small enough to train again for every
pair. Never torch."""

from dataclasses import dataclass
from functools import cache

import numpy as np

SEED = 5
TRUSTED, TRAINING, MISLABELLED = 24, 40, 4
SPREAD = 1.1
RIDGE = 0.02
NEWTON_STEPS = 25


@dataclass(frozen=True)
class PairLesson:
    """Training and trusted points, and what the former do to the latter.

    Attributes:
        training: their places, (N, 2).
        labels: their given labels, 0 or 1, (N,).
        wrong: whether a label was changed, (N,).
        trusted: places of the trusted points, (V, 2).
        trusted_labels: (V,).
        influence: a(i, v) = g_vᵀ(H + λI)⁻¹g_i over the number of trusted points: by how much the loss of v
            falls, to first order, where i joins the risk, (N, V).
        retrained: by how much it does fall, found by training again with i, (N, V).
    """

    training: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray
    trusted: np.ndarray
    trusted_labels: np.ndarray
    influence: np.ndarray
    retrained: np.ndarray

    @property
    def rank_correlation(self) -> float:
        """Of influence and training again, over all pairs (Spearman's)."""
        foretold, found = (values.ravel().argsort().argsort() for values in (self.influence, self.retrained))
        return float(np.corrcoef(foretold, found)[0, 1])

    @property
    def wrong_among_harmful(self) -> int:
        """How many of the points that harm the trusted ones most have a wrong label, of as many as have."""
        order = np.argsort(self.influence.sum(1))
        return int(self.wrong[order[: self.wrong.sum()]].sum())


@cache
def pair_lesson() -> PairLesson:
    """Logistic regression at the minimum of the trusted points' risk, and each training point's influence."""
    rng = np.random.default_rng(SEED)
    trusted, trusted_labels = _points(rng, TRUSTED)
    training, labels = _points(rng, TRAINING)
    wrong = np.zeros(TRAINING, dtype=bool)
    wrong[rng.choice(TRAINING, MISLABELLED, replace=False)] = True
    labels = np.where(wrong, 1 - labels, labels)
    theta = _minimum(trusted, trusted_labels)
    gradients, checked = _gradients(theta, training, labels), _gradients(theta, trusted, trusted_labels)
    influence = gradients @ np.linalg.solve(_hessian(theta, trusted), checked.T) / TRUSTED
    before = _losses(theta, trusted, trusted_labels)

    def fall(place: np.ndarray, label: int) -> np.ndarray:
        """Of the loss of each trusted point, where a training point joins them."""
        moved = _minimum(np.vstack([trusted, place]), np.append(trusted_labels, label))
        return before - _losses(moved, trusted, trusted_labels)

    retrained = np.stack([fall(place, label) for place, label in zip(training, labels, strict=True)])
    return PairLesson(training, labels, wrong, trusted, trusted_labels, influence, retrained)


def _points(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of two classes, about (−1, −0.5) and (1, 0.5)."""
    labels = np.arange(count) % 2
    return np.outer(2 * labels - 1, (1.0, 0.5)) + SPREAD * rng.normal(size=(count, 2)), labels


def _minimum(places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """θ of least 1/TRUSTED Σ ℓ + ridge/2 ‖θ‖², (3,), by Newton's method."""
    theta = np.zeros(3)
    for _ in range(NEWTON_STEPS):
        slope = _gradients(theta, places, labels).sum(0) / TRUSTED + RIDGE * theta
        theta = theta - np.linalg.solve(_hessian(theta, places), slope)
    return theta


def _inputs(places: np.ndarray) -> np.ndarray:
    return np.concatenate([places, np.ones((len(places), 1))], 1)


def _probabilities(theta: np.ndarray, places: np.ndarray) -> np.ndarray:
    """p(1|x), (N,)."""
    probabilities: np.ndarray = 1 / (1 + np.exp(-_inputs(places) @ theta))
    return probabilities


def _losses(theta: np.ndarray, places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """−log p of the labels, (N,)."""
    losses: np.ndarray = np.logaddexp(0, -(2 * labels - 1) * (_inputs(places) @ theta))
    return losses


def _gradients(theta: np.ndarray, places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(p − y) x, (N, 3)."""
    gradients: np.ndarray = (_probabilities(theta, places) - labels)[:, None] * _inputs(places)
    return gradients


def _hessian(theta: np.ndarray, places: np.ndarray) -> np.ndarray:
    """1/TRUSTED Σ p(1 − p) x xᵀ + ridge, (3, 3)."""
    p, x = _probabilities(theta, places), _inputs(places)
    hessian: np.ndarray = (x * (p * (1 - p))[:, None]).T @ x / TRUSTED + RIDGE * np.eye(3)
    return hessian
