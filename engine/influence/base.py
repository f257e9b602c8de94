"""What a method is, what it is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """A score for every class an image might have instead, lower = more plausible.

    Attributes:
        classes: class numbers, (N, k); every row holds the given label. k = C, or the k most probable of many classes.
        scores: (N, k).
    """

    classes: np.ndarray
    scores: np.ndarray

    def of(self, labels: np.ndarray) -> np.ndarray:
        """The score of one label an image, shape (N,); the labels must be among the classes."""
        at = (self.classes == labels[:, None]).argmax(1)
        return np.take_along_axis(self.scores, at[:, None], 1)[:, 0]

    def best(self) -> np.ndarray:
        """The most plausible class of each image, shape (N,)."""
        return np.take_along_axis(self.classes, self.scores.argmin(1)[:, None], 1)[:, 0]


@dataclass(frozen=True)
class Evaluation:
    """What one pass over images at one validation minimum yields; every method below is arithmetic on it.

    Attributes:
        classes: candidate classes, (N, k).
        losses: −log p_c of each candidate, mean over mirrored views, (N, k).
        influence: gᵀ(H + λI)⁻¹g for each candidate label, (N, k); with given labels only, (N, 1) and `classes` of losses
            stays (N, k).
        leverage: tr M(x) over the candidates, (N,), or None with given labels only.
        features: φ(x), (N, d), mean over views; float16.
        seconds: duration of the pass.
        memory_mb: most memory in use during it.
    """

    classes: np.ndarray
    losses: np.ndarray
    influence: np.ndarray
    leverage: np.ndarray | None
    features: np.ndarray
    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class ScoringContext:
    """All that a method may see. True labels are not in it.

    Attributes:
        labels: given labels of the training set, (N,).
        class_count: C.
        evaluation: of the training set, at the method's own minimum.
        reliance: how much a given label counts beside the network's prediction, see `engine.influence.noise_posterior`.
    """

    labels: np.ndarray
    class_count: int
    evaluation: Evaluation
    reliance: float


@dataclass(frozen=True)
class Scores:
    """A method's result.

    Attributes:
        influence: (N,), higher = more suspicious.
        candidates: scores of every candidate label, or None where only the given label was scored.
    """

    influence: np.ndarray
    candidates: Candidates | None


@dataclass(frozen=True)
class Method:
    """A named way to score.

    Attributes:
        minimum: which network it reads, and by that what it is given: a ScoringContext at the validation minimum "erm" or "flat",
            or a TrajectoryContext of the network "trained" on the given labels.
        needs_candidates: whether it is undefined without candidate scores.
        score: the method itself.
        about: one line for people.
    """

    name: str
    minimum: str
    needs_candidates: bool
    score: Callable[[Any], Scores]
    about: str
