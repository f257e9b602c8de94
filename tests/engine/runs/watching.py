"""Start, watch, kill and resume runs of a workspace, for tests and benchmarks."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from sharpeye.config import RunConfig
from sharpeye.runs import store
from sharpeye.runs.decisions import Decision, current_decisions, decide
from sharpeye.runs.submission import submit_run
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.runs.workspace import Workspace, open_workspace


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for two minutes at most."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for(workspace: Workspace, run: str, states: tuple[str, ...], seconds: float = 240) -> store.RunRow:
    deadline = time.monotonic() + seconds
    with store.store(workspace) as connection:
        while time.monotonic() < deadline:
            row = store.get_run(connection, run)
            if row.state in states:
                return row
            ensure_supervisor(workspace)
            time.sleep(0.1)
    pytest.fail(f"run {run} is {row.state} after {seconds} s, not {states}: {row.message}")


def submit(workspace: Workspace, config: RunConfig) -> str:
    with store.store(workspace) as connection:
        return submit_run(connection, config).id


def finished(workspace: Workspace, run: str) -> pd.DataFrame:
    row = wait_for(workspace, run, store.FINISHED)
    assert row.state == "done", row.message
    return pd.read_parquet(workspace.run(run).scores)


def stages_reported(events: Path) -> tuple[str, ...]:
    """The stages of a run's log of progress, in the order in which they began."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return tuple(dict.fromkeys(line["stage"] for line in lines if "stage" in line))


def processes_of(workspace: Workspace) -> list[psutil.Process]:
    """Supervisor and run of a workspace."""
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(workspace.root) in command and any(part.startswith("sharpeye.runs.") for part in command):
            processes.append(process)
    return processes


def kill_all(workspace: Workspace) -> None:
    for process in processes_of(workspace):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended since it was listed
            process.kill()
            process.wait(10)


def kill_and_resume(config: RunConfig, folder: Path, expected: pd.DataFrame, delay: float) -> str:
    """Submit, kill -9 everything after a delay, resume; the stage it was killed in.

    Checks scores and decisions.
    """
    workspace = open_workspace(str(folder))
    run = submit(workspace, config)
    ensure_supervisor(workspace)
    with store.store(workspace) as connection:
        decide(connection, "d", run, "me", [Decision("image", "accept", "ant", "bee")])
    time.sleep(delay)
    kill_all(workspace)
    with store.store(workspace) as connection:
        row = store.get_run(connection, run)
        assert current_decisions(connection, "d")["to_label"].tolist() == ["bee"]
    scores = finished(workspace, run)
    for name in config.methods:
        np.testing.assert_allclose(scores[name], expected[name], rtol=1e-6)
    assert (scores["rank"] == expected["rank"]).all()
    kill_all(workspace)
    return str(json.loads(row.progress)["stage"]) if row.progress else row.state


def store_row(workspace: Workspace, run: str) -> store.RunRow:
    with store.store(workspace) as connection:
        return store.get_run(connection, run)
