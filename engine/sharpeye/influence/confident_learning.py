"""Confident learning (Northcutt et al. 2021, arXiv 1911.00068), by the library of its authors."""

import numpy as np
from scipy.special import softmax

from sharpeye.influence.base import Candidates, Scores, ScoringContext


def confident_learning(context: ScoringContext) -> Scores:
    """1 − label quality: the self-confidence p_y, less what is usual for its class.

    Suggestions are the likeliest class.
    """
    from cleanlab.rank import get_label_quality_scores

    evaluation = context.evaluation
    p = np.zeros((len(context.labels), context.class_count))
    np.put_along_axis(p, evaluation.classes, softmax(-evaluation.losses.astype(np.float64), axis=1), axis=1)
    quality = get_label_quality_scores(context.labels, p, method="self_confidence", adjust_pred_probs=True)
    return Scores(1 - np.asarray(quality), Candidates(evaluation.classes, evaluation.losses))
