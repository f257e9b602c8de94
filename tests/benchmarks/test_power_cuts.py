"""Power cuts at random points: what a disk holds when nothing more is written to it.

    pytest -m benchmark tests/benchmarks/test_power_cuts.py -s

The workspace lies on a file system of its own in a file (a loop device; this takes root). A copy of that file
is the disk at that moment: what programs wrote and did not sync is not in it. Each copy is mounted, and must
hold everything that was said to be done. Prints a table and writes .benchmarks/power_cuts.json.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.table import Table

from sharpeye.config import RunConfig
from sharpeye.runs.doctor import artifact_damage
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.runs.workspace import open_workspace
from tests.benchmarks.activities import ACTIVITIES, finished_rounds, start
from tests.benchmarks.conftest import Undisturbed
from tests.benchmarks.reporting import publish
from tests.engine.runs.watching import finished, kill_all, processes_of, submit

pytestmark = pytest.mark.benchmark
CUTS = 5
RUN_CUTS = 8
LONGEST = 3.0
DISK_BYTES = 2**30
# The file system itself syncs what programs do not: only once in that many seconds here.
COMMIT_SECONDS = 300


@contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,commit={COMMIT_SECONDS}", disk, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def new_disk(path: Path) -> Path:
    """An empty file system in a file. A new one each time: what is removed is not free before a commit."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


def cut(disk: Path, target: Path) -> Path:
    """The disk as it is now; its writers must stand still."""
    while True:
        subprocess.run(["cp", "--sparse=always", disk, target], check=True)
        if subprocess.run(["cmp", "-s", disk, target]).returncode == 0:
            return target


def test_power_cuts(config: RunConfig, undisturbed: Undisturbed, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("takes root, mkfs.ext4 and loop devices")
    chance, expected = random.Random(0), undisturbed.scores
    rows = []
    for name, activity in ACTIVITIES.items():
        rounds = 0
        for _ in range(CUTS):
            disk = new_disk(tmp_path / "disk")
            with mounted(disk, tmp_path / "live") as live:
                folder = live / "work"
                shutil.copytree(undisturbed.workspace.root.parent, folder)
                activity.prepare(folder)
                os.sync()
                process = start(name, folder)
                time.sleep(chance.uniform(0, LONGEST))
                process.send_signal(signal.SIGSTOP)
                left = cut(disk, tmp_path / "cut")
                process.kill()
                done = finished_rounds(process)
            with mounted(left, tmp_path / "after") as after:
                activity.check(after / "work", done)
            rounds += done
        rows.append((name, CUTS, f"{rounds:,} finished rounds, all kept"))
    again = 0
    for number in range(RUN_CUTS):
        disk = new_disk(tmp_path / "disk")
        with mounted(disk, tmp_path / "live") as live:
            workspace = open_workspace(str(live / f"run-{number}"))
            run = submit(workspace, config)
            ensure_supervisor(workspace)
            time.sleep(chance.uniform(0, undisturbed.seconds))
            writers = processes_of(workspace)
            for writer in writers:
                writer.suspend()
            left = cut(disk, tmp_path / "cut")
            kill_all(workspace)
        with mounted(left, tmp_path / "after") as after:
            workspace = open_workspace(str(after / f"run-{number}"))
            again += len(list(artifact_damage(workspace)))
            scores = finished(workspace, run)
            kill_all(workspace)
            for method in config.methods:
                assert scores[method].to_numpy() == pytest.approx(expected[method].to_numpy(), rel=1e-6)
    rows.append(("computing", RUN_CUTS, f"same scores to 1e-6; {again} damaged results made again"))
    table = Table("while", "power cuts", "after")
    for row in rows:
        table.add_row(*map(str, row))
    publish("power_cuts", [dict(zip(("while", "cuts", "after"), row, strict=True)) for row in rows], table)
