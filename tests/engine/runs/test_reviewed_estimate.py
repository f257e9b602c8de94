"""The expected number of wrong labels follows what a review finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpeye.runs.reviewed_estimate import PREDICTION_WEIGHT, deciles, revised

NONE = np.array([], dtype=np.int64)
IMAGES = 20_000


def test_without_decisions_nothing_changes() -> None:
    wrong = np.array([0.0, 0.03, 0.5, 0.999, 1.0])
    np.testing.assert_allclose(revised(wrong, NONE, NONE == 0), wrong)


def test_by_hand() -> None:
    """Ten decisions at 0.55, of which two were found wrong, beside a prediction that weighs as ten."""
    wrong, decided = np.array([0.55] * 10 + [0.51, 0.2]), np.arange(10)
    found = decided < 2
    only = deciles(wrong[decided], found)[5]
    assert (only.low, only.decided, only.predicted, only.found) == (0.5, 10, pytest.approx(5.5), 2)
    rate = (PREDICTION_WEIGHT * 0.55 + 2) / (PREDICTION_WEIGHT + 10)
    odds = 0.51 / 0.49 * (rate / (1 - rate)) / (0.55 / 0.45)
    np.testing.assert_allclose(revised(wrong, decided, found)[10:], [odds / (1 + odds), 0.2])


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_wrong_predictions_are_corrected_where_people_looked(power: float) -> None:
    """True odds are those predicted to a power; people judge the 2,000 most suspicious and 500 others."""
    rng = np.random.default_rng(0)
    predicted = rng.beta(0.1, 0.9, IMAGES).clip(1e-4, 1 - 1e-4)
    true = 1 / (1 + ((1 - predicted) / predicted) ** power)
    wrong = rng.random(IMAGES) < true
    order = np.argsort(-predicted)
    decided = np.concatenate([order[:2000], rng.choice(order[2000:], 500, replace=False)])
    left = np.setdiff1d(np.arange(IMAGES), decided)
    before, after = predicted[left].sum(), revised(predicted, decided, wrong[decided])[left].sum()
    assert abs(after - wrong[left].sum()) < 0.5 * abs(before - wrong[left].sum())


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.0, 1.0))
def test_more_hits_never_lower_it(hits: int, misses: int, mean: float) -> None:
    wrong = np.full(hits + misses + 1, mean)
    found = np.arange(hits + misses + 1) < hits
    fewer, more = (
        revised(wrong, np.arange(len(wrong)), outcome)[-1] for outcome in (found, found | (wrong < 2))
    )
    assert 0 <= fewer <= more <= 1
