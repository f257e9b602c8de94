"""One server for a team: 20 people who decide and 30 who look, for five minutes, with 100,000 decisions in
the store.

    pytest -m benchmark tests/benchmarks/test_server_load.py -s

Prints a table and writes .benchmarks/server_load.json. SHARPEYE_LOAD_SECONDS sets how long (300).
"""

import json
import os
import sqlite3
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rich.table import Table

from sharpeye.runs import store
from sharpeye_app import readers
from sharpeye_app.reviewer import signature
from sharpeye_app.routes import OWN_HEADER
from tests.app.synthetic import synthetic_workspace
from tests.benchmarks.reporting import publish
from tests.benchmarks.test_app_speed import fill
from tests.browser.driving import App, served

SECONDS = int(os.environ.get("SHARPEYE_LOAD_SECONDS", "300"))
REVIEWERS, VIEWERS, IMAGES = 20, 30, 50_000
PAUSE = 1.0
WARM_UP = 0.2
MEGABYTE = 2**20


def timed(request: urllib.request.Request | str) -> tuple[float, bool]:
    """Seconds until an answer, and whether it is one."""
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            well = answer.status == 200
    except (urllib.error.URLError, OSError):
        well = False
    return time.monotonic() - started, well


def reviewer(app: App, run: str, person: int, until: float) -> list[tuple[float, bool]]:
    """Decides once a second, on images of their own, and takes every tenth decision back."""
    who = f"person {person}"
    common = {"who": who, "signature": signature(who), "blind": False, "head": 10**9}
    taken, number = [], 0
    while time.monotonic() < until:
        row = 5_000 + (person * 1_000 + number) % (IMAGES - 5_000)
        entry: dict[str, Any] = {"tab": f"load {person}", "n": number}
        entry |= (
            {"kind": "undo"} if number % 10 == 9 else {"kind": "decide", "rows": [row], "verdict": "skip"}
        )
        body = {**common, "shown": list(range(60)), "entries": [entry]}
        headers = {"content-type": "application/json", OWN_HEADER: "1"}
        place = f"{app.url}/decisions/{run}"
        taken.append(timed(urllib.request.Request(place, json.dumps(body).encode(), headers)))
        number += 1
        time.sleep(max(0.0, PAUSE - taken[-1][0]))
    return taken


def viewer(app: App, run: str, person: int, until: float) -> list[tuple[float, bool]]:
    """Looks at a picture and the evidence on it, once a second."""
    taken, number = [], 0
    while time.monotonic() < until:
        row = (person * 997 + number * 13) % IMAGES
        taken += [timed(f"{app.url}/runs/{run}/pictures/{row}"), timed(f"{app.url}/evidence/{run}/{row}")]
        number += 1
        time.sleep(PAUSE)
    return taken


def decisions(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM actions").fetchone()[0])


@pytest.mark.benchmark
def test_server_load(tmp_path: Path) -> None:
    workspace, run = synthetic_workspace(tmp_path / "load", IMAGES)
    fill(workspace, run)
    os.environ[readers.WORKSPACE_VARIABLE] = str(workspace.root)
    readers.workspace.cache_clear()
    with served(workspace.root) as app, store.store(workspace) as connection:
        before, process = decisions(connection), psutil.Process(app.process.pid)
        until = time.monotonic() + SECONDS
        with ThreadPoolExecutor(REVIEWERS + VIEWERS) as pool:
            deciding = [pool.submit(reviewer, app, run, person, until) for person in range(REVIEWERS)]
            looking = [pool.submit(viewer, app, run, person, until) for person in range(VIEWERS)]
            time.sleep(WARM_UP * SECONDS)
            warm = process.memory_info().rss
            decided, looked = (
                [one for part in parts for one in part.result()] for parts in (deciding, looking)
            )
        grown = (process.memory_info().rss - warm) / MEGABYTE
        lost = len(decided) - (decisions(connection) - before)
    rows = [
        (
            f"{len(decided):,} decisions and undos: 95 of 100 within, s",
            float(np.quantile([s for s, _ in decided], 0.95)),
            0.3,
        ),
        (
            f"{len(looked):,} pictures and evidence: 95 of 100 within, s",
            float(np.quantile([s for s, _ in looked], 0.95)),
            0.5,
        ),
        ("errors", sum(not well for _, well in (*decided, *looked)), 0),
        ("lost", lost, 0),
        ("memory gained after warm-up, MB", grown, 20),
    ]
    table = Table(
        "what", "measured", "target", title=f"{REVIEWERS} reviewers, {VIEWERS} viewers, {SECONDS} s"
    )
    for name, value, target in rows:
        table.add_row(name, f"{value:,.3g}", f"≤ {target:g}")
    publish(
        "server_load", [dict(zip(("what", "measured", "target"), row, strict=True)) for row in rows], table
    )
