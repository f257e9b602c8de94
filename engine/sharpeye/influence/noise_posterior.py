"""The noise posterior: what a given label says about the true one, learnt from all given labels together.

Kin to Dawid & Skene 1979, Patrini et al. 2017 (arXiv 1609.03683) and confident learning (arXiv 1911.00068).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from sharpeye.influence.base import Candidates

# People and networks err on the same pictures, and towards the same classes. So, given the true label, a
# given label and a prediction are not independent, and a label is weaker evidence than T[t, y] says. T enters
# as a power: 1 trusts labels too much (it misses a quarter of the wrong ones on the demo and on CIFAR-10N), 0
# not at all. `tests/benchmarks/test_canaries.py` prints the effect.
RELIANCE = 0.8
# Longer training repeats the given labels, so agreement with them is weaker evidence: for the beliefs that
# the refined network is trained on, and for the predictions of that network. Both were chosen on CIFAR-10N
# random1.
REFINING_RELIANCE = 0.5
REFINED_RELIANCE = 0.2
RELIANCE_DOUBT = 0.2
CERTAINTY = 1.96
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
        interval: from the lowest to the highest expected_wrong of a reliance RELIANCE_DOUBT higher to one as
            much lower, each with CERTAINTY standard deviations √Σ_i r_i(y_i)(1 − r_i(y_i)).
    """

    candidates: Candidates
    wrong: np.ndarray
    transition: np.ndarray
    temperature: float
    expected_wrong: float
    interval: tuple[float, float]

    @property
    def suggestion(self) -> np.ndarray:
        """The class of highest posterior, (N,)."""
        return self.candidates.best()

    @property
    def confidence(self) -> np.ndarray:
        """That posterior, (N,)."""
        confidence: np.ndarray = np.exp(-self.candidates.scores.min(1))
        return confidence


def noise_posterior(
    candidates: Candidates,
    labels: np.ndarray,
    class_count: int,
    temperature: float | None = None,
    reliance: float = RELIANCE,
) -> NoisePosterior:
    """Posterior r_i(t) ∝ p(t|x_i) T[t, y_i]^reliance of the true label, with p(t|x) ∝ exp(−score(x,
    t)/temperature).

    T by EM (E: r_i as above; M: T[t, y] ∝ Σ_i r_i(t) 1[y_i = y]). No trusted or true label is used.

    Args:
        candidates: lower = more plausible.
        labels: given labels, (N,).
        class_count: C.
        temperature: 1 where the scores are −log p; None: the one under which the given labels are most
            likely.
        reliance: how much a given label counts beside the prediction, 1 where errors do not depend on the
            picture.
    """
    if temperature is None:
        temperature = fit_temperature(candidates, labels, class_count)
    transition, responsibilities = _expectation_maximization(
        candidates, labels, class_count, temperature, reliance
    )
    wrong = _wrong(candidates, labels, responsibilities)
    ends = []
    for sign in (-1, 1):
        extreme = reliance - sign * RELIANCE_DOUBT
        other = _wrong(
            candidates,
            labels,
            _expectation_maximization(candidates, labels, class_count, temperature, extreme)[1],
        )
        ends.append(float(other.sum() + sign * CERTAINTY * np.sqrt((other * (1 - other)).sum())))
    interval = (
        max(0.0, min(ends[0], float(wrong.sum()))),
        min(float(len(labels)), max(ends[1], float(wrong.sum()))),
    )
    result = Candidates(candidates.classes, -np.log(np.maximum(responsibilities, SMALLEST)))
    return NoisePosterior(result, wrong, transition, temperature, float(wrong.sum()), interval)


def fit_temperature(candidates: Candidates, labels: np.ndarray, class_count: int) -> float:
    """The temperature under which the given labels are most likely: it maximises Σ_i log Σ_t p(t|x_i) T[t,
    y_i], by a bounded search over up to TEMPERATURE_IMAGES images."""
    rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), TEMPERATURE_IMAGES)).astype(np.int64))
    subset, given = Candidates(candidates.classes[rows], candidates.scores[rows]), labels[rows]
    scale = max(float(np.ptp(subset.scores, axis=1).mean()), 1e-12)

    def surprise(log_temperature: float) -> float:
        temperature = scale * float(np.exp(log_temperature))
        transition, _ = _expectation_maximization(
            subset, given, class_count, temperature, 1.0, TEMPERATURE_ITERATIONS
        )
        likelihood = (_probabilities(subset, temperature) * transition[subset.classes, given[:, None]]).sum(1)
        return -float(np.log(np.maximum(likelihood, SMALLEST)).mean())

    best = minimize_scalar(surprise, bounds=(-6, 1), method="bounded", options={"xatol": 0.01})
    return scale * float(np.exp(best.x))


def _expectation_maximization(
    candidates: Candidates,
    labels: np.ndarray,
    class_count: int,
    temperature: float,
    reliance: float,
    iterations: int = MAX_ITERATIONS,
) -> tuple[np.ndarray, np.ndarray]:
    """T (C, C) and r (N, k)."""
    probabilities = _probabilities(candidates, temperature)
    cells = candidates.classes * class_count + labels[:, None]
    transition = np.full((class_count, class_count), (1 - INITIAL_DIAGONAL) / max(class_count - 1, 1))
    np.fill_diagonal(transition, INITIAL_DIAGONAL)
    for _ in range(iterations):
        joint = probabilities * (transition.ravel() ** reliance)[cells]
        responsibilities = joint / np.maximum(joint.sum(1, keepdims=True), SMALLEST)
        counts = (
            np.bincount(cells.ravel(), responsibilities.ravel(), class_count**2).reshape(transition.shape)
            + SMOOTHING
        )
        updated = counts / counts.sum(1, keepdims=True)
        change = np.abs(updated - transition).max()
        transition = updated
        if change < TOLERANCE:
            break
    return transition, responsibilities


def _probabilities(candidates: Candidates, temperature: float) -> np.ndarray:
    probabilities: np.ndarray = softmax(-candidates.scores.astype(np.float64) / temperature, axis=1)
    return probabilities


def _wrong(candidates: Candidates, labels: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """1 − r_i(y_i), (N,)."""
    wrong: np.ndarray = np.where(candidates.classes == labels[:, None], 0.0, responsibilities).sum(1)
    return wrong
