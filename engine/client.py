"""Submitting a run and waiting for it, as the commands do: progress on stderr, the result on stdout."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from engine.config import RunConfig

if TYPE_CHECKING:
    import sqlite3

    from rich.table import Table

    from engine.runs.workspace import Workspace

POLL_SECONDS = 0.2
ENSURE_SECONDS = 3.0
SUSPECTS = 10


def submit_and_wait(config: RunConfig, workspace: str, as_json: bool) -> None:
    """Queue a run, wait for it and print its result."""
    from engine.runs.submission import submit_run

    with opened(workspace) as (folder, connection):
        row = submit_run(connection, config)
        wait(folder, connection, row.id, as_json)


def start_app(workspace: str, host: str, port: int | None, browser: bool) -> None:
    """Become the app's process, which serves until it is interrupted."""
    from engine.runs.workspace import open_workspace

    options = ["--host", host, *(["--port", str(port)] if port else []), "--browser" if browser else "--no-browser"]
    command = [sys.executable, "-m", "app", str(open_workspace(workspace).root), *options]
    sys.stdout.flush()
    os.execv(sys.executable, command)


@contextmanager
def opened(workspace: str) -> Iterator[tuple["Workspace", "sqlite3.Connection"]]:
    """A workspace and a connection to its store."""
    from engine.runs.store import store
    from engine.runs.workspace import open_workspace

    folder = open_workspace(workspace)
    with store(folder) as connection:
        yield folder, connection


def wait(folder: "Workspace", connection: "sqlite3.Connection", run: str, as_json: bool) -> None:
    """Show a run's progress until it ends, then its result."""
    result = result_of(folder, connection, run)
    click.echo(json.dumps(result)) if as_json else _print_result(result)


def result_of(folder: "Workspace", connection: "sqlite3.Connection", run: str) -> dict[str, Any]:
    """A run's result, once it is there; progress on stderr. Exits with 2 where the input was bad, 1 where it ended otherwise."""
    from engine.runs.store import FINISHED, get_run

    try:
        _watch(folder, connection, run)
    except KeyboardInterrupt:
        click.echo(f"run {run} goes on in the background; `sharpeye cancel {run}` stops it", err=True)
        raise click.exceptions.Exit(130) from None
    row = get_run(connection, run)
    assert row.state in FINISHED
    for note in (*_warnings(folder, run), *row.notes.splitlines()):
        click.echo(f"sharpeye: {note}", err=True)
    if row.state == "done":
        assert row.result is not None
        result: dict[str, Any] = json.loads(row.result)
        return result
    message = row.message or f"it was canceled; `sharpeye resume {run}` goes on with it"
    click.echo(f"sharpeye: run {run}: {message}", err=True)
    raise click.exceptions.Exit(1 if row.exit_code is None else row.exit_code)


def _watch(folder: "Workspace", connection: "sqlite3.Connection", run: str) -> None:
    """Show a run's progress until it ends, and see to it that a supervisor is at work."""
    from engine.progress import Progress, progress_bars
    from engine.runs.store import FINISHED, get_run
    from engine.runs.supervisor import ensure_supervisor

    seen = ""
    ensured = float("-inf")
    with progress_bars() as report:
        while (row := get_run(connection, run)).state not in FINISHED:
            if time.monotonic() - ensured > ENSURE_SECONDS:
                ensure_supervisor(folder)
                ensured = time.monotonic()
            if row.progress and row.progress != seen:
                seen = row.progress
                report(Progress(**{key: value for key, value in json.loads(seen).items() if key != "memory_mb"}))
            time.sleep(POLL_SECONDS)


def _warnings(folder: "Workspace", run: str) -> list[str]:
    """Warnings in a run's log, each once."""
    try:
        lines = folder.run(run).log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")))


def _print_result(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(
        f"run {result['run']}: {result['n']:,} images, {result['classes']} classes, {result['device']}", highlight=False
    )
    measured = any(
        value is not None
        for summary in result["methods"].values()
        for key, value in summary.items()
        if key not in ("score_seconds", "memory_mb")
    )
    console.print(_quality(result) if measured else _suspects(result))
    share = result["expected_wrong"] / result["n"]
    low, high = result["expected_wrong_interval"]
    console.print(
        f"expected wrong labels: about {result['expected_wrong']:,.0f} ({low:,.0f} to {high:,.0f}) of {result['n']:,} ({share:.1%})",
        highlight=False,
    )
    if result["skipped"]:
        console.print(f"left out: {result['skipped']:,} rows, see skipped.csv beside the scores", highlight=False)
    console.print(
        f"ranked by {result['ranked_by']}; {result['seconds']:.0f} s; scores in {result['scores']}",
        highlight=False,
        soft_wrap=True,
    )


def _quality(result: dict[str, Any]) -> "Table":
    """How well each method did, where true labels are known."""
    from rich.table import Table

    columns = {"auc": "AUC", "ap": "AP", "suggestion_accuracy": "suggestion acc.", "relabel_accuracy": "relabel acc."}
    table = Table("method")
    for title in (*columns.values(), "seconds"):
        table.add_column(title, justify="right")
    for name, summary in result["methods"].items():
        shares = ("–" if summary[key] is None else f"{summary[key]:.4f}" for key in columns)
        table.add_row(name, *shares, f"{summary['score_seconds']:.1f}")
    return table


def _suspects(result: dict[str, Any]) -> "Table":
    """The most suspicious images."""
    import pandas as pd
    from rich.markup import escape
    from rich.table import Table

    columns = ["id", "given_label", "suggested_label", "wrong_probability", "rank"]
    scores = pd.read_parquet(result["scores"], columns=columns).nsmallest(SUSPECTS, "rank")
    table = Table("rank", "most suspicious image", "given", "suggested", "P(wrong)")
    for row in scores.itertuples(index=False):
        texts = (escape(str(value)) for value in (row.id, row.given_label, row.suggested_label))
        table.add_row(str(row.rank), *texts, f"{row.wrong_probability:.2f}")
    return table
