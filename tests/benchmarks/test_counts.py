"""How many labels are said to be wrong, beside the truth, over kinds and shares of noise, on probabilities
that are right by construction.

    pytest -m benchmark tests/benchmarks/test_counts.py -s

Images have a true label and a view of it in Gaussian noise. p(t|x) is exact for even classes, as a network
has it that was trained on an even validation split. Prints means over seeds: the count, the width of its
interval and how often that holds the truth, the calibration error of suggestions, and detection AUC. Beside
it two plain counts: images whose most probable class is not the given one, and confident learning
(cleanlab). Writes .benchmarks/counts.json. The rule for T (`_transition`) was chosen on eight seeds of 3,000
images of the kinds `symmetric`, `one pair` and `one class`, and on the cells of `test_grid.py` and
Caltech-101.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from cleanlab.count import num_label_issues
from rich.table import Table
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from sharpeye import noise_posterior
from sharpeye.influence.canaries import calibration
from tests.benchmarks.reporting import publish

CLASSES = 10
IMAGES = 6000
SEEDS = 8
EVEN = np.full(CLASSES, 1 / CLASSES)
LONG_TAIL = 100.0 ** (-np.arange(CLASSES) / (CLASSES - 1))
BALANCES = {"even": EVEN, "100:1": LONG_TAIL / LONG_TAIL.sum()}
# Distance of class means in units of the noise: 74 % and 93 % of the images are told apart.
SEPARATIONS = (2.2, 3.2)
PAIR = (3, 5)

Noise = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def symmetric(rate: float) -> Noise:
    def noisy(true: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        other = (true + rng.integers(1, CLASSES, len(true))) % CLASSES
        return np.where(rng.random(len(true)) < rate, other, true)

    return noisy


def pair(rate: float) -> Noise:
    def noisy(true: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where((true == PAIR[0]) & (rng.random(len(true)) < rate), PAIR[1], true)

    return noisy


def as_seen(rate: float) -> Noise:
    """A share of the labels is drawn from what the network itself sees."""

    def noisy(true: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen = (rng.random(len(true))[:, None] >= p.cumsum(1)).sum(1).clip(max=CLASSES - 1)
        return np.where(rng.random(len(true)) < rate, seen, true)

    return noisy


NOISES = {f"symmetric {rate:.0%}": symmetric(rate) for rate in (0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4, 0.6)} | {
    "one pair 40 %": pair(0.4),
    "one class wholly": pair(1.0),
    "10 % as the network sees": as_seen(0.1),
    "40 % as the network sees": as_seen(0.4),
}


@pytest.mark.benchmark
def test_counts() -> None:
    rows = []
    for (balance, shares), separation, (noise, draw) in product(
        BALANCES.items(), SEPARATIONS, NOISES.items()
    ):
        cells = [measured(shares, separation, draw, seed) for seed in range(SEEDS)]
        means = {name: float(np.mean([cell[name] for cell in cells])) for name in cells[0]}
        rows.append({"balance": balance, "separation": separation, "noise": noise} | means)
    titles = [name for name in rows[-1] if name not in ("balance", "noise")]
    table = Table("classes", "noise", *titles)
    for row in rows:
        table.add_row(
            row["balance"], row["noise"], *(f"{row[title]:.4g}" if title in row else "–" for title in titles)
        )
    publish("counts", rows, table)


def measured(shares: np.ndarray, separation: float, draw: Noise, seed: int) -> dict[str, float]:
    """What is said of one draw, and what is true of it."""
    rng = np.random.default_rng(seed)
    true = rng.choice(CLASSES, IMAGES, p=shares)
    views = rng.normal(size=(IMAGES, CLASSES))
    views[np.arange(IMAGES), true] += separation
    p = softmax(separation * views, axis=1)
    labels = draw(true, p, rng)
    wrong = labels != true
    beliefs = noise_posterior(p, labels, EVEN)
    low, high = beliefs.interval
    figures = {
        "wrong": float(wrong.sum()),
        "expected": beliefs.expected_wrong,
        "width": high - low,
        "holds": float(low - 0.5 <= wrong.sum() <= high + 0.5),
        "ECE": calibration(beliefs.confidence, beliefs.suggestion == true).error,
        "p differs": float((p.argmax(1) != labels).sum()),
    }
    if len(np.unique(labels)) == CLASSES:
        figures["cleanlab"] = float(num_label_issues(labels, p))
    if wrong.any():
        figures["AUC"] = float(roc_auc_score(wrong, beliefs.wrong))
    return figures
