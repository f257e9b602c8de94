"""Per-image gradients and Jacobians in factored form, layer by layer, without ever storing a gradient per
image."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpeye.training.devices import autocast
from sharpeye.training.models import Classifier


@dataclass(frozen=True)
class LayerGradients:
    """K gradients for each of B images with respect to one layer's weight (O, I), bias as last input column.

    Gradient k of image b is Σ_p output_gradients[k, b, p] ⊗ activations[b, p], over P positions (P = 1
    without weight sharing).

    Attributes:
        activations: (B, P, I).
        output_gradients: (K, B, P, O).
    """

    activations: Tensor
    output_gradients: Tensor

    def dense(self) -> Tensor:
        """The gradients themselves, (K, B, O, I)."""
        return torch.einsum("kbpo,bpi->kboi", self.output_gradients, self.activations)

    def gram(self) -> Tensor:
        """Inner products between the K gradients of each image, (B, K, K), without forming them: Σ_pq
        ⟨a_p, a_q⟩⟨b_kp, b_lq⟩."""
        mixed = (self.activations @ self.activations.mT) @ self.output_gradients
        return torch.einsum("kbpo,lbpo->bkl", self.output_gradients, mixed)


Gradients = dict[str, LayerGradients]

Vector = dict[str, Tensor]
"""A direction in parameter space: (O, I) for every layer, bias as last input column."""


def inner(gradients: Gradients, vector: Vector) -> Tensor:
    """⟨g, v⟩ of each of the K gradients of B images, (K, B)."""
    return torch.stack(
        [
            torch.einsum("kbpo,oi,bpi->kb", layer.output_gradients, vector[name], layer.activations)
            for name, layer in gradients.items()
        ]
    ).sum(0)


def weighted_sum(gradients: Gradients, weights: Tensor) -> Vector:
    """Σ_kb w_kb g_kb, the weights (K, B)."""
    return {
        name: torch.einsum("kb,kbpo,bpi->oi", weights, layer.output_gradients, layer.activations)
        for name, layer in gradients.items()
    }


def select_layers(model: Classifier, parameters: str) -> dict[str, nn.Module]:
    """The layers whose weights the influence is taken over.

    `head`; `last-block`, the head and the layers in the same module as the last layer before it; or `all`
    Linear and ungrouped Conv2d layers. Other parameters (norms, grouped convolutions, attention projections)
    are never included.
    """
    layers = {name: module for name, module in model.named_modules() if _is_supported(module)}
    if parameters == "head":
        return {"head": model.head}
    if parameters == "last-block":
        last = [name for name in layers if name != "head"][-1]
        block = last.rpartition(".")[0]
        return {
            name: module
            for name, module in layers.items()
            if name == "head" or name.rpartition(".")[0] == block
        }
    return layers


def head_gradients(features: Tensor, vectors: Tensor) -> Gradients:
    """Jᵀv for the softmax head alone: v ⊗ [φ; 1].

    Args:
        features: φ, (B, d).
        vectors: v, (K, B, C).
    """
    return {"head": LayerGradients(with_one(features)[:, None], vectors[:, :, None])}


class Backward:
    """A recorded forward pass. Called with vectors v (K, B, C), it returns the factored Jᵀv of every layer
    that took part.

    Costs K backward passes, none of which computes a weight gradient.

    Attributes:
        logits: f(x), (B, C); of a model of text (B, T, C), and vectors (K, B, T, C).
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], batch: Any):
        self.layers = layers
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.overwritten = any(getattr(module, "inplace", False) for module in model.modules())
        wanted = [p.requires_grad for p in model.parameters()]
        model.requires_grad_(False)
        handles = [module.register_forward_hook(self._keep(name)) for name, module in layers.items()]
        try:
            weight = next(iter(layers.values())).get_parameter("weight")
            with (
                torch.enable_grad(),
                autocast(weight.device) if weight.dtype == torch.float32 else nullcontext(),
            ):
                self.logits = model(batch)
        finally:
            for handle in handles:
                handle.remove()
            for parameter, flag in zip(model.parameters(), wanted, strict=True):
                parameter.requires_grad_(flag)

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self.inputs[name] = inputs[0].detach()
            tracked = output if output.requires_grad else output.requires_grad_()
            self.outputs[name] = tracked
            # An activation in place would make the tracked output that of the activation.
            return tracked.clone() if self.overwritten else tracked

        return hook

    def __call__(self, vectors: Tensor) -> Gradients:
        names = list(self.outputs)
        outputs = [self.outputs[name] for name in names]
        rows = [
            torch.autograd.grad(
                self.logits, outputs, vector.to(self.logits.dtype), retain_graph=True, materialize_grads=True
            )
            for vector in vectors
        ]
        precision = torch.float64 if vectors.dtype == torch.float64 else torch.float32
        return {
            name: LayerGradients(
                activation_rows(self.layers[name], self.inputs[name]).to(precision),
                torch.stack([output_rows(self.layers[name], row[index]) for row in rows]).to(precision),
            )
            for index, name in enumerate(names)
        }


def activation_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """A layer's inputs as rows that its flattened weight (O, I) multiplies, (B, P, I), a one appended for
    a bias."""
    if isinstance(layer, nn.Conv2d):
        padding = layer.padding
        if isinstance(padding, str):
            left = [
                (k - 1) * d // 2 if padding == "same" else 0
                for k, d in zip(layer.kernel_size, layer.dilation, strict=True)
            ]
            padding = (left[0], left[1])
        rows = (
            functional.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
            .transpose(1, 2)
            .contiguous()
        )
    else:
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    return with_one(rows) if layer.bias is not None else rows


def output_rows(layer: nn.Module, gradients: Tensor) -> Tensor:
    """Gradients at a layer's outputs, (B, P, O), positions in the order of `activation_rows`."""
    if isinstance(layer, nn.Conv2d):
        return gradients.flatten(2).transpose(1, 2).contiguous()
    return gradients.reshape(len(gradients), -1, gradients.shape[-1])


def fisher_vectors(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Vectors v (K, B, C) with E Σ_k v_k v_kᵀ = diag(p) − ppᵀ, the Hessian of the cross-entropy in the
    logits.

    All K = C vectors √p_c (e_c − p), which is exact; or with a generator one v = e_c − p, c ~ p (K = 1).

    Args:
        probabilities: p, (B, C).
        generator: random stream on the CPU for the sampled form.
    """
    identity = torch.eye(probabilities.shape[1], dtype=probabilities.dtype, device=probabilities.device)
    if generator is None:
        return probabilities.T.sqrt()[:, :, None] * (identity[:, None] - probabilities[None])
    draws = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0].to(probabilities.device)
    return (identity[draws] - probabilities)[None]


def parameter_count(layers: Iterable[nn.Module]) -> int:
    """Number of weights and biases in the layers."""
    return sum(p.numel() for layer in layers for p in layer.parameters(recurse=False))


def _is_supported(module: nn.Module) -> bool:
    # Kinds of these may do something else to their weights or inputs, or be passed by, as the projection of
    # attention is.
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros"
    return type(module) is nn.Linear


def with_one(rows: Tensor) -> Tensor:
    """Rows with a one appended, which a bias multiplies, (…, I + 1)."""
    return functional.pad(rows, (0, 1), value=1.0)
