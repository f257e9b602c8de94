"""Speed of decisions, and polling of a live run.

    pytest -m benchmark tests/benchmarks/test_durability.py -s

Prints tables and writes .benchmarks/*.json. SHARPEYE_POLL_SECONDS sets how long a live run is polled (default
600).
"""

import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd
import pytest
from rich.table import Table

from sharpeye.config import RunConfig
from sharpeye.runs import store
from sharpeye.runs.decisions import Decision, current_decisions, decide, undo
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.runs.workspace import open_workspace
from tests.benchmarks.reporting import publish
from tests.engine.runs.watching import kill_all, submit, wait_for

pytestmark = pytest.mark.benchmark
DECISIONS = 100_000
IMAGES = 1_000_000
BULK = 10_000
POLLS_A_SECOND = 10


def report(name: str, rows: dict[str, object]) -> None:
    table = Table(name, "")
    for key, value in rows.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    publish(name, rows, table)


def test_decisions(tmp_path: Path) -> None:
    ids = [f"train/{number:07d}.png" for number in range(IMAGES)]
    with store.store(open_workspace(str(tmp_path / "ws"))) as connection:
        appends = []
        for number in range(DECISIONS):
            decision = Decision(ids[(number * 7919) % IMAGES], "accept", "cat", "dog")
            clock = time.perf_counter()
            decide(connection, "d", "run", "me", [decision], number)
            appends.append(time.perf_counter() - clock)
        clock = time.perf_counter()
        current = current_decisions(connection, "d").set_index("image")["to_label"].reindex(pd.Index(ids))
        fold = time.perf_counter() - clock
        assert current.notna().sum() == DECISIONS
        decide(
            connection, "d", "run", "me", [Decision(image, "accept", "cat", "dog") for image in ids[:BULK]]
        )
        clock = time.perf_counter()
        undo(connection, "d", "me")
        undone = time.perf_counter() - clock
        assert current_decisions(connection, "d")["image"].nunique() == DECISIONS
    rows: dict[str, object] = {
        "append, median ms": 1000 * median(appends),
        "append, 99th percentile ms": 1000 * sorted(appends)[int(0.99 * DECISIONS)],
        "state of 1,000,000 images, s": fold,
        "undo of 10,000 at once, s": undone,
    }
    report("decisions", rows)


def test_polling_a_live_run(config: RunConfig, tmp_path: Path) -> None:
    """Runs one after another, polled at 10 Hz over fresh connections.

    SQLite busy errors would be raised here or end a run.
    """
    workspace = open_workspace(str(tmp_path / "ws"))
    deadline = time.monotonic() + float(os.environ.get("SHARPEYE_POLL_SECONDS", "600"))
    polls, runs, latencies, seed = 0, 0, [], 0
    while time.monotonic() < deadline:
        run = submit(workspace, replace(config, seed=seed))
        seed += 1
        while time.monotonic() < deadline:
            if polls % POLLS_A_SECOND == 0:
                ensure_supervisor(workspace)
            clock = time.perf_counter()
            with store.store(workspace) as connection:
                row = store.get_run(connection, run)
            latencies.append(time.perf_counter() - clock)
            polls += 1
            assert row.state not in ("failed", "canceled"), row.message
            assert "busy" not in row.notes
            if row.state == "done":
                runs += 1
                break
            time.sleep(1 / POLLS_A_SECOND)
    with store.store(workspace) as connection:
        store.request_cancel(connection, run)
    wait_for(workspace, run, store.FINISHED)
    kill_all(workspace)
    log = workspace.run(run).log.read_text()
    assert sqlite3.OperationalError.__name__ not in log
    report(
        "polling",
        {
            "polls": polls,
            "runs finished": runs,
            "busy errors": 0,
            "status, median ms": 1000 * median(latencies),
        },
    )
