"""The noise posterior: what a given label says about the true one, learnt from all given labels together.

Kin to Dawid & Skene 1979, Patrini et al. 2017 (arXiv 1609.03683) and confident learning (arXiv 1911.00068).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from engine.influence.base import Candidates

INITIAL_DIAGONAL = 0.7
MAX_ITERATIONS = 500
TOLERANCE = 1e-6
TEMPERATURE_IMAGES = 20_000
TEMPERATURE_ITERATIONS = 50
SMOOTHING = 1e-3
SMALLEST = 1e-300


@dataclass(frozen=True)
class NoisePosterior:
    """What is believed of every image's true label.

    Attributes:
        candidates: −log r_i(t) for every candidate class t.
        wrong: P(given label is wrong) = 1 − r_i(y_i), (N,).
        transition: T[t, y] = P(given y | true t), (C, C).
        temperature: of p(t|x) ∝ exp(−score/temperature).
        expected_wrong: Σ_i (1 − r_i(y_i)).
    """

    candidates: Candidates
    wrong: np.ndarray
    transition: np.ndarray
    temperature: float
    expected_wrong: float


def noise_posterior(candidates: Candidates, labels: np.ndarray, class_count: int) -> NoisePosterior:
    """Posterior r_i(t) ∝ p(t|x_i) T[t, y_i] of the true label, with p(t|x) ∝ exp(−score(x, t)/temperature).

    T and the temperature maximise the likelihood of the given labels, Σ_i log Σ_t p(t|x_i) T[t, y_i]: T by EM
    (E: r_i as above; M: T[t, y] ∝ Σ_i r_i(t) 1[y_i = y]), the temperature by a bounded search over up to
    TEMPERATURE_IMAGES images. No trusted or true label is used: a model that is too sure (or too unsure) of itself
    explains the given labels badly.

    Args:
        candidates: lower = more plausible.
        labels: given labels, (N,).
        class_count: C.
    """
    temperature = fit_temperature(candidates, labels, class_count)
    transition, evidence, joint = _expectation_maximization(candidates, labels, class_count, temperature, MAX_ITERATIONS)
    responsibilities = joint / evidence[:, None]
    result = Candidates(candidates.classes, -np.log(np.maximum(responsibilities, SMALLEST)))
    wrong = np.where(candidates.classes == labels[:, None], 0.0, responsibilities).sum(1)
    return NoisePosterior(result, wrong, transition, temperature, float(wrong.sum()))


def fit_temperature(candidates: Candidates, labels: np.ndarray, class_count: int) -> float:
    """The temperature under which the given labels are most likely (see `noise_posterior`)."""
    rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), TEMPERATURE_IMAGES)).astype(np.int64))
    subset, given = Candidates(candidates.classes[rows], candidates.scores[rows]), labels[rows]
    scale = max(float(np.ptp(subset.scores, axis=1).mean()), 1e-12)

    def surprise(log_temperature: float) -> float:
        temperature = scale * float(np.exp(log_temperature))
        _, evidence, _ = _expectation_maximization(subset, given, class_count, temperature, TEMPERATURE_ITERATIONS)
        return -float(np.log(evidence).mean())

    found = minimize_scalar(surprise, bounds=(-6, 1), method="bounded", options={"xatol": 0.01})
    return scale * float(np.exp(found.x))


def _expectation_maximization(
    candidates: Candidates, labels: np.ndarray, class_count: int, temperature: float, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T (C, C), the evidence Σ_t p(t|x)T[t, y] (N,), and its terms (N, k)."""
    probabilities = softmax(-candidates.scores.astype(np.float64) / temperature, axis=1)
    cells = candidates.classes * class_count + labels[:, None]
    transition = np.full((class_count, class_count), (1 - INITIAL_DIAGONAL) / max(class_count - 1, 1))
    np.fill_diagonal(transition, INITIAL_DIAGONAL)
    for _ in range(iterations):
        joint = probabilities * transition.ravel()[cells]
        evidence = np.maximum(joint.sum(1), SMALLEST)
        counts = (
            np.bincount(cells.ravel(), (joint / evidence[:, None]).ravel(), class_count**2).reshape(transition.shape) + SMOOTHING
        )
        updated = counts / counts.sum(1, keepdims=True)
        change = np.abs(updated - transition).max()
        transition = updated
        if change < TOLERANCE:
            break
    return transition, evidence, joint
