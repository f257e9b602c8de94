"""Cost of a scoring pass as a multiple of one forward+backward epoch over the same images, same run.

    pytest -m benchmark tests/benchmarks/test_scoring_cost.py -s

Prints a table and writes .benchmarks/scoring_cost.json.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from rich.table import Table

from sharpeye.curvature.fit import fit_curvature
from sharpeye.influence.evaluation import evaluate
from sharpeye.training.devices import select_device
from sharpeye.training.models import small_network
from sharpeye.training.trainer import TrainingPlan, train
from tests.benchmarks.reporting import publish

IMAGES = 4096
CLASSES = (10, 100)
EPOCH = "forward+backward epoch"
REPEATS = 3


def seconds(action: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)


@pytest.mark.benchmark
def test_scoring_cost(tmp_path: Path) -> None:
    device = select_device("auto")
    seconds = {classes: costs(classes, device, tmp_path) for classes in CLASSES}
    table = Table("pass over 4,096 images", *(f"{classes} classes" for classes in CLASSES))
    ratios = {
        classes: {name: value / rows[EPOCH] for name, value in rows.items()}
        for classes, rows in seconds.items()
    }
    for name in seconds[CLASSES[0]]:
        table.add_row(
            name,
            *(f"{seconds[classes][name]:.2f} s = {ratios[classes][name]:.2f} epochs" for classes in CLASSES),
        )
    publish(
        "scoring_cost", {"device": str(device), "images": IMAGES, "seconds": seconds, "ratios": ratios}, table
    )


def costs(classes: int, device: torch.device, folder: Path) -> dict[str, float]:
    """Seconds of each pass."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, IMAGES)
    model = small_network(classes).to(device, memory_format=torch.channels_last)
    plan = TrainingPlan(1, batch_size=256)
    number = iter(range(REPEATS))

    def epoch() -> None:
        checkpoint = folder / f"{classes}-{next(number)}"
        train(model, images, labels, plan, stage="epoch", seed=0, device=device, checkpoint=checkpoint)

    rows = {EPOCH: seconds(epoch)}
    model.eval()
    curvature = fit_curvature(model, "kfac", "head", images[:1000], 1.0, device, seed=0)
    for mirrored in (False, True):
        for all_candidates in (False, True):
            views = ", mirrored views" if mirrored else ""
            name = f"scores, {'all candidates' if all_candidates else 'given labels'}{views}"
            options = {
                "parameters": "head",
                "all_candidates": all_candidates,
                "mirrored": mirrored,
                "device": device,
            }
            rows[name] = seconds(
                lambda options=options: evaluate(model, curvature, images, labels, **options)
            )
    return rows
