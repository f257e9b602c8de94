"""The diagonal of the Fisher information."""

import torch
from torch import Tensor

from sharpeye.curvature.base import GradientBatches, State, absolute_damping, gram, squared_norms
from sharpeye.curvature.gradients import Gradients, LayerGradients


class DiagonalCurvature:
    """H ≈ diag(E[g²]) a layer, g over labels drawn from the model.

    Λ = damping · mean of the layer's diagonal.
    """

    def __init__(self, damped: dict[str, Tensor]):
        self.damped = damped

    @classmethod
    def fit(cls, batches: GradientBatches, damping: float) -> "DiagonalCurvature":
        sums: dict[str, Tensor] = {}
        count = 0
        for gradients, images in batches:
            for name, layer in gradients.items():
                squares = _squares(layer)
                sums[name] = squares if name not in sums else sums[name] + squares
            count += images
        means = {name: total / count for name, total in sums.items()}
        return cls({name: mean + absolute_damping(damping, mean.mean()) for name, mean in means.items()})

    def state(self) -> State:
        return self.damped

    @classmethod
    def from_state(cls, state: State) -> "DiagonalCurvature":
        return cls(state)

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        whitened = [_whitened(layer, self.damped[name]) for name, layer in gradients.items()]
        return torch.stack([squared_norms(rows) for rows in whitened]).sum(0)

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        whitened = [_whitened(layer, self.damped[name]) for name, layer in gradients.items()]
        return torch.stack([gram(rows) for rows in whitened]).sum(0)


def _squares(layer: LayerGradients) -> Tensor:
    """Σ g² over all gradients, (O, I); without forming these where weights are not shared over positions."""
    if layer.activations.shape[1] == 1:
        return layer.output_gradients[:, :, 0].square().sum(0).T @ layer.activations[:, 0].square()
    return layer.dense().square().sum((0, 1))


def _whitened(layer: LayerGradients, damped: Tensor) -> Tensor:
    """Rows with the inner products that gradients have under 1/damped, (K, B, O, I), or (K, B, O) where
    weights are not shared over positions."""
    if layer.activations.shape[1] == 1:
        weights = layer.activations[:, 0].square() @ damped.reciprocal().T
        return layer.output_gradients[:, :, 0] * weights.sqrt()
    return layer.dense() * damped.rsqrt()
