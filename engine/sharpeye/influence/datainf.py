"""DataInf: the inverse of a mean replaced by the mean of inverses, in closed form (Kwon et al. 2024, arXiv
2310.00902)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sharpeye.curvature.base import LEAST_MEAN, squared_norms
from sharpeye.curvature.gradients import Gradients, Vector, inner, select_layers, weighted_sum
from sharpeye.curvature.linearization import linearize
from sharpeye.influence.base import Scores
from sharpeye.influence.trajectory import (
    TrajectoryContext,
    as_scores,
    batch_size,
    influence_along,
    residuals,
    validation_gradient,
)
from sharpeye.training.batches import read_batches
from sharpeye.training.models import Classifier

# λ_l as a share of the mean squared gradient entry of a layer (the paper's choice).
DAMPING = 0.1


def datainf(context: TrajectoryContext) -> Scores:
    """−Σ_l v_lᵀ [1/n Σ_i (g_i g_iᵀ + λ_l I)⁻¹] g(x, y)_l with v = ∇R_val, over the layers l.

    Against the mean validation gradient. By Sherman–Morrison the bracket times v is
    1/(nλ_l) Σ_i (v − ⟨v, g_i⟩ / (λ_l + ‖g_i‖²) g_i), so that one direction serves all images.
    λ_l = 0.1 · mean of the squared entries of g_i in that layer. Source: the paper's equation 5.
    """
    model = context.trained()
    direction = swapped_inverse(context, model, validation_gradient(context, model))
    return as_scores(influence_along(context, model, direction), context.labels)


def swapped_inverse(context: TrajectoryContext, model: Classifier, vector: Vector) -> Vector:
    """1/n Σ_i (g_i g_iᵀ + λ_l I)⁻¹v, layer by layer."""
    count = len(context.learned[1])
    squares = dict.fromkeys(vector, 0.0)
    for gradients in training_gradients(context, model):
        for name, layer in gradients.items():
            squares[name] += float(squared_norms(layer.dense()).sum())
    damping = {
        name: DAMPING * max(squares[name] / count / vector[name].numel(), LEAST_MEAN) for name in vector
    }
    total = {name: torch.zeros_like(part) for name, part in vector.items()}
    for gradients in training_gradients(context, model):
        for name, layer in gradients.items():
            one: Gradients = {name: layer}
            weights: Tensor = inner(one, vector) / (damping[name] + squared_norms(layer.dense()))
            total[name] += weighted_sum(one, weights)[name]
    return {name: (vector[name] - total[name] / count) / damping[name] for name in vector}


def training_gradients(context: TrajectoryContext, model: Classifier) -> Iterator[Gradients]:
    """g_i under the given labels, batch by batch (K = 1)."""
    layers = select_layers(model, context.parameters)
    size = batch_size(model, context.parameters)
    images, labels = context.learned
    for rows, batch in read_batches(images, np.arange(len(images)), size, context.device):
        _, log_p, jacobian = linearize(model, layers, batch, context.parameters)
        yield jacobian(residuals(log_p.exp(), labels[rows])[None])
