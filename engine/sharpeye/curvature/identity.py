"""No curvature at all: H + λI = I, for methods that compare plain gradients."""

import torch
from torch import Tensor

from sharpeye.curvature.base import State, gram, squared_norms
from sharpeye.curvature.gradients import Gradients


class IdentityCurvature:
    """gᵀg and GGᵀ."""

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        return torch.stack([squared_norms(layer.dense()) for layer in gradients.values()]).sum(0)

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        return torch.stack([gram(layer.dense()) for layer in gradients.values()]).sum(0)

    def state(self) -> State:
        return {}
