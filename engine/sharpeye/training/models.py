"""Image classifiers as features followed by one linear softmax head."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sharpeye.config import NAMED_WEIGHTS, SMALL, SMALL_LIMIT, RunConfig
from sharpeye.errors import InputError
from sharpeye.training.backbones import load_backbone
from sharpeye.training.devices import in_float64

SMALLEST_SIDE = 16
PREFIXES = ("", "features.", "features.1.")
WIDTHS = (64, 256, 256)


class Classifier(nn.Module):
    """f(x) = W φ(x) + b, with φ = `features` (B, d) and W, b = `head`."""

    def __init__(self, features: nn.Module, head: nn.Linear):
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class Scale(nn.Module):
    """x -> factor · x."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return values * self.factor


def build_model(name: str, classes: int, weights: str, seed: int) -> Classifier:
    """A classifier by name.

    Args:
        name: `small`, a packaged backbone, one of TORCHVISION_BACKBONES, or `timm:NAME`.
        classes: number of classes C.
        weights: `random`, `pretrained` (packaged or downloaded), or a state dict file (.safetensors, .pt).
        seed: seed of the random weights.

    Raises:
        InputError: weights that cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == SMALL:
            if weights == "pretrained":
                raise InputError(
                    "--weights pretrained: the small model has no published weights; leave --weights out"
                )
            model = small_network(classes)
        else:
            backbone = load_backbone(name, weights == "pretrained")
            model = Classifier(backbone.network, nn.Linear(backbone.width, classes))
    if weights not in NAMED_WEIGHTS:
        load_weights(model, Path(weights).expanduser())
    channels_last: Classifier = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def input_size(config: RunConfig, natural: int) -> int:
    """Pixels per side to decode images to, where a whole network is trained.

    Args:
        config: a resolved one.
        natural: the images' own largest side.

    Raises:
        InputError: no such model.
    """
    if config.data.image_size:
        return config.data.image_size
    if config.model == SMALL:
        return min(max(natural, SMALLEST_SIDE), SMALL_LIMIT)
    return load_backbone(config.model, pretrained=False).preparation.framing.side


def small_network(classes: int, widths: tuple[int, int, int] = WIDTHS) -> Classifier:
    """A VGG-like network for images of 16 to 64 pixels, after the fast CIFAR-10 recipes (arXiv 2404.00498).

    A 2×2 convolution (whitened from data before training, see `whiten`), three blocks of
    conv–pool–norm–GELU–conv–norm–GELU, global max pooling, linear head on features / 9.
    """
    stem = nn.Sequential(nn.Conv2d(3, 24, 2, bias=True), nn.GELU())
    blocks = [_block(inputs, width) for inputs, width in zip((24, *widths), widths, strict=False)]
    features = nn.Sequential(stem, *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scale(1 / 9))
    return Classifier(features, nn.Linear(widths[-1], classes))


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.GELU(),
    )


def whiten(model: Classifier, images: Tensor, epsilon: float = 5e-4) -> None:
    """Set the small network's first convolution to ± the whitened principal directions of 2×2 patches, and
    keep it there.

    Args:
        model: a `small_network`.
        images: some normalised training images, (B, 3, S, S).
        epsilon: added to the patch covariance's eigenvalues before their inverse square root.
    """
    first = model.get_submodule("features.0.0")
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    patches = in_float64(images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12))
    values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).cpu())
    filters = (vectors / (values.clamp_min(0) + epsilon).sqrt()).T.reshape(12, 3, 2, 2).flip(0)
    with torch.no_grad():
        first.weight.copy_(torch.cat([filters, -filters]))
        first.bias.zero_()
    first.weight.requires_grad_(False)


def load_weights(model: Classifier, path: Path) -> None:
    """Load a user's state dict; its head is left out where it is for another number of classes."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except Exception as error:  # torch raises many kinds for a file it does not trust or cannot read
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"--weights {path}: refused, not a plain state dict ({reason})") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(f"--weights {path}: expected a state dict of tensors")
    own = model.state_dict()
    # A backbone may stand alone, or behind what normalises its images.
    places = {key: next((p + key for p in PREFIXES if p + key in own), key) for key in state}
    prefixed = {places[key]: value for key, value in state.items()}
    fitting = {key: value for key, value in prefixed.items() if key in own and own[key].shape == value.shape}
    lacking = [key for key in own if key not in fitting and not key.startswith("head.")]
    if lacking:
        raise InputError(
            f"--weights {path}: does not fit the model: {len(lacking)} tensors missing or misshapen, first "
            f"{lacking[0]}"
        )
    model.load_state_dict({**own, **fitting})
