"""From uint8 images on disk to normalised float batches on the device, with augmentation there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sharpeye.data.dataset import Images

# Mean and standard deviation of ImageNet's channels: what torchvision's weights expect, and fair for other
# photographs.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SoftLabels:
    """A belief about each image's label instead of one label.

    Attributes:
        classes: that may be right, (N, k); all others have probability 0.
        probabilities: of these, (N, k).
        class_count: C.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    class_count: int

    def __len__(self) -> int:
        return len(self.classes)

    def subset(self, rows: np.ndarray) -> "SoftLabels":
        """The beliefs about some images."""
        return SoftLabels(self.classes[rows], self.probabilities[rows], self.class_count)


Labels = np.ndarray | SoftLabels


def read_labels(labels: Labels, rows: np.ndarray, device: torch.device) -> Tensor:
    """Targets of some images: classes (B,), or probabilities (B, C)."""
    if isinstance(labels, np.ndarray):
        return torch.from_numpy(labels[rows]).to(device)
    classes, probabilities = (
        torch.from_numpy(values[rows]) for values in (labels.classes, labels.probabilities)
    )
    return (
        torch.zeros(len(rows), labels.class_count).scatter_add_(1, classes, probabilities.float()).to(device)
    )


def read_batches(
    images: Images, rows: np.ndarray, batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (row numbers, what a model is fed), reading one batch ahead.

    uint8 images become normalised ones (B, 3, S, S) float32, channels_last. Vectors of features stay as they
    are, (B, d).
    """
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(images.__getitem__, chunks[0]) if chunks else None
        for number, chunk in enumerate(chunks):
            assert pending is not None
            pixels = pending.result()
            if number + 1 < len(chunks):
                pending = reader.submit(images.__getitem__, chunks[number + 1])
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, non_blocking=True)
            yield chunk, batch.float() if batch.ndim == 2 else normalize(batch)


def normalize(pixels: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in channels_last memory, zero mean and unit variance a
    channel."""
    mean = torch.tensor(MEAN, device=pixels.device) * 255
    std = torch.tensor(STD, device=pixels.device) * 255
    return ((pixels.to(torch.float32) - mean) / std).permute(0, 3, 1, 2)


def mirror(images: Tensor) -> Tensor:
    """Left-right mirrored images (B, C, S, S)."""
    return images.flip(-1)


def draw_changes(count: int, generator: torch.Generator, *, mirrored: bool, shift: int) -> np.ndarray:
    """What `augment` does to each image of a batch, drawn at random: (3, count), whether it is mirrored, and
    where it begins in the padded image, vertically and horizontally.

    Args:
        count: images of the batch.
        generator: random stream on the CPU; the draws are small.
        mirrored: whether a mirrored image keeps its label.
        shift: largest shift in pixels, per axis.
    """
    changes = np.zeros((3, count), np.int64)
    if mirrored:
        changes[0] = (torch.rand(count, generator=generator) < 0.5).numpy()
    if shift:
        changes[1:] = torch.randint(0, 2 * shift + 1, (2, count), generator=generator).numpy()
    return changes


def augment(images: Tensor, changes: np.ndarray, shift: int) -> Tensor:
    """Mirrored and shifted images (reflected border).

    Args:
        images: (B, C, S, S); vectors of features, (B, d), stay as they are.
        changes: of each image, see `draw_changes`.
        shift: with which these were drawn.
    """
    if images.ndim == 2:
        return images
    size = images.shape[-1]
    flips, *offsets = torch.from_numpy(changes).to(images.device)
    if changes[0].any():
        images = torch.where(flips[:, None, None, None] > 0, mirror(images), images)
    if shift:
        padded = functional.pad(images, (shift,) * 4, mode="reflect")
        steps = torch.arange(size, device=images.device)
        rows, columns = offsets[0][:, None] + steps, offsets[1][:, None] + steps
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images
