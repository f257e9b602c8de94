"""The diagonal of the Fisher information."""

import torch
from torch import Tensor

from sharpeye.curvature.base import GradientBatches, State, absolute_damping, gram, squared_norms
from sharpeye.curvature.gradients import Gradients


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
                squares = layer.dense().square().sum((0, 1))
                sums[name] = squares if name not in sums else sums[name] + squares
            count += images
        means = {name: total / count for name, total in sums.items()}
        return cls({name: mean + absolute_damping(damping, mean.mean()) for name, mean in means.items()})

    def state(self) -> State:
        return self.damped

    @classmethod
    def from_state(cls, state: State) -> "DiagonalCurvature":
        return cls(state)

    def _whiten(self, gradients: Gradients) -> dict[str, Tensor]:
        return {name: layer.dense() * self.damped[name].rsqrt() for name, layer in gradients.items()}

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        return torch.stack([squared_norms(rows) for rows in self._whiten(gradients).values()]).sum(0)

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        return torch.stack([gram(rows) for rows in self._whiten(gradients).values()]).sum(0)
