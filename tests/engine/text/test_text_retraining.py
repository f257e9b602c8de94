"""Influence against retraining, where the loss is convex in the trained part: B of LoRA on the last layer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.text.examples import read_examples
from sharpeye.text.gradients import fisher_batches
from sharpeye.text.influence import signed_influence
from sharpeye.text.language_models import (
    EncodedExample,
    LanguageModel,
    LoraPlan,
    completion_losses,
    encode,
    load_language_model,
    token_batch,
)
from tests.engine.text.test_text_influence import CPU, curvature_in, flat, stored
from tests.engine.text.tiny import tiny_model, write_examples

WEIGHT = 1e-3


def test_influence_is_what_retraining_with_the_example_changes(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    whole = load_language_model(str(folder), LoraPlan(rank=4, projections=("lm_head",)), CPU, seed=0)
    whole.network.double()
    model = replace(whole, layers={name: layer for name, layer in whole.layers.items() if ".lora_B." in name})
    [b] = model.parameters
    training, validation = (
        encode(model, read_examples(write_examples(tmp_path / f"{name}.jsonl", count, seed)))[0]
        for name, count, seed in (("train", 14, 0), ("check", 10, 1))
    )
    batches = [token_batch(some, list(range(len(some))), CPU) for some in (training, validation)]

    def losses(which: int) -> Tensor:
        return completion_losses(model.network(batches[which]), batches[which])

    def minimise(objective: object, steps: int) -> None:
        optimizer = torch.optim.LBFGS(
            [b],
            lr=1.0,
            max_iter=steps,
            tolerance_grad=1e-12,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            value: Tensor = objective()  # type: ignore[operator]
            value.backward()
            return value

        optimizer.step(closure)

    b.requires_grad_(True)
    minimise(lambda: losses(1).mean() + 1e-3 * b.square().sum(), 100)
    curvature = KroneckerCurvature.fit(
        lambda: (pair for _ in range(20) for pair in fisher_batches(model, validation, _, 10)), 1.0, True
    )
    [layer] = curvature.layers.values()
    ridge = 1 / float(layer.rest)
    pairs = signed_influence(
        curvature_in(curvature),
        stored(model, flat(model, training)[0]),
        stored(model, flat(model, validation)[0]),
        CPU,
    )
    start, before = b.detach().clone(), losses(1).detach()
    [slope] = torch.autograd.grad(losses(1).mean(), [b])
    changes = np.empty_like(pairs)
    for row in range(len(training)):
        # With its slope taken off, the start is the minimum of the damped validation risk.
        minimise(
            lambda row=row: (
                losses(1).mean()
                - (slope * b).sum()
                + ridge / 2 * (b - start).square().sum()
                + WEIGHT * losses(0)[row]
            ),
            60,
        )
        changes[row] = ((before - losses(1)) / WEIGHT).detach().numpy()
        with torch.no_grad():
            b.copy_(start)
    hessian = dense(model, validation) + ridge * torch.eye(b.numel()).double()
    g, v = (flat(model, some)[0] for some in (training, validation))
    exact = (g @ torch.linalg.solve(hessian, v.T)).numpy()
    assert spearmanr(exact.flatten(), changes.flatten()).statistic > 0.95
    # What the Kronecker factors leave of it.
    assert spearmanr(pairs.flatten(), changes.flatten()).statistic > 0.85


def dense(model: LanguageModel, validation: list[EncodedExample]) -> Tensor:
    """The Hessian of the validation risk from many sampled tokens, (D, D)."""
    total, count = 0.0, 0
    for seed in range(100):
        for gradients, _ in fisher_batches(model, validation, seed, 10):
            rows = torch.cat([layer.dense()[0].flatten(1) for layer in gradients.values()], 1)
            total, count = total + rows.T @ rows, count + len(rows)
    return total / count  # type: ignore[return-value]
