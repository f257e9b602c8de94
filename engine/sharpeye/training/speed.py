"""How long a run would take here, measured in a few steps of what it does."""

import time

import numpy as np
import torch

from sharpeye.config import BUDGETS, SMALL, RunConfig
from sharpeye.costs import RunEstimate
from sharpeye.training.budgets import images_trained
from sharpeye.training.devices import peak_memory_mb
from sharpeye.training.features import build_encoder, encoding_speed
from sharpeye.training.heads import fit_head, zero_head
from sharpeye.training.models import build_model, input_size
from sharpeye.training.trainer import TrainingPlan, train

# Of the images that training speed is measured on.
SPEED_IMAGES = 256
# Umap compiles itself for most of this; a map holds a bounded number of images.
MAP_SECONDS = 30
MAP_MEMORY_MB = 300
# Passes over the training set, one L-BFGS step each, that fitting all heads takes.
HEAD_PASSES = 600
HEAD_ROWS = 2048
# Of the time that embedding takes.
SHARE_OF_DECODING = 0.1


def estimate_runs(
    config: RunConfig, classes: int, training: int, validation: int, natural_size: int, device: torch.device
) -> dict[str, RunEstimate]:
    """What a run would take, by budget; of a head on frozen features there is but one, under every budget.

    Args:
        config: a resolved one.
        classes: number of classes C.
        training: number of training images.
        validation: number of validation images.
        natural_size: the images' own largest side.
        device: where to compute.

    Raises:
        InputError: the model cannot be had.
    """
    if config.on_features:
        estimate = _head_estimate(config, classes, training, validation, device)
        return dict.fromkeys(BUDGETS, estimate)
    side = input_size(config, natural_size)
    speed = training_speed(config, side, classes, device)
    kept = 16 * min(classes, 20) + 4 * 1024
    memory = peak_memory_mb() + MAP_MEMORY_MB + 2 * training * kept / 2**20
    disk = training * kept / 2**20 + 100
    first = RunEstimate(MAP_SECONDS, 0, 0)
    if validation == 0:
        # Heads come first, and the map.
        first = _head_estimate(config.on_frozen_features(), classes, training, 0, device)
    estimates = {}
    for budget in BUDGETS:
        trained = images_trained(budget, training, validation)
        seconds = first.seconds + trained / speed + training * 0.6 / speed
        most = max(memory, first.memory_mb)
        estimates[budget] = RunEstimate(round(seconds), round(most), round(disk + first.disk_mb))
    return estimates


def _head_estimate(
    config: RunConfig, classes: int, training: int, validation: int, device: torch.device
) -> RunEstimate:
    encoder = build_encoder(config.model, str(config.weights), config.data.image_size, config.mirror, device)
    count = training + validation
    embedding = (1 + SHARE_OF_DECODING) * count / encoding_speed(encoder, device)
    heads = HEAD_PASSES * count * seconds_of_a_pass(encoder.width, classes, device)
    curvature = 10 * count * encoder.width**2 / 1e11
    features = 2 * encoder.width * count / 2**20
    memory = peak_memory_mb() + MAP_MEMORY_MB + 4 * features
    seconds = embedding + heads + curvature + MAP_SECONDS
    return RunEstimate(round(seconds), round(memory), round(features + count * 20 * min(classes, 20) / 2**20))


def seconds_of_a_pass(width: int, classes: int, device: torch.device) -> float:
    """Seconds that one image takes in one step of fitting a head."""
    features = np.random.default_rng(0).standard_normal((HEAD_ROWS, width)).astype(np.float16)
    labels = np.arange(HEAD_ROWS) % classes
    rows = np.arange(HEAD_ROWS)
    start = zero_head(features, rows, classes, device)
    fit_head(features, rows, labels, start, 1e-2, device, iterations=1)
    started = time.monotonic()
    steps = 8
    fit_head(features, rows, labels, start, 1e-2, device, iterations=steps)
    return (time.monotonic() - started) / (steps * HEAD_ROWS)


def training_speed(config: RunConfig, side: int, classes: int, device: torch.device) -> float:
    """Images a second that a network is trained on, without what the first steps cost.

    Args:
        config: a resolved one; its model is trained.
        side: pixels per side.
        classes: number of classes.
        device: where to train.
    """
    model = build_model(config.model, classes, "random", seed=0).to(device)
    count = SPEED_IMAGES if config.model == SMALL else SPEED_IMAGES // 8
    images = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    labels = np.arange(len(images)) % classes
    seconds = 0.0
    plan = TrainingPlan(epochs=1, batch_size=min(256, len(images)))
    for _ in ("warm", "measured"):
        started = time.monotonic()
        train(model, images, labels, plan, seed=0, device=device)
        seconds = time.monotonic() - started
    return len(images) / seconds
