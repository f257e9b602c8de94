"""What a method is, what it is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from sharpeye.influence.trajectory import TrajectoryContext


@dataclass(frozen=True)
class Candidates:
    """A score for every class an image might have instead, lower = more plausible.

    Attributes:
        classes: class numbers, (N, k); every row holds the given label. k = C, or the k most probable of many
            classes.
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
        influence: gᵀ(H + λI)⁻¹g for each candidate label, (N, k); with given labels only, (N, 1) and
            `classes` of losses stays (N, k).
        leverage: tr M(x) over the candidates, (N,), or None with given labels only.
        newton: rᵀ(M⁻¹ + wF)⁻¹r for each candidate label, see `sharpeye.influence.evaluation.newton_step`,
            (N, k); or None with given labels only.
        features: φ(x), (N, d), mean over views; float16.
        seconds: duration of the pass.
        memory_mb: most memory in use during it.
    """

    classes: np.ndarray
    losses: np.ndarray
    influence: np.ndarray
    leverage: np.ndarray | None
    newton: np.ndarray | None
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
        reliance: how much a given label counts beside the network's prediction, see
            `sharpeye.influence.noise_posterior`.
        temperature: of the network's predictions; None for the one under which the given labels are most
            likely.
        prior: class shares that the predictions carry, (C,); None for their mean over the training set.
    """

    labels: np.ndarray
    class_count: int
    evaluation: Evaluation
    reliance: float
    temperature: float | None = None
    prior: np.ndarray | None = None


@dataclass(frozen=True)
class Scores:
    """A method's result.

    Attributes:
        influence: (N,), higher = more suspicious.
        candidates: scores of every candidate label, or None where only the given label was scored.
    """

    influence: np.ndarray
    candidates: Candidates | None


# How a minimum of the validation risk is reached: by plain or by flat training.
MinimumKind = Literal["erm", "flat"]


@dataclass(frozen=True)
class MinimumMethod:
    """A named way to score images at a minimum of the validation risk.

    Attributes:
        name: as users type it.
        minimum: how that minimum is reached: by plain training (`erm`) or by flat training (`flat`).
        score: the method itself.
        about: one line for people.
        needs_candidates: whether it is undefined without candidate scores.
    """

    name: str
    minimum: MinimumKind
    score: Callable[[ScoringContext], Scores]
    about: str
    needs_candidates: bool = False


@dataclass(frozen=True)
class TrajectoryMethod:
    """A named way to score images by the network as it was trained on the given labels.

    Attributes:
        name: as users type it.
        score: the method itself.
        about: one line for people.
    """

    name: str
    score: "Callable[[TrajectoryContext], Scores]"
    about: str


Method = MinimumMethod | TrajectoryMethod
