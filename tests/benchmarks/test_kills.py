"""Kill -9 at 50 random points: while a run computes, while people decide, and during exports, imports,
migrations, repairs and copies of the store.

    pytest -m benchmark tests/benchmarks/test_kills.py -s

Prints a table and writes .benchmarks/kills.json.
"""

import http.client
import json
import os
import random
import shutil
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.table import Table

from sharpeye.config import RunConfig
from sharpeye.runs import store
from sharpeye_app import readers
from sharpeye_app.reviewer import signature
from sharpeye_app.routes import OWN_HEADER
from tests.app.synthetic import synthetic_workspace
from tests.benchmarks.activities import ACTIVITIES, finished_rounds, start
from tests.benchmarks.conftest import Undisturbed
from tests.benchmarks.reporting import publish
from tests.browser.driving import free_port, served
from tests.engine.runs.watching import kill_and_resume

pytestmark = pytest.mark.benchmark
RUN_KILLS = 15
ACTIVITY_KILLS = 5
SERVER_KILLS = 5
LONGEST = 3.0
REVIEWERS, ROWS = 5, 2000


def test_kills(config: RunConfig, undisturbed: Undisturbed, tmp_path: Path) -> None:
    chance, expected = random.Random(0), undisturbed.scores
    rows = []
    stages = Counter(
        kill_and_resume(config, tmp_path / f"run-{number}", expected, chance.uniform(0, undisturbed.seconds))
        for number in range(RUN_KILLS)
    )
    where = ", ".join(f"{stage} {times}" for stage, times in stages.items())
    rows.append(("computing", RUN_KILLS, f"same scores to 1e-6; killed in {where}"))
    for name, activity in ACTIVITIES.items():
        rounds = 0
        for number in range(ACTIVITY_KILLS):
            folder = tmp_path / f"{name}-{number}"
            shutil.copytree(undisturbed.workspace.root.parent, folder)
            activity.prepare(folder)
            process = start(name, folder)
            time.sleep(chance.uniform(0, LONGEST))
            process.kill()
            done = finished_rounds(process)
            activity.check(folder, done)
            rounds += done
        rows.append((name, ACTIVITY_KILLS, f"{rounds:,} finished rounds, all kept"))
    for number in range(SERVER_KILLS):
        decided = killed_server(tmp_path / f"server-{number}", chance.uniform(0, LONGEST))
        rows.append(("deciding in the app", 1, f"{decided:,} decisions, each once"))
    table = Table("while", "kills", "after")
    for row in rows:
        table.add_row(*map(str, row))
    assert sum(kills for _, kills, _ in rows) == 50
    publish("kills", [dict(zip(("while", "kills", "after"), row, strict=True)) for row in rows], table)


def killed_server(folder: Path, delay: float) -> int:
    """Kill the app while people decide, start it again, and send what was not answered once more; how many
    decisions there are then."""
    workspace, run = synthetic_workspace(folder, REVIEWERS * ROWS)
    os.environ[readers.WORKSPACE_VARIABLE] = str(workspace.root)
    readers.workspace.cache_clear()
    port = free_port()
    with ThreadPoolExecutor(REVIEWERS) as pool:
        with served(workspace.root, port) as app:
            place = f"{app.url}/decisions/{run}"
            sent = [pool.submit(send_until_refused, place, person) for person in range(REVIEWERS)]
            time.sleep(delay)
        answered = [one.result() for one in sent]
    with served(workspace.root, port):
        for person, number in enumerate(answered):
            assert send(place, person, number)
    with store.store(workspace) as connection:
        decided = connection.execute("SELECT image, count(*) FROM decisions GROUP BY image").fetchall()
    assert all(times == 1 for _, times in decided)
    assert len(decided) == sum(number + 1 for number in answered)
    return len(decided)


def send_until_refused(place: str, person: int) -> int:
    """Decide one image after another; how many were answered before the server was gone."""
    return next(number for number in range(ROWS) if not send(place, person, number))


def send(place: str, person: int, number: int) -> bool:
    """Send a person's n-th decision; whether it was answered."""
    who = f"person {person}"
    entry = {"tab": who, "n": number, "kind": "decide", "rows": [person * ROWS + number], "verdict": "skip"}
    body = {
        "who": who,
        "signature": signature(who),
        "blind": False,
        "head": 10**9,
        "shown": [],
        "entries": [entry],
    }
    headers = {"content-type": "application/json", OWN_HEADER: "1"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(place, json.dumps(body).encode(), headers)
        ) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
