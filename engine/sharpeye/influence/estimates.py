"""What is estimated of methods and of suggestions: plain values, which the app reads too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What canaries say of a method.

    Attributes:
        auc, ap: estimated detection AUC and average precision.
        recall, precision: a curve of CURVE_POINTS points.
    """

    auc: float
    ap: float
    recall: list[float]
    precision: list[float]


@dataclass(frozen=True)
class Reliability:
    """Confidence beside what is right of it, in bins of equal width; empty ones are left out.

    Attributes:
        confidence, accuracy, share: a bin's mean confidence, share of right suggestions, and share of all
            images.
        error: expected calibration error, Σ share · |accuracy − confidence|.
    """

    confidence: list[float]
    accuracy: list[float]
    share: list[float]
    error: float
