"""The scores of whole runs on a Ray cluster beside those of one machine: one node, and two that train a
network together; beside them, what the rounding of a second thread does on one machine.

    pytest -m benchmark tests/benchmarks/test_cluster_scores.py -s

On the packaged demo; with SHARPEYE_CIFAR10N=DIR (train.parquet and test.parquet) on 10,000 images of
CIFAR-10N worse instead. Prints a table and writes .benchmarks/cluster_scores.json, or
cluster_scores-cifar10n.json.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from rich.table import Table

import sharpeye
from tests.benchmarks.images import chosen_images
from tests.benchmarks.reporting import publish


@dataclass(frozen=True)
class Way:
    """How a run is computed: nodes of a cluster with a processor each, or threads of this machine."""

    name: str
    nodes: int
    threads: int = 1


WAYS = (
    Way("one machine", 0),
    Way("a cluster of one node", 1),
    Way("a cluster of two nodes", 2),
    Way("one machine, two threads", 0, 2),
)


@pytest.mark.benchmark
def test_scores_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    images = chosen_images("worse_label")
    table = Table("way", "minutes", "largest difference of fvm", "rank correlation of fvm", "of the ranking")
    figures, alone = [], pd.DataFrame()
    for number, way in enumerate(WAYS):
        monkeypatch.setenv("OMP_NUM_THREADS", str(way.threads))
        with cluster(way.nodes) as address:
            run = sharpeye.run(
                **images,
                workspace=tmp_path / str(number),
                budget="fast",
                methods=("fvm", "val_loss_posterior"),
                cluster=address,
            )
        scores = run.scores.set_index("id")
        alone = scores if alone.empty else alone
        scores = scores.loc[alone.index]
        figure = {
            "way": way.name,
            "minutes": run.result.seconds / 60,
            "difference": float(((scores["fvm"] - alone["fvm"]).abs() / alone["fvm"].abs()).max()),
            "fvm": float(scores["fvm"].corr(alone["fvm"], "spearman")),
            "ranking": float(scores["rank"].corr(alone["rank"], "spearman")),
        }
        figures.append(figure)
        shown = (f"{figure['difference']:.1e}", f"{figure['fvm']:.5f}", f"{figure['ranking']:.5f}")
        table.add_row(way.name, f"{run.result.seconds / 60:.1f}", *shown)
    suffix = "" if images["train"] == "demo" else "-cifar10n"
    publish(f"cluster_scores{suffix}", figures, table)


@contextmanager
def cluster(nodes: int) -> Iterator[str | None]:
    """The address of a cluster of nodes on this machine; None for none."""
    from ray.cluster_utils import Cluster

    if not nodes:
        yield None
        return
    options = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    for _ in range(nodes - 1):
        made.add_node(**options)
    try:
        yield str(made.address)
    finally:
        made.shutdown()
