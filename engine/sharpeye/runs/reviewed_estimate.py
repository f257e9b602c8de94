"""How many labels are wrong, in the light of what a review found. Never torch."""

from dataclasses import dataclass

import numpy as np

DECILES = 10
# What a run predicts for a decile counts as much as so many decisions there.
PREDICTION_WEIGHT = 10.0
CLOSEST = 1e-6


@dataclass(frozen=True)
class Decile:
    """Decisions on images whose P(wrong) lies between two bounds.

    Attributes:
        low: lower bound.
        high: upper bound.
        decided: number of decisions.
        predicted: how many of their labels were expected to be wrong.
        found: how many were found wrong.
    """

    low: float
    high: float
    decided: int
    predicted: float
    found: int


def deciles(wrong: np.ndarray, found: np.ndarray) -> list[Decile]:
    """Predicted beside found numbers, by tenths of P(wrong).

    Args:
        wrong: P(given label is wrong) of the decided images, (n,).
        found: whether their labels were found wrong, (n,).
    """
    at, found_there = _decile(wrong), []
    for number in range(DECILES):
        here = at == number
        bounds = number / DECILES, (number + 1) / DECILES
        found_there.append(Decile(*bounds, int(here.sum()), float(wrong[here].sum()), int(found[here].sum())))
    return found_there


def revised(wrong: np.ndarray, decided: np.ndarray, found: np.ndarray) -> np.ndarray:
    """P(given label is wrong) of every image, (N,), corrected by what was found in its decile.

    With w̄ the mean prediction for the n decided images of a decile, h of which were found wrong, the rate
    there is ρ = (m w̄ + h) / (m + n), a beta distribution's mean, m = PREDICTION_WEIGHT. The odds of the
    decile's images are multiplied by odds(ρ)/odds(w̄). Deciles without decisions stay as they are.

    Args:
        wrong: as the run has it, (N,).
        decided: rows with a decision, (n,).
        found: whether their labels were found wrong, (n,).
    """
    factors = np.ones(DECILES)
    for number, decile in enumerate(deciles(wrong[decided], found)):
        if decile.decided:
            mean = np.clip(decile.predicted / decile.decided, CLOSEST, 1 - CLOSEST)
            rate = (PREDICTION_WEIGHT * mean + decile.found) / (PREDICTION_WEIGHT + decile.decided)
            factors[number] = _odds(np.clip(rate, CLOSEST, 1 - CLOSEST)) / _odds(mean)
    lifted = factors[_decile(wrong)] * wrong
    corrected: np.ndarray = lifted / (1 - wrong + lifted)
    return corrected


def _decile(wrong: np.ndarray) -> np.ndarray:
    decile: np.ndarray = np.minimum((DECILES * wrong).astype(np.int64), DECILES - 1)
    return decile


def _odds(p: float) -> float:
    return p / (1 - p)
