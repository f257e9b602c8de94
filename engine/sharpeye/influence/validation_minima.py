"""VM and FVM: the influence of an image at a minimum of the validation risk (arXiv 2505.19097).

One formula, two minima.
"""

from sharpeye.influence.base import Candidates, Scores, ScoringContext


def influence(context: ScoringContext) -> Scores:
    """I(x, y) = g(x, y)ᵀ(H + λI)⁻¹g(x, y), g the gradient of the loss at θ̃ and H the Hessian of the
    validation risk."""
    evaluation = context.evaluation
    if evaluation.leverage is None:
        return Scores(evaluation.influence[:, 0], None)
    candidates = Candidates(evaluation.classes, evaluation.influence)
    return Scores(candidates.of(context.labels), candidates)


def newton_influence(context: ScoringContext) -> Scores:
    """gᵀ(H + λI + wH_z)⁻¹g, H_z the Hessian of the image's own loss: between `influence` (w = 0) and the
    loss (w → ∞); see `sharpeye.influence.evaluation.newton_step`."""
    evaluation = context.evaluation
    assert evaluation.newton is not None
    candidates = Candidates(evaluation.classes, evaluation.newton)
    return Scores(candidates.of(context.labels), candidates)


def normalized_influence(context: ScoringContext) -> Scores:
    """I(x, y) / tr M(x), M(x) = J(H + λI)⁻¹Jᵀ: the leverage, common to all labels of an image, is divided
    out; scaled so that M ∝ I gives |p − e_y|²."""
    evaluation = context.evaluation
    assert evaluation.leverage is not None
    leverage = evaluation.leverage.clip(min=1e-30)[:, None] / evaluation.classes.shape[1]
    candidates = Candidates(evaluation.classes, evaluation.influence / leverage)
    return Scores(candidates.of(context.labels), candidates)
