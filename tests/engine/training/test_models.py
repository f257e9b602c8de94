from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sharpeye.config import TORCHVISION_BACKBONES
from sharpeye.errors import InputError
from sharpeye.training.models import build_model, small_network, whiten


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_small_network_takes_its_sizes(size: int) -> None:
    assert small_network(7, (8, 8, 8))(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", [*TORCHVISION_BACKBONES, "timm:resnet10t"])
def test_backbones_are_features_and_head(name: str) -> None:
    model = build_model(name, 5, "random", 0).eval()
    images = torch.zeros(1, 3, 224, 224)
    with torch.inference_mode():
        features = model.features(images)
        assert features.shape == (1, model.head.in_features)
        assert torch.equal(model(images), model.head(features))


def test_same_seed_same_weights() -> None:
    first, again, other = (build_model("small", 3, "random", seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_whitening_decorrelates_patches() -> None:
    model = small_network(3, (8, 8, 8))
    images = torch.randn(50, 3, 20, 20, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    whiten(model, images, epsilon=0.0)
    responses = model.get_submodule("features.0.0")(images)[:, :12].movedim(1, 0).flatten(1).double()
    torch.testing.assert_close(
        responses @ responses.T / responses.shape[1], torch.eye(12, dtype=torch.float64), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_own_weights(tmp_path: Path, suffix: str) -> None:
    source = build_model("resnet18", 5, "random", seed=1)
    path = tmp_path / f"weights.{suffix}"
    state = {key: value.contiguous() for key, value in source.features.state_dict().items()}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    loaded = build_model("resnet18", 3, str(path), seed=2)
    assert torch.equal(loaded.features.conv1.weight, source.features.conv1.weight)


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"no weights")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    for weights, message in (
        (tmp_path / "w.pt", "refused"),
        (tmp_path / "w.safetensors", "does not fit"),
        (tmp_path / "none.pt", "no such"),
    ):
        with pytest.raises(InputError, match=message):
            build_model("resnet18", 3, str(weights), 0)
    with pytest.raises(InputError, match="no published weights"):
        build_model("small", 3, "pretrained", 0)
    with pytest.raises(InputError, match="timm has no such model"):
        build_model("timm:lenet", 3, "random", 0)
