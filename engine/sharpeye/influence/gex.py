"""GEX: influence from a geometric ensemble around the trained network (Kim et al. 2023, NeurIPS, "GEX")."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sharpeye.data.dataset import SelectedImages
from sharpeye.influence.base import Scores
from sharpeye.influence.trajectory import TrajectoryContext, as_scores, losses_of
from sharpeye.training.trainer import TrainingPlan, train

MEMBERS = 8
IMAGES_A_MEMBER = 4096
PLAN = TrainingPlan(epochs=1, learning_rate=0.05, batch_size=256, snapshots=1)


def gex(context: TrajectoryContext) -> Scores:
    """Self-influence 1/M Σ_m (ℓ_m(x, y) − ℓ_0(x, y))², ℓ_m the loss of a member, ℓ_0 that of the trained
    network.

    A member is the trained network after one short epoch of SGD on a random part of the training set: MEMBERS
    of at most 16 steps, where the paper takes 32 of 800.
    """
    trained = {key: value.clone() for key, value in context.trained().state_dict().items()}
    start = _losses(context)
    total = np.zeros_like(start)
    images, labels = context.learned
    count = len(labels)
    plan = replace(PLAN, batch_size=max(2, min(PLAN.batch_size, count // 4)), mirrored=context.mirrored)
    with TemporaryDirectory() as folder:
        for member in range(MEMBERS):
            context.model.load_state_dict(trained)
            rows = np.random.default_rng((context.seed, member)).permutation(count)[:IMAGES_A_MEMBER]
            train(
                context.model,
                SelectedImages(images, rows),
                labels[rows],
                plan,
                seed=context.seed + member,
                device=context.device,
                checkpoint=Path(folder) / f"{member}.safetensors",
            )
            total += (_losses(context) - start) ** 2
            context.report(member + 1, MEMBERS)
    return as_scores(total / MEMBERS, context.labels)


def _losses(context: TrajectoryContext) -> np.ndarray:
    return np.concatenate(
        list(
            losses_of(context.model.eval(), context.images, mirrored=context.mirrored, device=context.device)
        )
    )
