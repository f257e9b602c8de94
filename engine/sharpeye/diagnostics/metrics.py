"""Quality of scores and suggestions where true labels are known (benchmarks only)."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from sharpeye.influence.base import Candidates, Scores
from sharpeye.quality import LabelAccuracy, Quality

CLEAN_ABOVE = 0.5


def quality(scores: Scores, labels: np.ndarray, true_labels: np.ndarray | None) -> Quality:
    """Detection and suggestion quality of one method. Images of unknown true label (−1) do not count.

    Args:
        scores: of the training set.
        labels: given labels, (N,).
        true_labels: (N,), −1 where unknown, or None.
    """
    if true_labels is None or not (true_labels >= 0).any():
        return Quality()
    known = true_labels >= 0
    wrong = (labels != true_labels)[known]
    influence = scores.influence[known]
    detects = bool(wrong.any() and not wrong.all())
    ordered = wrong[np.argsort(-influence, kind="stable")]
    right = None if scores.candidates is None else (scores.candidates.best() == true_labels)[known]

    def precision(count: int) -> float | None:
        return float(ordered[:count].mean()) if detects and count <= len(ordered) else None

    return Quality(
        auc=float(roc_auc_score(wrong, influence)) if detects else None,
        ap=float(average_precision_score(wrong, influence)) if detects else None,
        p100=precision(100),
        p1000=precision(1000),
        suggestion_accuracy=None if right is None else float(right.mean()),
        relabel_accuracy=None if right is None or not wrong.any() else float(right[wrong].mean()),
    )


def label_accuracy(labels: np.ndarray, beliefs: Candidates, true_labels: np.ndarray | None) -> LabelAccuracy:
    """Share of right labels, as given, and with every suggestion applied whose posterior is above
    CLEAN_ABOVE.

    Args:
        labels: given labels, (N,).
        beliefs: −log posterior of every candidate label.
        true_labels: (N,), −1 where unknown, or None.
    """
    if true_labels is None or not (true_labels >= 0).any():
        return LabelAccuracy()
    known = true_labels >= 0
    best = beliefs.best()
    cleaned = np.where(np.exp(-beliefs.of(best)) > CLEAN_ABOVE, best, labels)
    return LabelAccuracy(
        float((labels == true_labels)[known].mean()), float((cleaned == true_labels)[known].mean())
    )
