"""What a Ray cluster costs beside a plain loop over the same shards: JPEG images are decoded, and features
drawn for them by a seeded generator, so that the way to the nodes and back is measured and not a network.

    pytest -m benchmark tests/benchmarks/test_cluster.py -s

Prints a table and writes .benchmarks/cluster.json. SHARPEYE_IMAGES sets the most images (1,000,000).
"""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from rich.table import Table

from sharpeye.runs.artifacts import save_npy
from sharpeye.runs.cluster import Cluster, connected, cut, sharded
from tests.benchmarks.reporting import publish

IMAGES = int(os.environ.get("SHARPEYE_IMAGES", "1000000"))
WIDTH, SIDE, KINDS = 1280, 64, 64


@dataclass(frozen=True)
class Drawn:
    """Decodes one of KINDS small photographs for each image, and draws its features by a generator of the
    shard."""

    paths: tuple[Path, ...] = ()

    def begin(self, device: object) -> Callable[[np.ndarray], np.ndarray]:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (KINDS, 8, 8, 3), np.uint8)
        photographs = [
            jpeg(np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
            for one in coarse
        ]

        def compute(rows: np.ndarray) -> np.ndarray:
            light = [np.asarray(Image.open(io.BytesIO(photographs[row % KINDS]))).mean() for row in rows]
            drawn = np.random.default_rng(rows[0]).random((len(rows), WIDTH), np.float32)
            return (drawn + np.array(light, np.float32)[:, None]).astype(np.float16)

        return compute


def jpeg(pixels: np.ndarray) -> bytes:
    """An image as a file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=90)
    return file.getvalue()


def written(parts: Iterable[np.ndarray], path: Path) -> float:
    """Write features one after the other, as `embed_on_cluster` does; a number that stands for all."""
    total = 0.0
    with path.open("wb") as file:
        for features in parts:
            file.write(features.tobytes())
            total += float(features[0, 0])
    return total


def on_cluster(cluster: Cluster, rows: np.ndarray, folder: Path) -> float:
    shards = folder / "shards"
    parts = sharded(cluster, Drawn(), rows, shards, save_npy, np.load, lambda done, total: None)
    total = written(parts, folder / "features")
    shutil.rmtree(shards)
    return total


def in_a_loop(rows: np.ndarray, folder: Path) -> float:
    compute = Drawn().begin(None)
    return written(map(compute, cut(rows)), folder / "features")


@pytest.mark.benchmark
def test_overhead(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 200 * 2**20, "include_dashboard": False},
    )
    table = Table(title="One worker beside a plain loop")
    for title in ("images", "loop, s", "cluster, s", "overhead", "driver, MB", "worker, MB"):
        table.add_column(title, justify="right")
    figures = []
    with connected(str(nodes.address), print) as cluster:
        on_cluster(cluster, np.arange(2048), tmp_path)
        for count in (IMAGES // 10, IMAGES):
            rows = np.arange(count)
            started = time.monotonic()
            alone = in_a_loop(rows, tmp_path)
            between = time.monotonic()
            spread = on_cluster(cluster, rows, tmp_path)
            ended, memory = time.monotonic(), memory_mb()
            assert alone == spread
            seconds = between - started, ended - between
            figures.append({"images": count, "loop": seconds[0], "cluster": seconds[1], **memory})
            row = (f"{count:,}", *(f"{one:.1f}" for one in seconds), f"{seconds[1] / seconds[0] - 1:+.0%}")
            table.add_row(*row, *(f"{one:,.0f}" for one in memory.values()))
    nodes.shutdown()
    publish("cluster", figures, table)


def memory_mb() -> dict[str, float]:
    """Memory of this process and of the largest worker, without what they share: the store of objects."""
    workers = [
        one.memory_full_info().uss
        for one in psutil.process_iter(["name"])
        if (one.info["name"] or "").startswith("ray::")
    ]
    own = psutil.Process().memory_full_info().uss
    return {"driver": own / 2**20, "worker": max(workers, default=0) / 2**20}
