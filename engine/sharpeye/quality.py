"""Quality of methods and of suggestions, measured or estimated: plain values, which the app reads too."""

from dataclasses import dataclass

# Of fields of `Quality`; the pages, the command line and the benchmarks all take their titles from here.
METRIC_TITLES = {
    "auc": "detection AUC",
    "ap": "average precision",
    "p100": "precision at 100",
    "p1000": "precision at 1,000",
    "suggestion_accuracy": "suggestion accuracy",
    "relabel_accuracy": "relabel accuracy",
}
# What a run shows of them where there is little room.
MAIN_METRICS = ("auc", "ap", "suggestion_accuracy", "relabel_accuracy")


@dataclass(frozen=True)
class Quality:
    """Quality of a method's scores and suggestions; None where it is undefined or there are no true labels.

    Attributes:
        auc: area under the ROC curve of the influence as a detector of wrong labels.
        ap: average precision of the same.
        p100: share of wrong labels among the 100 most suspicious images.
        p1000: the same of 1,000.
        suggestion_accuracy: share of all images whose suggestion is the true label.
        relabel_accuracy: the same over the wrongly labelled images.
    """

    auc: float | None = None
    ap: float | None = None
    p100: float | None = None
    p1000: float | None = None
    suggestion_accuracy: float | None = None
    relabel_accuracy: float | None = None


@dataclass(frozen=True)
class LabelAccuracy:
    """Share of right labels, as given and with every suggestion applied that is more likely right than
    not."""

    given: float | None = None
    cleaned: float | None = None


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


def mean_percent(values: list[float | None], spread: bool = True) -> str:
    """Mean of shares in percent, with the standard deviation of several; a dash where there are none."""
    from statistics import fmean, stdev

    percent = [100 * value for value in values if value is not None]
    if not percent:
        return "–"
    deviation = f" ± {stdev(percent):.2f}" if spread and len(percent) > 1 else ""
    return f"{fmean(percent):.2f}{deviation}"
