"""Class biases: what trusted images say against a predictor that learned from labels in doubt.

Where all images of a class bear the name of another, the predictor learns that name, and no label it is
compared with says otherwise. Images of trusted labels do.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

# Standard deviations by which the number of trusted images of a class must differ from what is predicted for
# them before the class gets a bias. The variance of a number is taken for at least 1.
SIGNIFICANT = 3.0
# Standard deviation of a bias beforehand, in nats: a few images cannot make it endless.
SPREAD = 3.0


def class_biases(losses: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """b of p(t|x) ∝ exp(b_t − loss(x, t)), under which trusted labels are likely: (C,), 0 for each class
    about which they do not contradict the losses.

    Two convex fits of −Σ_j log p(t_j|x_j): the first, with a penalty Σ_t λ_t|b_t|, says which classes get a
    bias, since b_t leaves 0 only where |Σ_j p(t|x_j) − #{j: t_j = t}| > λ_t. The second fits these b_t
    without it.

    Args:
        losses: −log p of every class, of images that the predictor did not learn, (M, C).
        trusted: their labels, (M,).
    """
    class_count = losses.shape[1]
    variances = (np.exp(-losses) * (1 - np.exp(-losses))).sum(0)
    penalties = SIGNIFICANT * np.sqrt(np.maximum(variances, 1.0))
    chosen = _fit(losses, trusted, penalties, np.ones(class_count, dtype=bool)) != 0
    if not chosen.any():
        return np.zeros(class_count)
    return _fit(losses, trusted, np.zeros(class_count), chosen)


def _fit(losses: np.ndarray, trusted: np.ndarray, penalties: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The likeliest biases; as a difference of two numbers ≥ 0 each, so that the penalty is smooth."""
    class_count, rows = losses.shape[1], np.arange(len(trusted))
    counts = np.bincount(trusted, minlength=class_count)

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        up, down = np.split(parts, 2)
        biases = up - down
        logs = log_softmax(biases - losses.astype(np.float64), axis=1)
        value = -logs[rows, trusted].sum() + penalties @ (up + down) + (biases**2).sum() / (2 * SPREAD**2)
        slope = np.exp(logs).sum(0) - counts + biases / SPREAD**2
        return float(value), np.concatenate([slope + penalties, penalties - slope])

    bounds = [(0, None if one else 0) for one in free] * 2
    found = minimize(objective, np.zeros(2 * class_count), jac=True, method="L-BFGS-B", bounds=bounds)
    up, down = np.split(found.x, 2)
    biases: np.ndarray = up - down
    return biases
