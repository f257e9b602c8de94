"""GEX: influence from a geometric ensemble around the trained network (Kim et al. 2023, NeurIPS, "GEX")."""

from dataclasses import replace

import numpy as np

from sharpeye.data.dataset import SelectedImages
from sharpeye.influence.base import Scores
from sharpeye.influence.trajectory import TrajectoryContext, as_scores, losses_of
from sharpeye.training.trainer import TrainingPlan, steps_an_epoch, train

LEARNING_RATE = 0.05
BATCH = 256


def gex(context: TrajectoryContext) -> Scores:
    """Self-influence 1/M Σ_m (ℓ_m(x, y) − ℓ_0(x, y))², ℓ_m the loss of a member, ℓ_0 that of the trained
    network.

    The members lie on the way of SGD from the trained network on, at a constant rate, so many steps apart;
    momentum begins anew with each. A budget says how many: `thorough` takes the paper's 32 members of 800
    steps.
    """
    images, labels = context.learned
    ensemble = context.ensemble
    rows = np.random.default_rng(context.seed).permutation(len(labels))[: ensemble.steps * BATCH]
    plan = member_plan(context, len(rows))
    model = context.trained()
    start = _losses(context)
    total = np.zeros_like(start)
    for member in range(ensemble.members):
        train(
            model,
            SelectedImages(images, rows),
            labels[rows],
            plan,
            seed=context.seed + member,
            device=context.device,
        )
        total += (_losses(context) - start) ** 2
        context.report(member + 1, ensemble.members)
    return as_scores(total / ensemble.members, context.labels)


def member_plan(context: TrajectoryContext, count: int) -> TrainingPlan:
    """From one member to the next: whole epochs over `count` images, of at least its steps."""
    plan = TrainingPlan(
        epochs=1,
        learning_rate=LEARNING_RATE,
        constant_rate=True,
        batch_size=max(2, min(BATCH, count // 4)),
        mirrored=context.mirrored,
    )
    return replace(plan, epochs=-(-context.ensemble.steps // steps_an_epoch(plan, count)))


def _losses(context: TrajectoryContext) -> np.ndarray:
    return np.concatenate(
        list(
            losses_of(context.model.eval(), context.images, mirrored=context.mirrored, device=context.device)
        )
    )
