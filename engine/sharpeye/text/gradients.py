"""Gradients of each example's loss with respect to the LoRA parameters, factored over tokens, in one pass."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sharpeye.curvature.base import GradientBatches
from sharpeye.curvature.gradients import Backward, Gradients, LayerGradients
from sharpeye.text.language_models import (
    EncodedExample,
    LanguageModel,
    TokenBatch,
    batches_by_length,
    completion_losses,
    token_batch,
)
from sharpeye.training.devices import generator

SAMPLED_TOKENS = 31

Vectors = Callable[[Tensor, TokenBatch], Tensor]
"""From logits (B, T, V) to K vectors v at them, (K, B, T, V)."""


def residuals(logits: Tensor, batch: TokenBatch) -> Tensor:
    """∂ℓ/∂logits of each example, (p − e_y) / T on the tokens of its completion, (1, B, T, V)."""
    vectors = logits.softmax(2)
    vectors.scatter_add_(2, batch.targets[:, :, None], -torch.ones_like(vectors[:, :, :1]))
    return (vectors * batch.weights[:, :, None])[None]


def sampled_fisher(draws: torch.Generator, count: int = 1) -> Vectors:
    """Vectors v with E Σ_k v vᵀ the Hessian of each example's loss in its logits, from `count` samples.

    A token drawn from the model at each place: v = (p − e_c) / √(count · T). The draws are independent and
    have mean zero, so that products of different places vanish on average, though all share one vector.
    """

    def vectors(logits: Tensor, batch: TokenBatch) -> Tensor:
        p = logits.softmax(2)
        drawn = torch.multinomial(p.flatten(0, 1).cpu(), count, replacement=True, generator=draws)
        drawn = drawn.to(p.device).T.reshape(count, *p.shape[:2], 1)
        result = p.repeat(count, 1, 1, 1)
        result.scatter_add_(3, drawn, -torch.ones_like(result[..., :1]))
        return result * (batch.weights / count).sqrt()[None, :, :, None]

    return vectors


def gradient_batches(
    model: LanguageModel,
    encoded: list[EncodedExample],
    vectors: Vectors,
    size: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[list[int], Gradients, Tensor]]:
    """Batch by batch: rows, factored gradients Jᵀv of every LoRA matrix, and the losses, (B,)."""
    done = 0
    for rows in batches_by_length(encoded, size or model.batch):
        yield rows, *_gradients_of(model, token_batch(encoded, rows, model.device), vectors)
        done += len(rows)
        if report is not None:
            report(done, len(encoded))


def _gradients_of(model: LanguageModel, batch: TokenBatch, vectors: Vectors) -> tuple[Gradients, Tensor]:
    """Of one batch. What it took on the way is dropped before the next one."""
    backward = Backward(model.network, model.layers, batch)
    logits = backward.logits.detach()
    shown = batch.mask[:, :, None].to(logits.dtype)
    # The last layer sees no more than the places of the completions, which are the last ones.
    gradients = {
        name: LayerGradients(
            layer.activations * shown[:, -layer.activations.shape[1] :], layer.output_gradients
        )
        for name, layer in backward(vectors(logits, batch)).items()
    }
    return gradients, completion_losses(logits, batch)


def fisher_batches(
    model: LanguageModel, encoded: list[EncodedExample], seed: int, size: int
) -> GradientBatches:
    """Batches of gradients whose outer products add up to the Hessian of the mean loss, and their numbers.

    One sample a token, the same ones at every call.
    """
    draws = generator(seed, SAMPLED_TOKENS)
    for rows, gradients, _ in gradient_batches(model, encoded, sampled_fisher(draws), size):
        yield gradients, len(rows)
