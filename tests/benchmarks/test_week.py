"""A team's week in fast forward: 200 runs, 500,000 decisions and 50 restarts of the app.

    pytest -m benchmark tests/benchmarks/test_week.py -s

Between two restarts, four runs are computed, people decide on 10,000 images, and the runs are deleted and
their shared results cleaned. Prints handles, memory, disk and zombies of the first and the last restarts, and
writes .benchmarks/week.json. SHARPEYE_RESTARTS sets how many restarts there are (50), SHARPEYE_RUNS how many
runs there are between two (4).
"""

import json
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import psutil
import pytest
from rich.table import Table

import sharpeye
from sharpeye.runs import store
from sharpeye.runs.cleaning import drop, shared_results
from sharpeye.runs.workspace import Workspace
from sharpeye_app import readers
from sharpeye_app.reviewer import signature
from sharpeye_app.routes import OWN_HEADER
from tests.app.synthetic import synthetic_workspace
from tests.benchmarks.reporting import publish
from tests.browser.driving import App, free_port, served
from tests.engine.runs.watching import kill_all, processes_of

RESTARTS = int(os.environ.get("SHARPEYE_RESTARTS", "50"))
RUNS = int(os.environ.get("SHARPEYE_RUNS", "4"))
DECISIONS, AT_ONCE, IMAGES = 10_000, 100, 50_000
# The first restarts fill caches.
WARM = 5
MEGABYTE = 2**20


@pytest.mark.benchmark
def test_week(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    train, check = make_folder("train", 15, wrong=2, seed=1), make_folder("check", 6, seed=2)
    workspace, reviewed = synthetic_workspace(tmp_path / "week", IMAGES)
    os.environ[readers.WORKSPACE_VARIABLE] = str(workspace.root)
    readers.workspace.cache_clear()
    port, days = free_port(), []
    for restart in range(RESTARTS):
        with served(workspace.root, port) as app:
            runs = [
                sharpeye.start(
                    str(train),
                    validation=str(check),
                    methods=("val_loss",),
                    budget="fast",
                    seed=restart * RUNS + number,
                    workspace=workspace.root,
                )
                for number in range(RUNS)
            ]
            decide(app, reviewed, restart)
            for run in runs:
                run.wait(progress=False)
                assert run.state == "done"
            days.append(measured(workspace, psutil.Process(app.process.pid)))
        for run in runs:
            run.delete()
        drop(workspace, shared_results(workspace, days=0))
        days[-1]["disk, MB"] = disk_megabytes(workspace)
    kill_all(workspace)
    with store.store(workspace) as connection:
        stored = connection.execute("SELECT count(*) FROM decisions").fetchone()[0]
    assert stored == RESTARTS * DECISIONS
    first, last = days[WARM : 2 * WARM], days[-WARM:]
    title = f"{RESTARTS * RUNS} runs, {stored:,} decisions, {RESTARTS} restarts"
    table = Table("what", f"restarts {WARM + 1} to {2 * WARM}", f"the last {WARM}", title=title)
    for name in days[0]:
        table.add_row(name, *(f"{fmean(day[name] for day in part):,.1f}" for part in (first, last)))
    publish("week", days, table)


def decide(app: App, run: str, restart: int) -> None:
    """DECISIONS decisions in batches, of images that go on from those of the last restart."""
    for batch in range(DECISIONS // AT_ONCE):
        start = (restart * DECISIONS + batch * AT_ONCE) % IMAGES
        entry = {"tab": f"week {restart}", "n": batch, "kind": "decide", "verdict": "skip"}
        entry["rows"] = list(range(start, start + AT_ONCE))
        body = {"who": "ann", "signature": signature("ann"), "blind": False, "head": 10**9, "shown": []}
        headers = {"content-type": "application/json", OWN_HEADER: "1"}
        sent = json.dumps(body | {"entries": [entry]}).encode()
        request = urllib.request.Request(f"{app.url}/decisions/{run}", sent, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.loads(answer.read())["conflicts"] == []


def measured(workspace: Workspace, server: psutil.Process) -> dict[str, float]:
    """Of the app's process, and of the supervisor's where it has not ended."""
    time.sleep(1)
    supervisors = [one for one in processes_of(workspace) if "sharpeye.runs.supervisor" in one.cmdline()]
    of_supervisor = max((one.num_fds() for one in supervisors), default=0)
    zombies = sum(one.info["status"] == psutil.STATUS_ZOMBIE for one in psutil.process_iter(["status"]))
    return {
        "handles of the app": server.num_fds(),
        "its threads": server.num_threads(),
        "its memory, MB": server.memory_info().rss / MEGABYTE,
        "handles of the supervisor": of_supervisor,
        "its memory, MB ": sum(one.memory_info().rss for one in supervisors) / MEGABYTE,
        "zombies": zombies,
        "store, MB": workspace.database.stat().st_size / MEGABYTE,
    }


def disk_megabytes(workspace: Workspace) -> float:
    """The workspace without the store and its copies."""
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    kept = [path for path in files if path.parent != workspace.backups and "workspace.db" not in path.name]
    return sum(path.stat().st_size for path in kept) / MEGABYTE
