"""What a run costs beside processes that want the same cores.

    pytest -m benchmark tests/benchmarks/test_contention.py -s

The packaged demo's first 1,000 images, budget `fast`: alone, then beside one busy process a core. A run that
shares its cores fairly with these takes twice as long. Prints both and writes .benchmarks/contention.json.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from joblib import cpu_count
from rich.table import Table

from tests.benchmarks.reporting import publish
from tests.engine.commands.test_cli import result_of, sharpeye

TARGET = 2.5


@contextmanager
def busy_cores() -> Iterator[None]:
    """A process a core that never sleeps."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cpu_count())]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.benchmark
def test_contention(tmp_path: Path) -> None:
    quiet = seconds_of_a_run(tmp_path / "quiet")
    with busy_cores():
        busy = seconds_of_a_run(tmp_path / "busy")
    table = Table("alone", f"beside {cpu_count()} busy processes", "ratio", "at most")
    table.add_row(f"{quiet:.0f} s", f"{busy:.0f} s", f"{busy / quiet:.2f}", str(TARGET))
    publish("contention", {"quiet": quiet, "busy": busy, "ratio": busy / quiet, "target": TARGET}, table)


def seconds_of_a_run(workspace: Path) -> float:
    options = ("--train", "demo", "--validation", "demo", "--limit", 1000, "--budget", "fast")
    result = result_of(sharpeye("run", *options, "--method", "fvm", "--workspace", workspace, "--json"))
    return float(result["seconds"])
