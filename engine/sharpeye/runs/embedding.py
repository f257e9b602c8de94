"""The stage that turns images into features of a frozen network, once for all runs on the same images."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sharpeye.config import VERSION, RunConfig, digest
from sharpeye.data.dataset import LabeledImages, check_room, source_rows
from sharpeye.data.records import Source
from sharpeye.data.remote import is_address
from sharpeye.files import replacing
from sharpeye.progress import ImageReport, image_report
from sharpeye.runs.artifacts import save_npy
from sharpeye.runs.cluster import Cluster, remove_shards, shard_folder, sharded
from sharpeye.runs.context import RunContext, with_smaller_batches
from sharpeye.runs.stages import EMBED
from sharpeye.specs import TrustedList
from sharpeye.training.features import Encoder, build_encoder, features_of, open_features, write_features


@dataclass(frozen=True)
class Embedding:
    """Rows of a source on their way through a frozen network, here or on a node of a cluster."""

    source: Source
    paths: tuple[Path, ...]
    model: str
    weights: str
    side: int | None
    mirrored: bool

    def encoder(self, device: torch.device) -> Encoder:
        """The network; raises InputError where it cannot be had."""
        return build_encoder(self.model, self.weights, self.side, self.mirrored, device)

    def begin(self, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
        encoder = self.encoder(device)

        def embed(rows: np.ndarray) -> np.ndarray:
            def attempt(divisor: int) -> np.ndarray:
                return np.concatenate(list(features_of(self.source, rows, encoder, device, divisor)))

            return with_smaller_batches(attempt, lambda note: None)

        return embed


def encoder_key(config: RunConfig) -> str:
    """What identifies the frozen network of a resolved configuration, and how images are shown to it."""
    return digest(VERSION, config.model, config.weights_key, config.data.image_size, config.mirror)


def embedded(context: RunContext, source: Source, images: LabeledImages) -> LabeledImages:
    """The images of a source with their features, (N, d), in the place of pixels.

    Args:
        context: of the run.
        source: that the images were read from.
        images: all of a decoded data set.

    Raises:
        InputError: the backbone cannot be had, an image is not there any more, or the disk has no room.
    """
    config, execution = context.config, context.execution
    # By content, so that other labels of the same images find the same features.
    key = digest(images.hashes.tolist(), encoder_key(config))
    path = context.workspace.artifact("features", key, ".f16")
    if not path.exists():
        device = execution.device
        execution.start(EMBED)
        places, side = node_paths(config), config.data.image_size
        work = Embedding(source, places, config.model, str(config.weights), side, config.mirror)
        encoder = work.encoder(device)
        # On a cluster, the shards and what they are put together to lie there at a time.
        needed = (4 if execution.cluster else 2) * encoder.width * len(images)
        check_room(path.parent, needed, f"{images.name}: the features", "--limit")
        rows, report = source_rows(images), image_report(EMBED, execution.report)
        if execution.cluster is None:

            def attempt(divisor: int) -> None:
                write_features(source, rows, encoder, path, device, report, divisor)

            with_smaller_batches(attempt, execution.note)
        else:
            embed_on_cluster(execution.cluster, work, rows, path, report)
    os.utime(path)
    return replace(images, images=open_features(path, len(images)))


def embed_on_cluster(
    cluster: Cluster, work: Embedding, rows: np.ndarray, path: Path, report: ImageReport
) -> None:
    """Write what `write_features` does, from shards that the nodes of a cluster compute."""
    with shard_folder(path) as folder:
        if path.exists():
            return
        with replacing(path) as temporary, temporary.open("wb") as file:
            for features in sharded(cluster, work, rows, folder, save_npy, np.load, report):
                file.write(features.tobytes())
    remove_shards(path)


def node_paths(config: RunConfig) -> tuple[Path, ...]:
    """What a configuration names on this machine, and every node must have to read images."""
    data, lists = config.data, {config.data.confirmed}
    if isinstance(data.validation, TrustedList):
        lists.add(data.validation.path)
    places = (
        Path(place).expanduser() for place in config.places if place not in lists and not is_address(place)
    )
    return tuple(place for place in places if place.exists())


def feature_rows(images: LabeledImages) -> np.ndarray:
    """The features of embedded images, float16, (N, d); those of a whole data set stay memory-mapped."""
    return images.images if isinstance(images.images, np.ndarray) else images.images[np.arange(len(images))]
