"""What a curvature offers, and what all of them share."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from sharpeye.curvature.gradients import Gradients

# A network that is sure of every validation image has hardly any curvature left. Without a least one to damp
# by, influence there would exceed what float32 can hold.
LEAST_MEAN = 1e-12

State = dict[str, Tensor]
"""A factored curvature as named tensors, for storing it."""


class Curvature(Protocol):
    """Damped curvature of the validation risk, (H + λI), factored once.

    A sum over layers (block diagonal).
    """

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        """gᵀ(H + λI)⁻¹g for every one of the K gradients of B images, shape (K, B)."""

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        """G(H + λI)⁻¹Gᵀ, G the K gradients of an image as rows; shape (B, K, K)."""

    def state(self) -> State:
        """What `from_state` of the same class restores it from."""


GradientBatches = Iterable[tuple[Gradients, int]]
"""Batches of factored gradients Jᵀv with Σ_k v_k v_kᵀ = Hessian of the loss in the logits, and their number
of images."""


def absolute_damping(relative: float, mean: Tensor) -> Tensor:
    """λ, from the damping relative to the mean eigenvalue; that counts as LEAST_MEAN at least."""
    return relative * mean.clamp_min(LEAST_MEAN)


def squared_norms(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """(K, B, …) -> sums of squares over what follows, weighted by a tensor of its shape, (K, B)."""
    squares = values.flatten(2).square()
    return squares.sum(2) if weights is None else squares @ weights.flatten()


def gram(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """(K, B, …) -> inner products between the K rows of each image, weighted by a tensor of a row's shape,
    (B, K, K)."""
    rows = values.flatten(2).transpose(0, 1)
    return (rows if weights is None else rows * weights.flatten()) @ rows.mT
