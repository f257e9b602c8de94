"""Pictures that differ from one another as photographs do."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def scene(seed: int, side: int = 200) -> Image.Image:
    """A picture of its own: some shapes on a shaded, grainy ground."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(20, 235, side)[None, :, None] * rng.random(3) + rng.normal(0, 8, (side, side, 3))
    image = Image.fromarray(shade.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = rng.integers(0, side, 3)
        draw.ellipse((x, y, x + size, y + size // 2 + 5), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def enlarge(folder: Path) -> None:
    """Make the pictures below a folder larger than icons."""
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((80, 80), Image.Resampling.NEAREST).save(path)
