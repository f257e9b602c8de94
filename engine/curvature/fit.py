"""From a model at a validation minimum to a factored curvature: which parameters, which approximation."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from engine.curvature.base import Curvature, State
from engine.curvature.dense import MAX_ROWS, DenseCurvature
from engine.curvature.diagonal import DiagonalCurvature
from engine.curvature.gradients import Backward, Gradients, fisher_vectors, head_gradients, parameter_count, select_layers
from engine.curvature.kronecker import KroneckerCurvature
from engine.errors import InputError
from engine.training.batches import Images, read_batches
from engine.training.devices import autocast, generator
from engine.training.models import Classifier

SAMPLED_LABELS = 3
HEAD_BATCH = 500
MAX_GRADIENT_FLOATS = 2**26


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
            f"--curvature dense: {parameter_count(layers.values()):,} parameters are too many for a dense matrix "
            f"(limit {MAX_ROWS:,}); use kfac, ekfac or diagonal, or --parameters head"
        )

    def batches() -> Iterator[tuple[Gradients, int]]:
        rows = np.arange(len(images))
        if parameters == "head":
            for _, batch in read_batches(images, rows, max(1, HEAD_BATCH // divisor), device):
                features, probabilities = predict(model, batch)
                yield head_gradients(features, fisher_vectors(probabilities)), len(batch)
            return
        labels = generator(seed, SAMPLED_LABELS)
        for _, batch in read_batches(images, rows, images_a_batch(layers, divisor), device):
            backward = Backward(model, layers, batch)
            yield backward(fisher_vectors(backward.logits.detach().float().softmax(1), labels)), len(batch)

    if kind == "dense":
        return DenseCurvature.fit(batches(), damping)
    if kind == "diagonal":
        return DiagonalCurvature.fit(batches(), damping)
    return KroneckerCurvature.fit(batches, damping, corrected=kind == "ekfac")


def restore_curvature(kind: str, state: State) -> Curvature:
    """A curvature from what its `state` returned."""
    if kind == "dense":
        return DenseCurvature.from_state(state)
    return DiagonalCurvature.from_state(state) if kind == "diagonal" else KroneckerCurvature.from_state(state)


@torch.inference_mode()
def predict(model: Classifier, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Features φ (B, d) and probabilities (B, C); the head in float32 even where the features are computed in bf16."""
    with autocast(batch.device):
        features = model.features(batch)
    features = features.float()
    return features, model.head(features).softmax(1)


def images_a_batch(layers: dict[str, nn.Module], kinds: int) -> int:
    """Images whose K gradients of the largest layer fit MAX_GRADIENT_FLOATS; 1 to 128."""
    largest = max(parameter_count([layer]) for layer in layers.values())
    return int(np.clip(MAX_GRADIENT_FLOATS // (largest * kinds), 1, 128))
