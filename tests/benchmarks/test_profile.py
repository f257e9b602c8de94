"""Where the time of a run goes: an epoch of training and a pass of scoring on made-up images, by kind of
operation.

    pytest -m benchmark tests/benchmarks/test_profile.py -s

Prints tables and writes .benchmarks/profile.json. How long each stage takes as a whole, `sharpeye bench`
prints.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from sharpeye.curvature.fit import fit_curvature
from sharpeye.influence.evaluation import evaluate
from sharpeye.training.devices import select_device
from sharpeye.training.models import small_network
from sharpeye.training.trainer import TrainingPlan, train
from tests.benchmarks.reporting import publish

IMAGES = 5120
SHOWN = 12


def operations(action: Callable[[], object]) -> dict[str, float]:
    """Seconds spent in each operation itself, the longest first."""
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        action()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        spent[event.key] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    return dict(spent.most_common())


@pytest.mark.benchmark
def test_profile(tmp_path: Path) -> None:
    device = select_device("auto")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES)
    model = small_network(10).to(device, memory_format=torch.channels_last)

    def epoch(optimizer: str) -> None:
        plan = TrainingPlan(1, optimizer)
        train(
            model,
            images,
            labels,
            plan,
            stage=optimizer,
            seed=0,
            device=device,
            checkpoint=tmp_path / optimizer,
        )

    curvature = fit_curvature(model.eval(), "kfac", "head", images[:1000], 1.0, device, seed=0)
    epoch("erm")
    (tmp_path / "erm").unlink()
    actions: dict[str, Callable[[], object]] = {
        "training": lambda: epoch("erm"),
        "training to a flat minimum": lambda: epoch("lpf-sgd"),
        "scoring all candidates, mirrored": lambda: evaluate(
            model,
            curvature,
            images,
            labels,
            parameters="head",
            all_candidates=True,
            mirrored=True,
            device=device,
        ),
    }
    seconds = {name: operations(action) for name, action in actions.items()}
    tables = []
    for name, spent in seconds.items():
        total = sum(spent.values())
        table = Table(f"{name}, {IMAGES:,} images", f"{total:.2f} s", "share")
        for operation in list(spent)[:SHOWN]:
            table.add_row(operation, f"{spent[operation]:.3f} s", f"{spent[operation] / total:.0%}")
        tables.append(table)
    publish("profile", {"device": str(device), "images": IMAGES, "seconds": seconds}, *tables)
