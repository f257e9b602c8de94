"""Kill -9 on a cluster of two nodes, at three random points each: a worker, a node and the driver, while
shards are computed and while a network is trained, and a run with its supervisor.

    pytest -m benchmark tests/benchmarks/test_cluster_kills.py -s

Prints a table and writes .benchmarks/cluster_kills.json.
"""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from sharpeye.config import RunConfig
from tests.benchmarks.conftest import Undisturbed
from tests.benchmarks.reporting import publish
from tests.engine.runs import test_cluster as shards
from tests.engine.runs import test_shared_training as training
from tests.engine.runs.watching import kill_and_resume, wait_until

pytestmark = pytest.mark.benchmark
POINTS = 3


def test_kills_on_a_cluster(config: RunConfig, undisturbed: Undisturbed, tmp_path: Path) -> None:
    chance, nodes, rows = random.Random(0), shards.Nodes(), []

    def disturbed(what: str, activity: str, disturb: Callable[[Path, int], int], points: range) -> None:
        again = []
        for at in chance.sample(points, POINTS):
            folder = tmp_path / f"{what}-{activity}-{at}"
            folder.mkdir()
            again.append(disturb(folder, at))
        rows.append((what, activity, POINTS, f"{', '.join(map(str, sorted(again)))} computed again"))

    def shards_again(folder: Path, at: int, kill: Callable[[], None] | None) -> int:
        """Kill when some shards are there, None stands for the driver; how many were computed twice."""
        said = after_a_loss(
            lambda: shards.driver(nodes, folder), lambda: len(shards.computed(folder)) >= at, kill
        )
        shards.check(folder, said, 1)
        return len(shards.computed(folder)) - shards.ROWS // 64

    def shares_again(folder: Path, at: int, kill: Callable[[], None] | None) -> int:
        """Kill when some shares of batches were read; how many more than without a loss."""
        # On a cluster that lives on, Ray keeps what a dead driver had reserved for three minutes more.
        address = "local" if kill is None else nodes.address
        said = after_a_loss(
            lambda: training.driver(address, folder), lambda: len(training.readers(folder)) >= at, kill
        )
        training.check(folder, said, 1)
        whole = training.PLAN.epochs * training.EPOCH // (2 if kill is None else 1)
        return max(0, len(training.readers(folder)) - whole)

    def last(processes: Callable[[Path], list[int]], folder: Path) -> Callable[[], None]:
        return lambda: os.kill(processes(folder)[-1], signal.SIGKILL)

    def of_shards(folder: Path) -> list[int]:
        return [process for _, process in shards.computed(folder)]

    points = range(2, shards.ROWS // 64 - 3)
    disturbed("worker", "shards", lambda f, at: shards_again(f, at, last(of_shards, f)), points)
    disturbed("node", "shards", lambda f, at: shards_again(f, at, nodes.lose_second), points)
    disturbed("driver", "shards", lambda f, at: shards_again(f, at, None), points)
    points = range(1, (training.PLAN.epochs - 1) * training.EPOCH)
    disturbed("worker", "training", lambda f, at: shares_again(f, at, last(training.readers, f)), points)
    disturbed("node", "training", lambda f, at: shares_again(f, at, nodes.lose_second), points)
    disturbed("driver", "training", lambda f, at: shares_again(f, at, None), range(1, 9))
    nodes.cluster.shutdown()
    on_ray = replace(config, cluster="local")
    stages = [
        kill_and_resume(
            on_ray, tmp_path / f"run-{number}", undisturbed.scores, chance.uniform(0, 2 * undisturbed.seconds)
        )
        for number in range(POINTS)
    ]
    rows.append(("run and supervisor", ", ".join(stages), POINTS, "same scores to 1e-6"))
    table = Table("killed", "while", "times", "after")
    for row in rows:
        table.add_row(*map(str, row))
    publish(
        "cluster_kills",
        [dict(zip(("killed", "while", "times", "after"), row, strict=True)) for row in rows],
        table,
    )


def after_a_loss(
    start: Callable[[], "subprocess.Popen[str]"], ready: Callable[[], bool], kill: Callable[[], None] | None
) -> str:
    """What a driver says that loses something when it is ready; the second one, where it is killed itself."""
    running = start()
    wait_until(ready)
    if kill is None:
        running.kill()
        running.communicate()
        running = start()
    else:
        kill()
    return running.communicate(timeout=shards.WAIT)[0]
