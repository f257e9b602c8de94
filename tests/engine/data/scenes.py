"""Pictures that differ from one another as photographs do."""

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
