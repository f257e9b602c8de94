"""Plain baselines from the same checkpoint: the loss and the margin, without any curvature."""

import numpy as np

from sharpeye.influence.base import Candidates, Scores, ScoringContext


def val_loss(context: ScoringContext) -> Scores:
    """−log p_y of the model trained on the validation split."""
    candidates = Candidates(context.evaluation.classes, context.evaluation.losses)
    return Scores(candidates.of(context.labels), candidates)


def margin(context: ScoringContext) -> Scores:
    """log max_{c ≠ y} p_c − log p_y."""
    losses = context.evaluation.losses
    best_two = np.sort(losses, axis=1)[:, :2]
    best_other = np.where(losses == best_two[:, :1], best_two[:, 1:], best_two[:, :1])
    candidates = Candidates(context.evaluation.classes, losses - best_other)
    return Scores(candidates.of(context.labels), candidates)
