"""Quality of scores and suggestions where true labels are known (benchmarks only)."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.influence.base import Candidates, Scores

Quality = dict[str, float | None]
CLEAN_ABOVE = 0.5


def quality(scores: Scores, labels: np.ndarray, true_labels: np.ndarray | None) -> Quality:
    """Detection and suggestion quality of one method.

    `auc` and `ap` of the influence as a detector of wrong labels; `p100` and `p1000`, the share of wrong labels among the 100
    and 1,000 most suspicious images; `suggestion_accuracy`, the share of all images whose
    suggestion is the true label; `relabel_accuracy`, the same over wrongly labelled images. Images of unknown true
    label (−1) do not count. None where undefined.

    Args:
        scores: of the training set.
        labels: given labels, (N,).
        true_labels: (N,), −1 where unknown, or None.
    """
    result: Quality = dict.fromkeys(("auc", "ap", "p100", "p1000", "suggestion_accuracy", "relabel_accuracy"))
    if true_labels is None or not (true_labels >= 0).any():
        return result
    known = true_labels >= 0
    wrong = (labels != true_labels)[known]
    if wrong.any() and not wrong.all():
        result["auc"] = float(roc_auc_score(wrong, scores.influence[known]))
        order = np.argsort(-scores.influence[known], kind="stable")
        for count in (100, 1000):
            result[f"p{count}"] = float(wrong[order[:count]].mean()) if count <= len(order) else None
        result["ap"] = float(average_precision_score(wrong, scores.influence[known]))
    if scores.candidates is not None:
        right = (scores.candidates.best() == true_labels)[known]
        result["suggestion_accuracy"] = float(right.mean())
        if wrong.any():
            result["relabel_accuracy"] = float(right[wrong].mean())
    return result


def label_accuracy(labels: np.ndarray, beliefs: Candidates, true_labels: np.ndarray | None) -> Quality:
    """Share of right labels, `given` as they are and `cleaned` with every suggestion applied whose posterior is above CLEAN_ABOVE.

    Args:
        labels: given labels, (N,).
        beliefs: −log posterior of every candidate label.
        true_labels: (N,), −1 where unknown, or None.
    """
    if true_labels is None or not (true_labels >= 0).any():
        return {"given": None, "cleaned": None}
    known = true_labels >= 0
    best = beliefs.best()
    cleaned = np.where(np.exp(-beliefs.of(best)) > CLEAN_ABOVE, best, labels)
    return {"given": float((labels == true_labels)[known].mean()), "cleaned": float((cleaned == true_labels)[known].mean())}
