"""The network around θ, batch by batch: predictions, and the Jacobian as a map, whatever the parameters."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from sharpeye.curvature.gradients import Backward, Gradients, Vector, head_gradients, parameter_count
from sharpeye.training.devices import autocast, plain_attention
from sharpeye.training.models import Classifier

HEAD_BATCH = 500
# Larger tensors spend their time in page faults.
MAX_GRADIENT_FLOATS = 2**24

Jacobian = Callable[[Tensor], Gradients]


@torch.inference_mode()
def predict(model: Classifier, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Features φ (B, d) and log-probabilities (B, C), which tell apart what the network is surest of.

    The head in float32 even where the features are computed in bf16.
    """
    with autocast(batch.device) if batch.dtype == torch.float32 else torch.no_grad():
        features = model.features(batch)
    features = features if features.dtype == torch.float64 else features.float()
    return features, model.head(features).log_softmax(1)


def linearize(
    model: Classifier, layers: dict[str, nn.Module], batch: Tensor, parameters: str
) -> tuple[Tensor, Tensor, Jacobian]:
    """Features φ (B, d), log-probabilities (B, C), and the map from vectors v (K, B, C) to factored Jᵀv."""
    if parameters == "head":
        features, log_p = predict(model, batch)
        return features, log_p, lambda vectors: head_gradients(features, vectors)
    backward = Backward(model, layers, batch)
    logits = backward.logits.detach()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return backward.inputs["head"].to(wide.dtype), wide.log_softmax(1), backward


def logit_change(
    model: Classifier, layers: dict[str, nn.Module], batch: Tensor, vector: Vector, parameters: str
) -> tuple[Tensor, Tensor]:
    """Probabilities p (B, C) and the directional derivative Jv of the logits along a direction v of parameter
    space, (B, C).

    One forward-mode pass, whatever the number of classes.
    """
    if parameters == "head":
        features, log_p = predict(model, batch)
        return log_p.exp(), _head_change(features, vector["head"])
    chosen, tangents = {}, {}
    for name in layers:
        weight, direction = model.get_parameter(f"{name}.weight"), vector[name]
        if direction.shape[1] > weight[0].numel():
            chosen[f"{name}.bias"], tangents[f"{name}.bias"] = (
                model.get_parameter(f"{name}.bias").detach(),
                direction[:, -1],
            )
            direction = direction[:, :-1]
        chosen[f"{name}.weight"], tangents[f"{name}.weight"] = (
            weight.detach(),
            direction.reshape(weight.shape),
        )

    def logits_at(values: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(model, values, (batch,))
        return logits

    with torch.no_grad(), plain_attention():
        logits, change = jvp(logits_at, (chosen,), (tangents,))  # type: ignore[misc]
    return logits.softmax(1), change


def _head_change(features: Tensor, direction: Tensor) -> Tensor:
    """[φ; 1] · v for a direction of the head, (B, C)."""
    return features @ direction[:, :-1].T + direction[:, -1]


def head_batch(model: Classifier) -> int:
    """Images whose C gradients of the head, each with C rows, fit MAX_GRADIENT_FLOATS; 1 to HEAD_BATCH."""
    return int(np.clip(MAX_GRADIENT_FLOATS // model.head.out_features**2, 1, HEAD_BATCH))


def gradient_batch_size(layers: dict[str, nn.Module], kinds: int) -> int:
    """Images whose K gradients of the largest layer fit MAX_GRADIENT_FLOATS; 1 to 128."""
    largest = max(parameter_count([layer]) for layer in layers.values())
    return int(np.clip(MAX_GRADIENT_FLOATS // (largest * kinds), 1, 128))
