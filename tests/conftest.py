"""Small data sets made on the fly, shared by the tests."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpeye.processes import WAITING

# Before torch is loaded.
os.environ.update(WAITING | os.environ)

import torch
from PIL import Image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def blob(label: int, rng: np.random.Generator, size: int = 16) -> np.ndarray:
    """An image that shows its class: a bright bar whose place and colour depend on the label, over noise."""
    pixels = rng.integers(0, 90, (size, size, 3), dtype=np.uint8)
    start = 2 + 5 * (label % 3)
    pixels[start : start + 3, :, label % 3] = rng.integers(190, 255)
    return pixels


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write NAME/CLASS/*.png with `per_class` images of each class.

    The first `wrong` of each lie in the next class's folder.
    """

    def make(
        name: str,
        per_class: int,
        wrong: int = 0,
        classes: tuple[str, ...] = ("ant", "bee", "cat"),
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        for label in range(len(classes)):
            for number in range(per_class):
                given = (label + 1) % len(classes) if number < wrong else label
                path = tmp_path / name / classes[given] / f"{classes[label]}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(blob(label, rng)).save(path)
        return tmp_path / name

    return make
