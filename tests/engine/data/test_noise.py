import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sharpeye.data.noise import LOOKALIKE_SHARE, lookalike_noise


@given(st.floats(0, 0.9), st.integers(0, 5), st.integers(2, 6))
def test_so_many_labels_change_and_none_to_itself(rate: float, seed: int, classes: int) -> None:
    labels = np.arange(60) % classes
    features = np.random.default_rng(0).standard_normal((60, 4))
    changed = lookalike_noise(features, labels, rate, seed)
    assert (changed != labels).sum() == round(rate * 60)
    assert set(changed) <= set(labels)
    np.testing.assert_array_equal(changed, lookalike_noise(features, labels, rate, seed))


def test_labels_change_to_classes_that_look_alike() -> None:
    labels = np.repeat(np.arange(5), 4000)
    features = labels[:, None] * np.ones((1, 3))
    changed = lookalike_noise(features, labels, 0.5, 0)
    of_first = changed[(labels == 0) & (changed != labels)]
    near = np.isin(of_first, (1, 2)).mean()
    assert abs(near - (LOOKALIKE_SHARE + (1 - LOOKALIKE_SHARE) / 2)) < 0.03
