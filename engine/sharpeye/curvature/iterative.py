"""Solving with the curvature by iteration, without ever factoring it."""

from collections.abc import Callable
from itertools import chain, islice, repeat

import torch

from sharpeye.curvature.base import LEAST_MEAN, GradientBatches
from sharpeye.curvature.gradients import Gradients, Vector, inner, weighted_sum
from sharpeye.errors import InputError

POWER_STEPS = 12
# The largest eigenvalue of one batch may lie above that of all.
SAFETY = 1.5


def product(gradients: Gradients, images: int, vector: Vector) -> Vector:
    """Hv over one batch, H = 1/B Σ_kb g gᵀ."""
    return weighted_sum(gradients, inner(gradients, vector) / images)


def lissa(batches: Callable[[], GradientBatches], vector: Vector, damping: float, steps: int) -> Vector:
    """(H + λI)⁻¹v by the recursion h ← v + h − (H_b + λI)h / s, the batches b in turn; returns h / s.

    The scale s exceeds the largest eigenvalue (power iteration over all batches), so that the recursion
    contracts. λ = damping · tr H / rows. Source: Agarwal et al. 2017, arXiv 1602.03943; Koh & Liang 2017,
    arXiv 1703.04730, section 3.

    Args:
        batches: each call yields the same batches of gradients whose outer products add up to H, each a
            sample of all.
        vector: v.
        damping: relative to the mean eigenvalue.
        steps: of the recursion, one batch each.

    Raises:
        InputError: the recursion diverged.
    """
    trace, count, parts, rows = 0.0, 0, 0, sum(part.numel() for part in vector.values())
    for gradients, images in batches():
        trace += sum(
            float((layer.output_gradients.square().sum(3) * layer.activations.square().sum(2)).sum())
            if layer.activations.shape[1] == 1
            else float(layer.dense().square().sum())
            for layer in gradients.values()
        )
        count += images
        parts += 1
    absolute = damping * max(trace / count / rows, LEAST_MEAN)
    scale = SAFETY * largest_eigenvalue(batches, vector, max(POWER_STEPS, parts)) + absolute
    estimate = {name: part / scale for name, part in vector.items()}
    for gradients, images in islice(chain.from_iterable(batches() for _ in repeat(None)), steps):
        curved = product(gradients, images, estimate)
        estimate = {
            name: vector[name] / scale + part - (curved[name] + absolute * part) / scale
            for name, part in estimate.items()
        }
    if not all(bool(part.isfinite().all()) for part in estimate.values()):
        raise InputError("--method lissa diverged on these images: raise --damping, or leave it out")
    return estimate


def largest_eigenvalue(batches: Callable[[], GradientBatches], like: Vector, steps: int) -> float:
    """Of H, by power iteration over the batches in turn, from a random start shaped `like` a vector."""
    # On the CPU, so that it is the same on every device.
    start = torch.Generator().manual_seed(0)
    current = {name: torch.randn(part.shape, generator=start).to(part) for name, part in like.items()}
    value = 0.0
    for gradients, images in islice(chain.from_iterable(batches() for _ in repeat(None)), steps):
        norm = sum(float(part.square().sum()) for part in current.values()) ** 0.5
        current = product(
            gradients, images, {name: part / max(norm, 1e-30) for name, part in current.items()}
        )
        value = max(value, sum(float(part.square().sum()) for part in current.values()) ** 0.5)
    return value
