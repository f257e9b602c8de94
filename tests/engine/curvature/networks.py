"""A tiny float64 network, and dense oracles by plain autograd, one image and one class at a time."""

import torch
from torch import Tensor, nn

from sharpeye.curvature.gradients import Gradients
from sharpeye.training.models import Classifier


def tiny_network(classes: int = 3) -> Classifier:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(3, 2, 2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
    )
    return Classifier(features, nn.Linear(8, classes)).double().eval()


def attentive_network() -> Classifier:
    """A tiny transformer, in eval mode, where PyTorch would take its fused kernels."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    features = nn.Sequential(nn.Flatten(2), nn.Linear(36, 8), block, nn.Flatten())
    return Classifier(features, nn.Linear(16, 3)).double().eval()


def tiny_images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat_rows(model: Classifier, layers: dict[str, nn.Module], scalar: Tensor) -> Tensor:
    """∇ of a scalar with respect to every layer's [weight | bias], flattened as (O, I) rows, layers in
    order."""
    parts = []
    for layer in layers.values():
        tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        gradients = torch.autograd.grad(scalar, tensors, retain_graph=True)
        parts.append(torch.cat([g.reshape(len(layer.weight), -1) for g in gradients], dim=1).flatten())
    return torch.cat(parts)


def jacobian(model: Classifier, layers: dict[str, nn.Module], image: Tensor) -> tuple[Tensor, Tensor]:
    """J (C, parameters) and p (C,) of one image."""
    logits = model(image[None])[0]
    return torch.stack([flat_rows(model, layers, logit) for logit in logits]), logits.detach().softmax(0)


def gauss_newton(model: Classifier, layers: dict[str, nn.Module], images: Tensor) -> Tensor:
    """1/N Σ Jᵀ(diag p − ppᵀ)J, dense."""
    total: Tensor | float = 0.0
    for image in images:
        rows, p = jacobian(model, layers, image)
        total = total + rows.T @ (p.diag() - torch.outer(p, p)) @ rows
    assert isinstance(total, Tensor)
    return total / len(images)


def flat(gradients: Gradients) -> Tensor:
    """(K, B, parameters)."""
    return torch.cat([layer.dense().flatten(2) for layer in gradients.values()], dim=2)
