"""A process that has a network trained on a cluster, to be disturbed.

    python training_driver.py ADDRESS FOLDER

Every share of a batch that is read is a line in FOLDER/log, the process that reads it. The checkpoint is
FOLDER/checkpoint; a file FOLDER/broken takes the images away.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sharpeye.progress import Progress
from sharpeye.runs.cluster import connected
from sharpeye.runs.shared_training import Training, train_on_cluster
from sharpeye.training.models import Classifier, small_network
from sharpeye.training.trainer import TrainingPlan

PLAN = TrainingPlan(epochs=4, batch_size=32, learning_rate=0.001, snapshots=2)
LABELS = np.arange(96) % 3
PIXELS = np.random.default_rng(0).integers(0, 256, (96, 16, 16, 3), np.uint8)


class Double(nn.Module):
    """float32 images -> float64."""

    def forward(self, images: Tensor) -> Tensor:
        return images.double()


def float64_network() -> Classifier:
    """A small network that rounds so little that the order of sums leaves no trace."""
    torch.manual_seed(0)
    model = small_network(3, (8, 8, 8))
    return Classifier(nn.Sequential(Double(), model.features), model.head).double()


@dataclass(frozen=True)
class SlowImages:
    """Images that take a while to read, and keep a log of who reads them."""

    folder: Path

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        time.sleep(0.25)
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        return PIXELS[rows]


def training(folder: Path) -> Training:
    def images() -> SlowImages:
        if (folder / "broken").exists():
            raise FileNotFoundError("no images here")
        return SlowImages(folder)

    return Training(images, LABELS, float64_network(), PLAN, "pretrain", 1, folder / "checkpoint")


def main(address: str, folder: Path) -> None:
    def report(step: Progress) -> None:
        print(step.stage, step.done, flush=True)

    with connected(address, print) as cluster:
        train_on_cluster(cluster, training(folder), report)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
