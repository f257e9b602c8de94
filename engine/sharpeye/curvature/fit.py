"""From a model at a validation minimum to a factored curvature: which parameters, which approximation."""

from collections.abc import Iterator

import numpy as np
import torch

from sharpeye.curvature.base import Curvature, State
from sharpeye.curvature.dense import MAX_ROWS, DenseCurvature
from sharpeye.curvature.diagonal import DiagonalCurvature
from sharpeye.curvature.gradients import Gradients, fisher_vectors, parameter_count, select_layers, with_one
from sharpeye.curvature.kronecker import HeadBatch, KroneckerCurvature
from sharpeye.curvature.linearization import HEAD_BATCH, gradient_batch_size, head_batch, linearize, predict
from sharpeye.data.dataset import Images
from sharpeye.errors import InputError
from sharpeye.training.batches import read_batches
from sharpeye.training.devices import generator
from sharpeye.training.models import Classifier

SAMPLED_LABELS = 3


def fit_curvature(
    model: Classifier,
    kind: str,
    parameters: str,
    images: Images,
    damping: float,
    device: torch.device,
    seed: int,
    divisor: int = 1,
) -> Curvature:
    """Fit the damped curvature of the validation risk at θ̃.

    The Fisher is exact over labels for the head and sampled (one label an image, seeded) for deeper layers.

    Args:
        model: at the minimum, in eval mode, on `device`.
        kind: `dense`, `diagonal`, `kfac` or `ekfac`.
        parameters: `head`, `last-block` or `all`.
        images: the validation split, uint8 (N, S, S, 3).
        damping: λ relative to the mean eigenvalue of each block.
        device: where to compute.
        seed: seed of the sampled labels.
        divisor: batches are this many times smaller than usual, where memory is short.

    Raises:
        InputError: `dense` over more than MAX_ROWS parameters.
    """
    layers = select_layers(model, parameters)
    if kind == "dense" and parameter_count(layers.values()) > MAX_ROWS:
        raise InputError(
            f"--curvature dense: {parameter_count(layers.values()):,} parameters are too many for a dense "
            "matrix "
            f"(limit {MAX_ROWS:,}); use kfac, ekfac or diagonal, or --parameters head"
        )

    def batches() -> Iterator[tuple[Gradients, int]]:
        return fisher_batches(model, parameters, images, device, seed, divisor)

    if kind == "dense":
        return DenseCurvature.fit(batches(), damping)
    if kind == "diagonal":
        return DiagonalCurvature.fit(batches(), damping)
    if parameters == "head":
        return KroneckerCurvature.fit_head(
            lambda: head_batches(model, images, device, divisor), damping, corrected=kind == "ekfac"
        )
    return KroneckerCurvature.fit(batches, damping, corrected=kind == "ekfac")


def restore_curvature(kind: str, state: State) -> Curvature:
    """A curvature from what its `state` returned."""
    if kind == "dense":
        return DenseCurvature.from_state(state)
    return DiagonalCurvature.from_state(state) if kind == "diagonal" else KroneckerCurvature.from_state(state)


def head_batches(
    model: Classifier, images: Images, device: torch.device, divisor: int = 1
) -> Iterator[HeadBatch]:
    """What the head is fed, with a one for its bias, and probabilities, batch by batch."""
    for _, batch in read_batches(images, np.arange(len(images)), max(1, HEAD_BATCH // divisor), device):
        features, log_p = predict(model, batch)
        yield with_one(features), log_p.exp()


def fisher_batches(
    model: Classifier, parameters: str, images: Images, device: torch.device, seed: int, divisor: int = 1
) -> Iterator[tuple[Gradients, int]]:
    """Batches of factored gradients Jᵀv whose outer products add up to the Hessian.

    Arguments as of `fit_curvature`.

    Exact over labels for the head and sampled (one label an image, seeded) for deeper layers.
    """
    layers = select_layers(model, parameters)
    head = parameters == "head"
    labels = None if head else generator(seed, SAMPLED_LABELS)
    size = max(1, head_batch(model) // divisor) if head else gradient_batch_size(layers, divisor)
    for _, batch in read_batches(images, np.arange(len(images)), size, device):
        _, log_p, jacobian = linearize(model, layers, batch, parameters)
        yield jacobian(fisher_vectors(log_p.exp(), labels)), len(batch)
