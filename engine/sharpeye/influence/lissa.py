"""LiSSA: classical influence on the validation risk, its inverse Hessian by stochastic iteration (arXiv
1703.04730)."""

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from sharpeye.curvature.base import GradientBatches
from sharpeye.curvature.fit import fisher_batches
from sharpeye.curvature.gradients import fisher_vectors, head_gradients
from sharpeye.curvature.iterative import lissa
from sharpeye.curvature.linearization import head_batch, predict
from sharpeye.data.dataset import SelectedImages
from sharpeye.influence.base import Scores
from sharpeye.influence.trajectory import TrajectoryContext, as_scores, influence_along, validation_gradient
from sharpeye.training.batches import read_batches

# Of deeper layers each step is a pass through the network.
STEPS = {True: 1000, False: 200}


def lissa_influence(context: TrajectoryContext) -> Scores:
    """−∇R_valᵀ(H_train + λI)⁻¹g(x, y) at the network trained on the given labels.

    H_train the Gauss–Newton matrix.

    Against the mean validation gradient. Koh & Liang's self-influence needs one solve an image, which LiSSA
    cannot afford; `vm` is that quantity with a factored curvature.
    """
    model = context.trained()
    # Class folders come class by class, and a batch of one class is no sample of H.
    learned, _ = context.learned
    images = SelectedImages(learned, np.random.default_rng(context.seed).permutation(len(learned)))
    batches: Callable[[], GradientBatches] = partial(
        fisher_batches, model, context.parameters, images, context.device, context.seed
    )
    if context.parameters == "head":  # a few numbers an image: kept, so that the features are computed once
        rows = np.arange(len(images))
        outputs = [
            predict(model, batch)
            for _, batch in read_batches(images, rows, head_batch(model), context.device)
        ]
        batches = partial(_head_batches, outputs)
    solved = lissa(
        batches, validation_gradient(context, model), context.damping, STEPS[context.parameters == "head"]
    )
    return as_scores(influence_along(context, model, solved), context.labels)


def _head_batches(outputs: list[tuple[Tensor, Tensor]]) -> GradientBatches:
    """As `fisher_batches`, from features φ (B, d) and log-probabilities (B, C)."""
    for features, log_p in outputs:
        yield head_gradients(features, fisher_vectors(log_p.exp())), len(features)
