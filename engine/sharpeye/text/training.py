"""Training LoRA parameters to a minimum of the examples' risk: plain (ERM) or flat (LPF-SGD)."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sharpeye.progress import Progress, Report, ignore
from sharpeye.text.language_models import EncodedExample, LanguageModel, completion_losses, token_batch
from sharpeye.training.checkpoints import epochs_done, load_optimizer, load_parameters, save_checkpoint
from sharpeye.training.devices import generator
from sharpeye.training.optimizers import erm_gradient, lpf_gradient
from sharpeye.training.trainer import one_cycle

SHUFFLE, NOISE = 1, 3
# Batches of examples of like lengths are drawn from pools of so many batches, so that little is padding.
POOL = 8
REFERENCE_BATCH = 16


@dataclass(frozen=True)
class LoraTraining:
    """What training does.

    Attributes:
        epochs: passes over the examples.
        optimizer: `erm` or `lpf-sgd`.
        learning_rate: peak of AdamW's one-cycle schedule with REFERENCE_BATCH examples a step; it grows with
            the root of their number.
        batch_size: examples a step.
        sigma: LPF-SGD's noise, relative to each filter's weights.
    """

    epochs: int
    optimizer: str = "erm"
    learning_rate: float = 1e-3
    batch_size: int = 16
    sigma: float = 0.1


def train_lora(
    model: LanguageModel,
    encoded: list[EncodedExample],
    plan: LoraTraining,
    *,
    seed: int,
    checkpoint: Path | None = None,
    stage: str = "training",
    report: Report = ignore,
) -> None:
    """Train in place; continue from `checkpoint` where it holds an earlier epoch of the same plan.

    Args:
        model: on its device.
        encoded: the examples.
        plan: what to do.
        seed: seed of the order of examples and of noise.
        checkpoint: written after every epoch (safetensors; parameters, moments, epoch).
        stage: name for progress.
        report: called after every step.
    """
    parameters: list[Tensor] = list(model.parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    peak = plan.learning_rate * (plan.batch_size / REFERENCE_BATCH) ** 0.5
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    first = epochs_done(checkpoint) if checkpoint else 0
    if checkpoint and first:
        load_lora(model, load_parameters(checkpoint, model.device))
        load_optimizer(checkpoint, optimizer)
    steps = -(-len(encoded) // plan.batch_size)
    total, started, trained = plan.epochs * steps, time.monotonic(), 0
    for epoch in range(first, plan.epochs):
        noise = generator(seed, NOISE, epoch, device=model.device)
        loss_sum = 0.0
        for step, rows in enumerate(shuffled_batches(encoded, plan.batch_size, seed, epoch)):
            at = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = peak * one_cycle((at + 1) / (total + 1))
            batch = token_batch(encoded, rows, model.device)

            def closure() -> Tensor:
                return completion_losses(model.network(batch), batch).mean()  # noqa: B023 - called in this turn

            optimizer.zero_grad(set_to_none=True)
            if plan.optimizer == "lpf-sgd":
                loss = lpf_gradient(parameters, closure, plan.sigma, noise)
            else:
                loss = erm_gradient(closure)
            optimizer.step()
            loss_sum += float(loss)
            trained += len(rows)
            rate = trained / (time.monotonic() - started)
            done = int(epoch + (step + 1) / steps)
            left = (total - at - 1) * plan.batch_size / rate
            report(Progress(stage, done, plan.epochs, "epoch", loss_sum / (step + 1), rate, left))
        if checkpoint:
            lora = {name: layer.weight for name, layer in model.layers.items()}
            save_checkpoint(checkpoint, lora, optimizer, epoch + 1)


def shuffled_batches(encoded: list[EncodedExample], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches in random order, of examples that are alike in length within POOL batches."""
    draws = generator(seed, SHUFFLE, epoch)
    order = torch.randperm(len(encoded), generator=draws).tolist()
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size], key=lambda row: len(encoded[row].tokens))
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    return [batches[at] for at in torch.randperm(len(batches), generator=draws).tolist()]


def load_lora(model: LanguageModel, parameters: dict[str, Tensor]) -> None:
    """Put LoRA parameters into a model."""
    with torch.no_grad():
        for name, layer in model.layers.items():
            layer.weight.copy_(parameters[name])
