"""How time and memory of scoring and of the map grow with the number of images.

    pytest -m benchmark tests/benchmarks/test_scaling.py -s

Each measurement is a process of its own. Prints a table and writes .benchmarks/scaling.json.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.table import Table

from tests.benchmarks.reporting import publish

SCORED = (10_000, 50_000, 200_000)
MAPPED = 50_000
STORED = 10_000
CLASSES = 10


def measure_scores(count: int) -> dict[str, float]:
    """Score `count` images, STORED different ones again and again: all candidates, mirrored views, the
    default configuration."""
    from sharpeye.curvature.fit import fit_curvature
    from sharpeye.data.dataset import SelectedImages
    from sharpeye.influence.evaluation import evaluate
    from sharpeye.training.devices import peak_memory_mb, select_device
    from sharpeye.training.models import small_network

    device = select_device("auto")
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (STORED, 32, 32, 3), dtype=np.uint8)
    images = SelectedImages(stored, np.arange(count) % STORED)
    model = small_network(CLASSES).to(device).eval()
    curvature = fit_curvature(model, "kfac", "head", stored[:1000], 1.0, device, seed=0)
    evaluation = evaluate(
        model,
        curvature,
        images,
        rng.integers(0, CLASSES, count),
        parameters="head",
        all_candidates=True,
        mirrored=True,
        device=device,
    )
    return {"seconds": evaluation.seconds, "memory_mb": peak_memory_mb()}


def measure_map(count: int) -> dict[str, float]:
    """The map of `count` images and the validation images most like each of them, on features of ten loose
    clusters."""
    from sharpeye.diagnostics.embedding import embed, nearest, rows_on_map
    from sharpeye.training.devices import peak_memory_mb, select_device

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    centres = rng.normal(size=(CLASSES, 256))
    features = (centres[labels] + rng.normal(size=(count, 256))).astype(np.float16)
    started = time.monotonic()
    embed(features, rows_on_map(np.arange(count)))
    for _ in range(2):
        nearest(features, labels, features[:10_000], labels[:10_000], 4, select_device("auto"))
    return {"seconds": time.monotonic() - started, "memory_mb": peak_memory_mb()}


@pytest.mark.benchmark
def test_scaling() -> None:
    rows = []
    for what, count in [*(("scores", count) for count in SCORED), ("map", MAPPED)]:
        command = [sys.executable, "-m", "tests.benchmarks.test_scaling", what, str(count)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        rows.append({"what": what, "images": count, **json.loads(output.splitlines()[-1])})
    table = Table("what", "images", "seconds", "images/s", "peak memory, MB")
    for row in rows:
        speed = row["images"] / row["seconds"]
        table.add_row(
            row["what"],
            f"{row['images']:,}",
            f"{row['seconds']:.1f}",
            f"{speed:,.0f}",
            f"{row['memory_mb']:,.0f}",
        )
    publish("scaling", rows, table)


if __name__ == "__main__":
    print(json.dumps((measure_scores if sys.argv[1] == "scores" else measure_map)(int(sys.argv[2]))))
