"""How fast this machine trains, measured in a few steps."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from sharpeye.training.models import build_model
from sharpeye.training.trainer import TrainingPlan, train


def training_speed(images: np.ndarray, classes: int, device: torch.device) -> float:
    """Images a second that the small model trains on, without what the first steps cost.

    Args:
        images: uint8, (N, S, S, 3).
        classes: number of classes.
        device: where to train.
    """
    model = build_model("small", classes, "random", seed=0).to(device)
    labels = np.arange(len(images)) % classes
    seconds = 0.0
    with TemporaryDirectory() as folder:
        for attempt in ("warm", "measured"):
            started = time.monotonic()
            plan = TrainingPlan(epochs=1, batch_size=min(256, len(images)))
            checkpoint = Path(folder) / attempt
            train(model, images, labels, plan, seed=0, device=device, checkpoint=checkpoint)
            seconds = time.monotonic() - started
    return len(images) / seconds
