"""TracIn: gradients compared along training (Pruthi et al. 2020, arXiv 2002.08484, TracInCP)."""

import numpy as np

from sharpeye.curvature.identity import IdentityCurvature
from sharpeye.influence.base import Candidates, Scores
from sharpeye.influence.evaluation import evaluate
from sharpeye.influence.trajectory import TrajectoryContext, as_scores, influence_along, validation_gradient
from sharpeye.training.trainer import Snapshot


def tracin(context: TrajectoryContext) -> Scores:
    """−Σ_t η_t ⟨∇R_val(θ_t), g(x, y.

    Θ_t)⟩ over the snapshots θ_t, η_t the learning rates spent since the one before.

    Against the mean validation gradient.
    """
    total = sum((tracin_at(context, snapshot) for snapshot in context.snapshots), np.zeros(()))
    return as_scores(total, context.labels)


def tracin_at(context: TrajectoryContext, snapshot: Snapshot) -> np.ndarray:
    """One snapshot's part of `tracin`, for every class, (N, C)."""
    model = context.at(snapshot)
    return snapshot.step_size * influence_along(context, model, validation_gradient(context, model))


def tracin_self(context: TrajectoryContext) -> Scores:
    """Self-influence Σ_t η_t ‖g(x, y; θ_t)‖², with which the paper finds wrong labels (section 4.1)."""
    total, classes = np.zeros((1, 1)), context.labels[:, None]
    for snapshot in context.snapshots:
        evaluation = evaluate(
            context.at(snapshot),
            IdentityCurvature(),
            context.images,
            context.labels,
            parameters=context.parameters,
            all_candidates=True,
            mirrored=context.mirrored,
            device=context.device,
            report=context.report,
        )
        # Of many classes each snapshot would keep its own choice, so only the given label has a sum over all
        # of them.
        every = evaluation.classes.shape[1] == context.model.head.out_features
        given = Candidates(evaluation.classes, evaluation.influence).of(context.labels)
        total = total + snapshot.step_size * (evaluation.influence if every else given[:, None])
        classes = evaluation.classes if every else classes
    candidates = Candidates(classes, total)
    return Scores(candidates.of(context.labels), candidates if total.shape[1] > 1 else None)
