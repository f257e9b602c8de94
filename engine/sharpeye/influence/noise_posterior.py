"""The noise posterior: what a given label says about the true one, learnt from all given labels together.

Kin to Dawid & Skene 1979, Patrini et al. 2017 (arXiv 1609.03683) and confident learning (arXiv 1911.00068).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from sharpeye.influence.base import Candidates

# A given label counts in full where errors do not depend on the picture. T enters as a power of this.
RELIANCE = 1.0
# People and networks err on the same pictures, and towards the same classes: then a label is weaker evidence
# than T[t, y] says. Labels and predictions alone cannot tell how much weaker, so the interval reaches to this
# share of the reliance, and networks are retrained on beliefs of this share.
DOUBTED_RELIANCE = 0.8
# Longer training repeats the given labels, so agreement with them is weaker evidence: for the beliefs that
# the refined network is trained on, and for the predictions of that network, which rank. Both were chosen on
# CIFAR-10N random1. Where few labels are wrong, that network's count is too high.
REFINING_RELIANCE = 0.5
REFINED_RELIANCE = 0.2
CERTAINTY = 1.96
# Share of the images about which a predictor may be sure and wrong. With as few wrong labels as that, labels
# and predictions look the same, so the interval begins so much lower.
GROSS_MISTAKES = 0.005
INITIAL_DIAGONAL = 0.7
MAX_ITERATIONS = 500
TOLERANCE = 1e-6
LEAST_KNOWN = 0.05
TEMPERATURE_IMAGES = 20_000
TEMPERATURE_ITERATIONS = 50
# Of the logarithm of the temperature.
CURVATURE_STEP = 0.1
LARGEST_DOUBT = 0.5
SMOOTHING = 1e-3
# Of a cell of T.
SMALLEST_ERROR = 1e-9
SMALLEST = 1e-300


@dataclass(frozen=True)
class NoisePosterior:
    """What is believed of every image's true label.

    Attributes:
        candidates: −log r_i(t) for every candidate class t.
        wrong: P(given label is wrong) = 1 − r_i(y_i), (N,).
        transition: T[t, y] = P(given y | true t), (C, C).
        reliance: the power with which it enters.
        class_weights: π_t/π⁰_t, how much more frequent a class is than the predictions presume, (C,).
        temperature: of p(t|x) ∝ exp(−score/temperature).
        expected_wrong: Σ_i (1 − r_i(y_i)).
        interval: CERTAINTY standard deviations and GROSS_MISTAKES below the count where given labels count in
            full, to as many deviations above that of DOUBTED_RELIANCE times the reliance. They are those of
            `count_deviation` and of a temperature that was fitted.
    """

    candidates: Candidates
    wrong: np.ndarray
    transition: np.ndarray
    reliance: float
    class_weights: np.ndarray
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
    prior: np.ndarray | None = None,
) -> NoisePosterior:
    """Posterior r_i(t) ∝ p(t|x_i) π_t/π⁰_t T[t, y_i]^reliance of the true label, with p(t|x) ∝ exp(−score(x,
    t)/temperature).

    T and the class shares π by EM. E: r_i as above. M: π_t is the mean of r_i(t) (Saerens et al. 2002), T as
    in `_transition`. No trusted or true label is used.

    Args:
        candidates: lower = more plausible.
        labels: given labels, (N,).
        class_count: C.
        temperature: 1 where the scores are −log p; None: the one under which the given labels are most
            likely.
        reliance: how much a given label counts beside the prediction, 1 where errors do not depend on the
            picture.
        prior: class shares π⁰ that p carries, (C,); None: the mean of p.
    """
    doubt = 0.0
    if temperature is None:
        temperature, doubt = fit_temperature(candidates, labels, class_count, prior)
    transition, weights, responsibilities = _expectation_maximization(
        candidates, labels, class_count, temperature, reliance, prior
    )
    wrong = _wrong(candidates, labels, responsibilities)

    def wrong_at(other: float, other_reliance: float) -> np.ndarray:
        if (other, other_reliance) == (temperature, reliance):
            return wrong
        return _wrong(
            candidates,
            labels,
            _expectation_maximization(candidates, labels, class_count, other, other_reliance, prior)[2],
        )

    def end(other_reliance: float, side: int) -> float:
        """CERTAINTY deviations to one side of the count under another reliance, for all that is in doubt."""
        # The temperature lies one error below the likeliest: towards fewer wrong labels it is two.
        errors = 1 if side > 0 else 2
        here = wrong_at(temperature, other_reliance)
        there = (
            wrong_at(temperature * float(np.exp(-side * errors * doubt)), other_reliance) if doubt else here
        )
        by_temperature = float(there.sum() - here.sum()) / errors
        return float(here.sum()) + side * CERTAINTY * float(np.hypot(count_deviation(here), by_temperature))

    expected = float(wrong.sum())
    low = min(expected, end(max(reliance, RELIANCE), -1)) - GROSS_MISTAKES * len(labels)
    high = max(expected, end(DOUBTED_RELIANCE * reliance, 1))
    interval = max(0.0, low), min(float(len(labels)), high)
    beliefs = _as_candidates(candidates, responsibilities)
    return NoisePosterior(beliefs, wrong, transition, reliance, weights, temperature, expected, interval)


def label_beliefs(
    candidates: Candidates,
    labels: np.ndarray,
    class_count: int,
    temperature: float | None,
    reliance: float,
    prior: np.ndarray | None = None,
) -> Candidates:
    """−log r_i(t) of every candidate class; see `noise_posterior`."""
    if temperature is None:
        temperature, _ = fit_temperature(candidates, labels, class_count, prior)
    _, _, responsibilities = _expectation_maximization(
        candidates, labels, class_count, temperature, reliance, prior
    )
    return _as_candidates(candidates, responsibilities)


def surest(labels: np.ndarray, wrong: np.ndarray, most: int | None = None) -> np.ndarray:
    """The images that can stand in for trusted ones, bool, (N,): those of each class whose given label is the
    least likely to be wrong, half of them and `most` at most.

    Args:
        labels: given labels, (N,).
        wrong: P(given label is wrong), (N,).
        most: images of a class.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) if most is None else most, -(-len(rows) // 2))
        chosen[rows[np.argsort(wrong[rows], kind="stable")[:count]]] = True
    return chosen


def count_deviation(wrong: np.ndarray) -> float:
    """Standard deviation of the number of wrong labels about Σ_i w_i: √(v / (1 − v/Σ_i w_i)), v = Σ_i w_i(1 −
    w_i).

    v is what is open where T is known. T is estimated from the same labels, and v/Σ_i w_i is the share of the
    information on its error rate that is missing (Orchard & Woodbury 1972).

    Args:
        wrong: P(given label is wrong), (N,).
    """
    total, open_variance = float(wrong.sum()), float((wrong * (1 - wrong)).sum())
    known = max(1 - open_variance / max(total, SMALLEST), LEAST_KNOWN)
    return float(np.sqrt(open_variance / known))


def fit_temperature(
    candidates: Candidates, labels: np.ndarray, class_count: int, prior: np.ndarray | None = None
) -> tuple[float, float]:
    """A temperature under which the given labels are likely, and the standard error of its logarithm.

    It lies one such error below the one that maximises Σ_i log Σ_t p(t|x_i) T[t, y_i], found by a bounded
    search over up to TEMPERATURE_IMAGES images: predictions that are made too flat hide errors. The error
    comes from the curvature of this likelihood, and is at most LARGEST_DOUBT.

    T is the likeliest of all here. One that shares rates explains the errors of few images badly, and flat
    predictions explain them better.
    """
    rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), TEMPERATURE_IMAGES)).astype(np.int64))
    subset, given = Candidates(candidates.classes[rows], candidates.scores[rows]), labels[rows]
    scale = max(float(np.ptp(subset.scores, axis=1).mean()), 1e-12)

    def surprise(log_temperature: float) -> float:
        temperature = scale * float(np.exp(log_temperature))
        transition, weights, _ = _expectation_maximization(
            subset, given, class_count, temperature, 1.0, prior, TEMPERATURE_ITERATIONS, _likeliest_transition
        )
        true = _probabilities(subset, temperature) * weights[subset.classes]
        likelihood = (true * transition[subset.classes, given[:, None]]).sum(1) / true.sum(1)
        return -float(np.log(np.maximum(likelihood, SMALLEST)).mean())

    best = minimize_scalar(surprise, bounds=(-6, 1), method="bounded", options={"xatol": 0.01})
    step = CURVATURE_STEP
    bend = (surprise(best.x + step) + surprise(best.x - step) - 2 * best.fun) / step**2
    information = max(bend, 0.0) * len(given)
    doubt = min(LARGEST_DOUBT, information**-0.5) if information > 0 else LARGEST_DOUBT
    return scale * float(np.exp(best.x - doubt)), doubt


def _likeliest_transition(counts: np.ndarray) -> np.ndarray:
    """T from how many images are believed to have each true (row) and given label."""
    smoothed = counts + SMOOTHING
    normalized: np.ndarray = smoothed / smoothed.sum(1, keepdims=True)
    return normalized


def _transition(counts: np.ndarray) -> np.ndarray:
    """T from how many images are believed to have each true (row) and given label, by empirical Bayes.

    Rates T[t, y] of pairs of classes come from a gamma distribution of mean μ and shape a: (counts + a) /
    (n_t + a/μ), with μ their mean rate, and a from how much more the counts vary than Poisson numbers would.
    With a rate of its own for each of C(C − 1) pairs, none of which can be negative, EM finds wrong labels
    where none are.
    """
    off = ~np.eye(len(counts), dtype=bool)
    errors, sizes = counts[off], np.broadcast_to(counts.sum(1, keepdims=True), counts.shape)[off]
    mean = errors.sum() / max(sizes.sum(), SMALLEST)
    expected = sizes * mean
    excess = ((errors - expected) ** 2 - expected).sum() / max((sizes**2).sum(), SMALLEST)
    rates = np.full_like(errors, mean)
    if excess > 0 and mean > 0:
        shape = mean**2 / excess
        rates = (errors + shape) / (sizes + shape / mean)
    transition = np.zeros_like(counts)
    transition[off] = np.maximum(rates, SMALLEST_ERROR)
    np.fill_diagonal(transition, np.maximum(1 - transition.sum(1), SMALLEST_ERROR))
    normalized: np.ndarray = transition / transition.sum(1, keepdims=True)
    return normalized


def _expectation_maximization(
    candidates: Candidates,
    labels: np.ndarray,
    class_count: int,
    temperature: float,
    reliance: float,
    prior: np.ndarray | None,
    iterations: int = MAX_ITERATIONS,
    estimate: Callable[[np.ndarray], np.ndarray] = _transition,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T (C, C), π/π⁰ (C,) and r (N, k)."""
    classes, probabilities = candidates.classes, _probabilities(candidates, temperature)
    cells = classes * class_count + labels[:, None]
    if prior is None:
        prior = np.bincount(classes.ravel(), probabilities.ravel(), class_count) / len(labels)
    prior = np.maximum(prior, SMALLEST_ERROR)
    weights = np.ones(class_count)
    transition = np.full((class_count, class_count), (1 - INITIAL_DIAGONAL) / max(class_count - 1, 1))
    np.fill_diagonal(transition, INITIAL_DIAGONAL)
    for _ in range(iterations):
        joint = probabilities * weights[classes] * (transition.ravel() ** reliance)[cells]
        responsibilities = joint / np.maximum(joint.sum(1, keepdims=True), SMALLEST)
        believed = np.bincount(cells.ravel(), responsibilities.ravel(), class_count**2)
        counts = believed.reshape(transition.shape)
        updated = estimate(counts)
        change = np.abs(updated - transition).max()
        transition, weights = updated, counts.sum(1) / len(labels) / prior
        if change < TOLERANCE:
            break
    return transition, weights, responsibilities


def _as_candidates(candidates: Candidates, responsibilities: np.ndarray) -> Candidates:
    return Candidates(candidates.classes, -np.log(np.maximum(responsibilities, SMALLEST)))


def _probabilities(candidates: Candidates, temperature: float) -> np.ndarray:
    probabilities: np.ndarray = softmax(-candidates.scores.astype(np.float64) / temperature, axis=1)
    return probabilities


def _wrong(candidates: Candidates, labels: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """1 − r_i(y_i), (N,)."""
    wrong: np.ndarray = np.where(candidates.classes == labels[:, None], 0.0, responsibilities).sum(1)
    return wrong
