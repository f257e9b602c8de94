"""Seeded label noise, for the demo, for benchmarks and for tests."""

import numpy as np

LOOKALIKE_SHARE = 0.7
LOOKALIKES = 2


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


def lookalike_noise(features: np.ndarray, labels: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Change a share of the labels, as people do: mostly to a class that looks alike.

    A changed label becomes, with probability LOOKALIKE_SHARE, one of the LOOKALIKES classes whose mean
    features are nearest to those of its own class (Euclidean), else any other class, each equally likely.

    Args:
        features: of the images, (N, d).
        labels: true labels, (N,), integers in [0, C).
        rate: share of the labels to change, rounded to whole images.
        seed: seed of the draw.

    Returns:
        Given labels, (N,).
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    means = np.stack([features[labels == label].astype(np.float64).mean(0) for label in classes])
    distances = ((means[:, None] - means[None]) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(LOOKALIKES, len(classes) - 1)]
    given = labels.copy()
    for row in rng.choice(len(labels), round(rate * len(labels)), replace=False):
        own = int(np.searchsorted(classes, labels[row]))
        others = nearest[own] if rng.random() < LOOKALIKE_SHARE else np.delete(np.arange(len(classes)), own)
        given[row] = classes[rng.choice(others)]
    return given
