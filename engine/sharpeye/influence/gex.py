"""GEX: influence from a geometric ensemble around the trained network (Kim et al. 2023, NeurIPS, "GEX")."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sharpeye.data.dataset import SelectedImages
from sharpeye.influence.base import Scores
from sharpeye.influence.trajectory import TrajectoryContext, as_scores, losses_of
from sharpeye.training.trainer import TrainingPlan, snapshots, steps_an_epoch, train

LEARNING_RATE = 0.05
BATCH = 256


def gex(context: TrajectoryContext) -> Scores:
    """Self-influence 1/M Σ_m (ℓ_m(x, y) − ℓ_0(x, y))², ℓ_m the loss of a member, ℓ_0 that of the trained
    network.

    The members lie on the way of SGD from the trained network on, at a constant rate, so many steps apart. A
    budget says how many: `thorough` takes the paper's, 32 members of 800 steps.
    """
    images, labels = context.learned
    rows = np.random.default_rng(context.seed).permutation(len(labels))[: context.ensemble.steps * BATCH]
    plan = members_plan(context, len(rows))
    context.trained()
    start = _losses(context)
    total = np.zeros_like(start)
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "members.safetensors"
        train(
            context.model,
            SelectedImages(images, rows),
            labels[rows],
            plan,
            seed=context.seed,
            device=context.device,
            checkpoint=checkpoint,
        )
        members = snapshots(plan, len(rows), checkpoint)
        for number, member in enumerate(members, 1):
            context.at(member)
            total += (_losses(context) - start) ** 2
            context.report(number, len(members))
    return as_scores(total / len(members), context.labels)


def members_plan(context: TrajectoryContext, count: int) -> TrainingPlan:
    """Training on `count` images whose snapshots are the members: whole epochs of at least the steps of a
    member lie between them."""
    members = context.ensemble.members
    plan = TrainingPlan(
        epochs=members,
        learning_rate=LEARNING_RATE,
        constant_rate=True,
        batch_size=max(2, min(BATCH, count // 4)),
        mirrored=context.mirrored,
        snapshots=members,
    )
    epochs = -(-context.ensemble.steps // steps_an_epoch(plan, count))
    return replace(plan, epochs=members * epochs)


def _losses(context: TrajectoryContext) -> np.ndarray:
    return np.concatenate(
        list(
            losses_of(context.model.eval(), context.images, mirrored=context.mirrored, device=context.device)
        )
    )
