from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sharpeye.config import SourceOptions
from sharpeye.data.images import Framing, framed
from sharpeye.data.records import Source
from sharpeye.data.sources import open_source
from sharpeye.errors import InputError
from sharpeye.specs import parse_source
from sharpeye.training.backbones import Renormalize, load_backbone
from sharpeye.training.batches import normalize
from sharpeye.training.features import Encoder, build_encoder, encode, open_features, write_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder("efficientnet_lite0", "pretrained", 32, True, CPU)


@pytest.fixture
def source(make_folder: Callable[..., Path]) -> Source:
    return open_source(parse_source(str(make_folder("photos", 7))), SourceOptions())


def ignore(done: int, total: int) -> None:
    pass


def test_images_are_renormalized_as_a_backbone_wants_them() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    wanted = ((pixels.float() - 127) / 128).permute(0, 3, 1, 2)
    torch.testing.assert_close(Renormalize(mean, std)(normalize(pixels)), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_packaged_weights_are_trained_ones(name: str) -> None:
    trained, random = (load_backbone(name, pretrained) for pretrained in (True, False))
    assert trained.preparation.framing.interpolation == "bicubic"
    assert trained.width == random.width == 1280
    # Batch norm has seen images only where the network was trained.
    moved = [
        key
        for key, value in trained.network.state_dict().items()
        if key.endswith("running_mean") and value.abs().max() > 0
    ]
    assert len(moved) == sum(key.endswith("running_mean") for key in random.network.state_dict())


def test_mirrored_images_have_equal_features(encoder: Encoder) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    features = encode(encoder, pixels, CPU)
    assert features.dtype == np.float16
    assert features.shape == (3, encoder.width)
    mirrored = encode(encoder, np.ascontiguousarray(pixels[:, :, ::-1]), CPU)
    np.testing.assert_allclose(mirrored, features, atol=2e-3)
    assert np.abs(features[0] - features[1]).max() > 0.1


@pytest.mark.parametrize("kept_rows", [0, 5, 20])
def test_a_stream_that_was_stopped_goes_on(
    source: Source, encoder: Encoder, tmp_path: Path, kept_rows: int
) -> None:
    rows, whole, stopped = np.arange(source.count)[1:], tmp_path / "whole.f16", tmp_path / "stopped.f16"
    counts: list[int] = []
    write_features(source, rows, encoder, whole, CPU, lambda done, total: counts.append(done))
    assert counts[-1] == len(rows)
    assert open_features(whole, len(rows)).shape == (len(rows), encoder.width)
    row_bytes = 2 * encoder.width
    part = stopped.with_name("stopped.f16.part")
    part.write_bytes(whole.read_bytes()[: kept_rows * row_bytes + 3])
    counts.clear()
    write_features(source, rows, encoder, stopped, CPU, lambda done, total: counts.append(done))
    assert min(counts, default=len(rows)) > kept_rows or kept_rows == len(rows)
    np.testing.assert_allclose(
        open_features(stopped, len(rows)), open_features(whole, len(rows)), atol=2e-3, rtol=0
    )
    assert not part.exists()


def test_an_image_that_is_gone_is_named(source: Source, encoder: Encoder, tmp_path: Path) -> None:
    first = next(iter(source.read(np.arange(1))))
    assert isinstance(first.image, Path)
    first.image.unlink()
    with pytest.raises(InputError, match=f"{first.id}: file is missing"):
        write_features(source, np.arange(source.count), encoder, tmp_path / "f.f16", CPU, ignore)


def test_a_backbone_is_shown_the_middle_of_the_whole_image(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[8:56, 40:88] = 255
    path = tmp_path / "one.png"
    Image.fromarray(pixels).save(path)
    # Pixels beyond the edge of the square weigh in its outermost ones.
    assert framed(path, Framing(32, share=0.75))[1:-1, 1:-1].min() == 255
    assert framed(path, Framing(32, share=1.0)).min() == 0
