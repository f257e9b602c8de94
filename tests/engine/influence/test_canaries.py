import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from sharpeye.data.noise import flip_labels
from sharpeye.influence.base import Candidates
from sharpeye.influence.canaries import (
    CONFIDENCE_BINS,
    FOLDS,
    calibration,
    estimate,
    folds,
    posteriors,
    reliability,
)
from sharpeye.influence.noise_posterior import noise_posterior

TRANSITION = np.array([[0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.0, 0.1, 0.9]])
CLASSES = 3


def made(count: int, seed: int = 0) -> tuple[Candidates, np.ndarray]:
    """Energies of images and their true labels."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(CLASSES, 0.4), count)
    true = (rng.random(count)[:, None] >= p.cumsum(1)).sum(1).clip(max=CLASSES - 1)
    return Candidates(np.broadcast_to(np.arange(CLASSES), p.shape), -np.log(p.clip(1e-9))), true


def test_the_estimate_is_what_many_drawn_flips_would_show() -> None:
    scores, true = made(400)
    estimated = estimate(scores, true, TRANSITION)
    assert estimated is not None
    repeated = Candidates(np.tile(scores.classes, (300, 1)), np.tile(scores.scores, (300, 1)))
    drawn = flip_labels(np.tile(true, 300), TRANSITION, seed=1)
    wrong = drawn != np.tile(true, 300)
    assert estimated.auc == pytest.approx(roc_auc_score(wrong, repeated.of(drawn)), abs=0.003)
    assert estimated.ap == pytest.approx(average_precision_score(wrong, repeated.of(drawn)), abs=0.005)
    assert estimated.recall[0] == 0
    assert estimated.recall[-1] == 1
    assert estimated.precision[-1] == pytest.approx(wrong.mean(), abs=0.01)


def test_no_estimate_where_no_label_is_ever_wrong() -> None:
    scores, true = made(50)
    assert estimate(scores, true, np.eye(CLASSES)) is None


@given(st.permutations(range(CLASSES)))
def test_the_estimate_does_not_depend_on_the_order_of_classes(order: list[int]) -> None:
    scores, true = made(60)
    position = np.argsort(order)
    moved = Candidates(position[scores.classes], scores.scores)
    swapped = estimate(moved, position[true], TRANSITION[np.ix_(order, order)])
    plain = estimate(scores, true, TRANSITION)
    assert swapped is not None
    assert plain is not None
    assert swapped.auc == pytest.approx(plain.auc, abs=1e-12)


def test_folds_are_even_in_every_class() -> None:
    labels = np.repeat([0, 1, 2], [30, 7, 2])
    fold = folds(labels, seed=3)
    for label, count in ((0, 30), (1, 7), (2, 2)):
        sizes = np.bincount(fold[labels == label], minlength=FOLDS)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1


def test_posteriors_are_those_of_the_noise_posterior_under_every_label() -> None:
    energies, true = made(5000)
    labels = flip_labels(true, TRANSITION, seed=2)
    beliefs = noise_posterior(energies, labels, CLASSES)
    every = posteriors(energies, beliefs)
    rows = np.arange(len(labels))
    np.testing.assert_allclose(1 - every[rows, labels, labels], beliefs.wrong, atol=1e-4)


def test_reliability_is_what_many_drawn_flips_would_show() -> None:
    energies, true = made(20_000)
    labels = flip_labels(true, TRANSITION, seed=3)
    posterior = posteriors(energies, noise_posterior(energies, labels, CLASSES))
    every = posterior[np.arange(len(labels)), :, labels]
    drawn = calibration(every.max(1), every.argmax(1) == true)
    estimated = reliability(posterior, energies, true, TRANSITION)
    assert estimated.error == pytest.approx(drawn.error, abs=0.01)
    assert sum(estimated.share) == pytest.approx(1)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_the_sum_over_bins(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    estimated = calibration(confidence, right)
    expected = 0.0
    for number in range(CONFIDENCE_BINS):
        low, high = number / CONFIDENCE_BINS, (number + 1) / CONFIDENCE_BINS
        inside = [(c, r) for c, r in pairs if min(int(c * CONFIDENCE_BINS), CONFIDENCE_BINS - 1) == number]
        assert all(low - 1e-9 <= c <= high + 1e-9 for c, _ in inside)
        expected += abs(sum(r for _, r in inside) - sum(c for c, _ in inside)) / len(pairs)
    assert estimated.error == pytest.approx(expected, abs=1e-9)
