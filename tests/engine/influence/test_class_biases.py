"""Class biases: where trusted images contradict a predictor, and only there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from sharpeye.influence.base import Candidates
from sharpeye.influence.class_biases import class_biases
from sharpeye.influence.noise_posterior import noise_posterior


def predictions(seed: int, count: int, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """−log p of a predictor that is right as often as it says, and true labels."""
    rng = np.random.default_rng(seed)
    logs = log_softmax(3 * rng.normal(size=(count, classes)), axis=1)
    true = (rng.random(count)[:, None] > np.exp(logs).cumsum(1)).sum(1).clip(max=classes - 1)
    return -logs, true


@given(st.integers(0, 10_000))
def test_a_calibrated_predictor_gets_none(seed: int) -> None:
    losses, true = predictions(seed, 120)
    # Six classes, three standard deviations: one in about sixty has one by chance, of no more than that.
    assert (class_biases(losses, true) != 0).sum() <= 2
    assert class_biases(losses[:0], true[:0]).tolist() == [0.0] * 6


def test_a_bias_that_was_put_in_is_found() -> None:
    losses, true = predictions(0, 4000)
    shift = np.array([4.0, 0, 0, 0, 0, 0])
    found = class_biases(-log_softmax(-losses - shift, axis=1), true)
    assert found[0] - found[1:].mean() == pytest.approx(4.0, abs=0.3)


def test_classes_keep_their_biases_under_permutation() -> None:
    losses, true = predictions(1, 500)
    losses = -log_softmax(-losses - np.array([3.0, 0, 0, 2.0, 0, 0]), axis=1)
    order = np.random.default_rng(2).permutation(6)
    expected = class_biases(losses, true)[order]
    np.testing.assert_allclose(class_biases(losses[:, order], np.argsort(order)[true]), expected, atol=1e-3)


def test_a_class_under_a_wrong_name_is_counted_once_trusted_images_say_so() -> None:
    """A predictor that learned the wrong name of a class gives the right one a twentieth of its mass."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, 6000)
    views = 6 * np.eye(6)[true] + rng.normal(size=(6000, 6))
    views[:, 0] -= 3 * (true == 0)
    views[:, 1] += 6 * (true == 0)
    losses, labels = -log_softmax(views, axis=1), np.where(true == 0, 1, true)
    trusted, judged = slice(0, 300), slice(300, None)
    biases = class_biases(losses[trusted], true[trusted])
    wrong = (labels[judged] != true[judged]).sum()

    def expected(shift: np.ndarray) -> float:
        classes = np.broadcast_to(np.arange(6), (5700, 6))
        candidates = Candidates(classes, losses[judged] - shift)
        return noise_posterior(candidates, labels[judged], 6).expected_wrong

    assert expected(np.zeros(6)) < 0.2 * wrong
    assert expected(biases) == pytest.approx(wrong, rel=0.1)
