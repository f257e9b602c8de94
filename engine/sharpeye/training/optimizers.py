"""How a gradient is taken: plainly (ERM), at an ascended point (SAM), or at a perturbed point (LPF-SGD)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Closure = Callable[[], Tensor]


def erm_gradient(closure: Closure) -> Tensor:
    """Leave ∇R(θ) in `.grad`; returns the loss."""
    loss = closure()
    loss.backward()
    return loss.detach()


def sam_gradient(model: nn.Module, parameters: list[Tensor], closure: Closure, rho: float) -> Tensor:
    """Leave ∇R(θ + ρ g/‖g‖) in `.grad`, g = ∇R(θ); returns R(θ).

    BatchNorm statistics are kept on the second pass.

    Source: Foret et al. 2021, arXiv 2010.01412, Algorithm 1.
    """
    loss = erm_gradient(closure)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    steps = [torch.zeros_like(p) if p.grad is None else p.grad * (rho / (norm + 1e-12)) for p in parameters]
    with _displaced(parameters, steps), _frozen_batch_norm(model):
        for p in parameters:
            p.grad = None
        closure().backward()
    return loss


def lpf_gradient(
    parameters: list[Tensor], closure: Closure, sigma: float, generator: torch.Generator
) -> Tensor:
    """Leave ∇R(θ + ε) in `.grad`, ε ~ N(0, (σ‖w‖)²/n) for each filter w of n weights; returns R(θ + ε).

    One noise sample (M = 1). σ is the expected relative length ‖ε‖/‖w‖ of a filter's noise, so that one value
    fits filters of every size; the paper's σ is this one divided by √n. Source: Bisla et al. 2022, arXiv
    2201.08025, Algorithm 1.
    """
    with _displaced(parameters, [filter_noise(p, sigma, generator) for p in parameters]):
        return erm_gradient(closure)


def filter_noise(parameter: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """ε ~ N(0, (σ‖w‖)²/n) for each output filter w (first axis.

    A vector is one filter), shaped like the parameter.
    """
    noise = torch.randn(parameter.shape, generator=generator, device=generator.device).to(parameter)
    filters = parameter.detach().reshape(len(parameter) if parameter.ndim > 1 else 1, -1)
    scale = sigma * filters.norm(dim=1, keepdim=True) / filters.shape[1] ** 0.5
    return (noise.reshape(filters.shape) * scale).reshape(parameter.shape)


@contextmanager
def _displaced(parameters: list[Tensor], steps: list[Tensor]) -> Iterator[None]:
    """Parameters moved by `steps` inside the block, and put back exactly (not by subtraction) after it."""
    originals = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, steps)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, originals)


@contextmanager
def _frozen_batch_norm(model: nn.Module) -> Iterator[None]:
    """Batch statistics are used but not recorded inside the block."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    counts = [m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None for m in norms]
    for m in norms:
        m.momentum = 0.0
    try:
        yield
    finally:
        for m, momentum, count in zip(norms, momenta, counts, strict=True):
            m.momentum = momentum
            if count is not None and m.num_batches_tracked is not None:
                m.num_batches_tracked.copy_(count)
