"""How sharp a risk is around some parameters: in the worst direction, on average, and by its Hessian."""

from collections.abc import Callable
from statistics import fmean, stdev

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from sharpeye.training.devices import plain_attention
from sharpeye.training.models import Classifier
from sharpeye.training.optimizers import filter_noise

Parameters = dict[str, Tensor]
Risk = Callable[[Parameters], Tensor]

ASCENT_STEPS = 10
NOISE_SAMPLES = 8
POWER_STEPS = 60
CONVERGED = 0.05
TRACE_SAMPLES = 16


def trained_parameters(model: Classifier) -> Parameters:
    """The parameters that training moves, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def risk_of(model: Classifier, batch: Tensor, labels: Tensor) -> Risk:
    """R(θ): the mean loss over a batch, as a function of the parameters; buffers stay as they are.

    Args:
        model: in eval mode.
        batch: normalised images, (B, 3, S, S).
        labels: (B,).
    """

    def risk(parameters: Parameters) -> Tensor:
        return functional.cross_entropy(functional_call(model, parameters, (batch,)).float(), labels)

    return risk


def gradient(risk: Risk, at: Parameters) -> Parameters:
    """∇R."""
    leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
    return dict(zip(leaves, torch.autograd.grad(risk(leaves), list(leaves.values())), strict=True))


def hessian_product(risk: Risk, at: Parameters, vector: Parameters) -> Parameters:
    """∇²R · v by differentiating ⟨∇R, v⟩."""
    leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
    with plain_attention():
        slopes = torch.autograd.grad(risk(leaves), list(leaves.values()), create_graph=True)
        along = sum((slope * vector[name]).sum() for name, slope in zip(leaves, slopes, strict=True))
        assert isinstance(along, Tensor)
        return dict(zip(leaves, torch.autograd.grad(along, list(leaves.values())), strict=True))


def worst_risk(risk: Risk, at: Parameters, radius: float, seed: int = 0) -> float:
    """R^γ(θ) = max of R within the ball ‖δ‖ ≤ γ, by projected gradient ascent from a random point on its
    surface.

    The sharpness of DESIGN's vocabulary is this less R(θ). Every step goes half a radius along the normalised
    gradient.
    """
    step = scaled(random_like(at, seed), radius)
    worst = float("-inf")
    for _ in range(ASCENT_STEPS):
        slope = gradient(risk, moved(at, step))
        step = moved(step, scaled(slope, radius / 2))
        step = scaled(step, radius) if norm(step) > radius else step
        with torch.no_grad():
            worst = max(worst, float(risk(moved(at, step))))
    return worst


@torch.no_grad()
def noisy_risk(risk: Risk, at: Parameters, sigma: float, seed: int = 0) -> float:
    """E R(θ + ε) over filter-wise noise of relative length σ, the LPF measure (arXiv 2201.08025), over
    NOISE_SAMPLES samples."""
    device = next(iter(at.values())).device
    source = torch.Generator(device).manual_seed(seed)
    total = 0.0
    for _ in range(NOISE_SAMPLES):
        total += float(risk({name: value + filter_noise(value, sigma, source) for name, value in at.items()}))
    return total / NOISE_SAMPLES


def top_eigenvalue(risk: Risk, at: Parameters, seed: int = 0) -> tuple[float, float]:
    """Eigenvalue of ∇²R of largest magnitude, and how far from it an eigenvalue lies at most.

    By power iteration v ← Hv/‖Hv‖ until λ = vᵀHv has an eigenvalue within CONVERGED·|λ|: one lies within
    ‖Hv − λv‖ of it, as H is symmetric; or for POWER_STEPS steps.
    """
    vector = scaled(random_like(at, seed), 1.0)
    value = error = 0.0
    for _ in range(POWER_STEPS):
        product = hessian_product(risk, at, vector)
        value = dot(vector, product)
        error = norm(moved(product, vector, -value))
        if error <= CONVERGED * abs(value):
            break
        vector = scaled(product, 1.0)
    return value, error


def hessian_trace(risk: Risk, at: Parameters, seed: int = 0) -> tuple[float, float]:
    """tr ∇²R by Hutchinson's estimator, and its standard error: the mean of vᵀ∇²Rv over TRACE_SAMPLES random
    sign vectors v."""
    values = []
    for sample in range(TRACE_SAMPLES):
        signs = {name: value.sign() for name, value in random_like(at, seed + sample).items()}
        values.append(dot(signs, hessian_product(risk, at, signs)))
    return fmean(values), stdev(values) / TRACE_SAMPLES**0.5


def random_like(at: Parameters, seed: int) -> Parameters:
    """Standard normal numbers, the same on every device."""
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=source).to(value) for name, value in at.items()}


def moved(at: Parameters, step: Parameters, factor: float = 1.0) -> Parameters:
    """θ + factor · step."""
    return {name: value + factor * step[name] for name, value in at.items()}


def dot(first: Parameters, second: Parameters) -> float:
    """⟨a, b⟩ over all parameters."""
    return sum(float((value * second[name]).sum()) for name, value in first.items())


def norm(vector: Parameters) -> float:
    """ℓ2 length over all parameters."""
    return dot(vector, vector) ** 0.5


def scaled(vector: Parameters, length: float) -> Parameters:
    """The same direction with another length."""
    factor = length / max(norm(vector), 1e-30)
    return {name: value * factor for name, value in vector.items()}
