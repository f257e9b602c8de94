"""The whole generalised Gauss–Newton matrix of a few layers, factored by Cholesky: exact, for small
parameter counts."""

import torch
from torch import Tensor

from sharpeye.curvature.base import GradientBatches, State, absolute_damping, gram, squared_norms
from sharpeye.curvature.gradients import Gradients

MAX_ROWS = 13_000


class DenseCurvature:
    """H = 1/N Σ_x J(x)ᵀ(diag p − ppᵀ)J(x) over all chosen parameters together; λ = damping · tr H / rows.

    For the softmax head this is the exact Hessian, since its logits are linear in the parameters.
    """

    def __init__(self, matrix: Tensor, damping: Tensor, factor: Tensor):
        self.matrix, self.damping, self.factor = matrix, damping, factor

    @classmethod
    def fit(cls, batches: GradientBatches, damping: float) -> "DenseCurvature":
        matrix: Tensor | None = None
        count = 0
        for gradients, images in batches:
            rows = _flat(gradients).flatten(0, 1)
            product = rows.T @ rows
            matrix = product if matrix is None else matrix + product
            count += images
        assert matrix is not None
        matrix = matrix / count
        absolute = absolute_damping(damping, matrix.trace() / len(matrix))
        return cls(
            matrix, absolute, torch.linalg.cholesky(matrix + absolute * torch.eye(len(matrix)).to(matrix))
        )

    def state(self) -> State:
        return {"matrix": self.matrix, "damping": self.damping, "factor": self.factor}

    @classmethod
    def from_state(cls, state: State) -> "DenseCurvature":
        return cls(**state)

    def _whiten(self, gradients: Gradients) -> Tensor:
        flat = _flat(gradients)
        solved: Tensor = torch.linalg.solve_triangular(self.factor, flat.flatten(0, 1).T, upper=False)
        return solved.T.reshape(flat.shape)

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        return squared_norms(self._whiten(gradients))

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        return gram(self._whiten(gradients))


def _flat(gradients: Gradients) -> Tensor:
    """All layers' gradients side by side, (K, B, rows of H)."""
    return torch.cat([layer.dense().flatten(2) for layer in gradients.values()], dim=2)
