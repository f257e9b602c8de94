"""Confident learning (Northcutt et al. 2021, arXiv 1911.00068), a plain baseline."""

import numpy as np
from scipy.special import softmax

from sharpeye.influence.base import Candidates, Scores, ScoringContext

# As in the library cleanlab: of a class that no image has, and of one whose images are never given it.
NO_IMAGES, LEAST = 2.0, 1e-6


def confident_learning(context: ScoringContext) -> Scores:
    """1 − label quality, as cleanlab has it with `adjust_pred_probs`: the self-confidence, less what is usual
    for its class.

    With t_k the mean of p(k|x) over the images that are labelled k, quality is (p_y − t_y + t_max) / Σ_k (p_k
    − t_k + t_max), whose divisor is the same for all images. So no array of images by classes is needed.
    Suggestions are the likeliest class.
    """
    evaluation, labels = context.evaluation, context.labels
    p = softmax(-evaluation.losses.astype(np.float64), axis=1)
    own = np.where(evaluation.classes == labels[:, None], p, 0.0).sum(1)
    counts = np.bincount(labels, minlength=context.class_count)
    sums = np.bincount(labels, own, context.class_count)
    usual = np.where(counts > 0, sums / np.maximum(counts, 1), NO_IMAGES).clip(LEAST)
    quality = (own - usual[labels] + usual.max()) / (1 + (usual.max() - usual).sum())
    return Scores(1 - quality, Candidates(evaluation.classes, evaluation.losses))
