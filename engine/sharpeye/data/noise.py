"""Seeded label noise with a known transition matrix, for the demo and for tests."""

import numpy as np


def flip_labels(labels: np.ndarray, transition: np.ndarray, seed: int) -> np.ndarray:
    """Draw given labels y_i ~ T[t_i, ·] for true labels t.

    Args:
        labels: true labels, shape (N,), integers in [0, C).
        transition: T[t, y] = P(given y | true t), shape (C, C), rows sum to one.
        seed: seed of the draw.

    Returns:
        Given labels, shape (N,).

    Raises:
        ValueError: `transition` is not square or has a row that is no distribution.
    """
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise ValueError(f"transition must be square, not {transition.shape}")
    if (transition < 0).any() or not np.allclose(transition.sum(1), 1):
        raise ValueError("each row of transition must be a distribution")
    draws = np.random.default_rng(seed).random(len(labels))
    cumulative = np.cumsum(transition, axis=1)[labels]
    return np.minimum((draws[:, None] >= cumulative).sum(1), len(transition) - 1)
