"""The stage that turns images into features of a frozen network, once for all runs on the same images."""

import os
from dataclasses import replace

import numpy as np

from sharpeye.config import VERSION, RunConfig, digest
from sharpeye.data.dataset import LabeledImages, check_room, source_rows
from sharpeye.data.records import Source
from sharpeye.progress import image_report
from sharpeye.runs.context import RunContext, with_smaller_batches
from sharpeye.runs.stages import EMBED
from sharpeye.training.features import build_encoder, open_features, write_features


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
        encoder = build_encoder(
            config.model, str(config.weights), config.data.image_size, config.mirror, device
        )
        needed = 2 * encoder.width * len(images)
        check_room(path.parent, needed, f"{images.name}: the features", "--limit")
        rows, report = source_rows(images), image_report(EMBED, execution.report)

        def attempt(divisor: int) -> None:
            write_features(source, rows, encoder, path, device, report, divisor)

        with_smaller_batches(attempt, execution.note)
    os.utime(path)
    return replace(images, images=open_features(path, len(images)))


def feature_rows(images: LabeledImages) -> np.ndarray:
    """The features of embedded images, float16, (N, d); those of a whole data set stay memory-mapped."""
    return images.images if isinstance(images.images, np.ndarray) else images.images[np.arange(len(images))]
