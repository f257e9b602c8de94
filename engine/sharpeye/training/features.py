"""Features of images under a frozen network: decoded, embedded and written as a stream, which goes on where
it was stopped."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sharpeye.data.dataset import chunks
from sharpeye.data.images import BadImage, Framing, framed
from sharpeye.data.records import Record, Source
from sharpeye.errors import InputError
from sharpeye.progress import ImageReport
from sharpeye.training.backbones import load_backbone
from sharpeye.training.batches import mirror, normalize
from sharpeye.training.devices import embedding_autocast, one_thread_a_worker
from sharpeye.training.models import Classifier, load_weights

BATCH = {"cpu": 16, "mps": 64, "cuda": 256}
SPEED_BATCH = 4
# Batches that are decoded or embedded while others wait for their turn to be written.
AHEAD = 3


@dataclass(frozen=True)
class Encoder:
    """A frozen network from images to features.

    Attributes:
        network: normalised images (B, 3, S, S) to features (B, d).
        width: d.
        framing: which square of an image it is shown.
        mirrored: whether the mean over an image and its mirror image is taken.
    """

    network: nn.Module
    width: int
    framing: Framing
    mirrored: bool


def build_encoder(name: str, weights: str, side: int | None, mirrored: bool, device: torch.device) -> Encoder:
    """A pre-trained backbone by name, in eval mode.

    Args:
        name: see `load_backbone`.
        weights: `pretrained`, or a state dict file.
        side: pixels per side; None takes the backbone's own.
        mirrored: see `Encoder`.
        device: where to compute.

    Raises:
        InputError: unknown, or weights that cannot be had or do not fit.
    """
    backbone = load_backbone(name, weights == "pretrained")
    if weights != "pretrained":
        load_weights(Classifier(backbone.network, nn.Linear(backbone.width, 1)), Path(weights).expanduser())
    framing = backbone.preparation.framing
    framing = replace(framing, side=side or framing.side)
    network = backbone.network.eval().requires_grad_(False)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(network, backbone.width, framing, mirrored)


@torch.inference_mode()
def encode(encoder: Encoder, pixels: np.ndarray, device: torch.device) -> np.ndarray:
    """Features of some squares: uint8 (B, S, S, 3) -> float16 (B, d).

    One view after the other, so that memory holds one at a time.
    """
    batch = normalize(torch.from_numpy(pixels).to(device))
    views = [batch, mirror(batch)] if encoder.mirrored else [batch]
    with embedding_autocast(device):
        features = sum(encoder.network(view).float() for view in views) / len(views)
    assert isinstance(features, torch.Tensor)
    return features.half().cpu().numpy()


def features_of(
    source: Source, rows: np.ndarray, encoder: Encoder, device: torch.device, divisor: int = 1
) -> Iterator[np.ndarray]:
    """Features of some rows of a source, batch by batch, float16, (B, d).

    On the CPU every worker decodes and embeds its own batches. On a GPU they decode, and the network runs
    batch by batch.

    Args:
        source: of the images.
        rows: row numbers, ascending; every one was decoded before.
        encoder: on `device`.
        device: where to compute.
        divisor: batches are this many times smaller than usual, where memory is short.

    Raises:
        InputError: an image that was there before is not any more.
    """
    size = max(1, BATCH[device.type] // divisor)
    own_batches = device.type == "cpu"

    def computed(records: list[Record]) -> np.ndarray:
        pixels = np.stack([_square(record, encoder.framing) for record in records])
        return encode(encoder, pixels, device) if own_batches else pixels

    with one_thread_a_worker(device) as workers, ThreadPoolExecutor(workers) as pool:
        for result in _in_order(pool, computed, chunks(source.read(rows), size), workers + AHEAD):
            yield result if own_batches else encode(encoder, result, device)


def write_features(
    source: Source,
    rows: np.ndarray,
    encoder: Encoder,
    path: Path,
    device: torch.device,
    report: ImageReport,
    divisor: int = 1,
) -> None:
    """Write the features of some rows of a source as raw float16, (N, d), row by row; see `features_of`.

    A file that an interrupted process left behind, `path` with `.part`, is gone on with.

    Args:
        source: of the images.
        rows: row numbers, ascending.
        encoder: on `device`.
        path: written when all are there.
        device: where to compute.
        report: called with (images done, images in all).
        divisor: of batches.

    Raises:
        InputError: an image that was there before is not any more.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    width = encoder.width * 2
    done = part.stat().st_size // width if part.exists() else 0
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(done * width)
        file.seek(done * width)
        for features in features_of(source, rows[done:], encoder, device, divisor):
            file.write(features.tobytes())
            file.flush()
            done += len(features)
            report(done, len(rows))
        os.fsync(file.fileno())
    part.replace(path)


def open_features(path: Path, count: int) -> np.ndarray:
    """Features of `count` images that `write_features` wrote, memory-mapped, (N, d)."""
    return np.memmap(path, dtype=np.float16, mode="r").reshape(count, -1)


def encoding_speed(encoder: Encoder, device: torch.device, seconds: float = 1.0) -> float:
    """Images a second that a network embeds here, decoding not counted, measured for a few seconds."""
    side = encoder.framing.side
    # Small batches on the CPU, which are as fast, so that a slow one is not measured for long.
    size = SPEED_BATCH if device.type == "cpu" else BATCH[device.type]
    pixels = np.zeros((size, side, side, 3), np.uint8)

    def passes(until: float) -> int:
        count = 0
        while time.monotonic() < until:
            encode(encoder, pixels, device)
            count += len(pixels)
        return count

    with one_thread_a_worker(device) as threads:
        workers = threads if device.type == "cpu" else 1
        with ThreadPoolExecutor(workers) as pool:
            started = 0.0
            for length in (seconds / 4, seconds):
                started = time.monotonic()
                counts = list(pool.map(passes, [started + length] * workers))
            return sum(counts) / (time.monotonic() - started)


def _square(record: Record, framing: Framing) -> np.ndarray:
    try:
        return framed(record.image, framing)
    except BadImage as problem:
        raise InputError(f"{record.id}: {problem}; it could be read before: start the run again") from problem


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[list[Record]], np.ndarray],
    batches: Iterator[list[Record]],
    ahead: int,
) -> Iterator[np.ndarray]:
    """Results of `work` in the order of the batches, with a bounded number of these in memory."""
    pending: deque[Future[np.ndarray]] = deque()
    for batch in batches:
        pending.append(pool.submit(work, batch))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
