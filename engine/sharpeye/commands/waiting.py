"""Waiting for a run, as the commands do: progress on stderr, the result on stdout."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sharpeye.api import Run, RunFailed
from sharpeye.commands.options import ServerOptions
from sharpeye.errors import InputError
from sharpeye.processes import module_command

if TYPE_CHECKING:
    from rich.table import Table

    from sharpeye.runs.result import RunResult

SUSPECTS = 10


def start_app(workspace: str, server: ServerOptions) -> None:
    """Become the app's process, which serves until it is interrupted."""
    from sharpeye.runs.workspace import open_workspace

    listen = ["--host", server.host, *(["--port", str(server.port)] if server.port else [])]
    for option, values in (("--root", server.roots), ("--allowed-host", server.allowed_hosts)):
        listen += [argument for value in values for argument in (option, value)]
    listen += ["--token" if server.token else "--no-token", "--browser" if server.browser else "--no-browser"]
    command = module_command("sharpeye_app", str(open_workspace(workspace).root), *listen)
    sys.stdout.flush()
    os.execv(sys.executable, command)


def print_result(run: Run, as_json: bool) -> None:
    """Show a run's progress until it ends, then its result."""
    result = result_of(run)
    try:
        if as_json:
            click.echo(msgspec.json.encode(result).decode())
        else:
            _print_result(run, result)
        sys.stdout.flush()
    except OSError as error:
        # The run succeeded all the same. Python would try to write the rest again when it exits.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        click.echo(
            f"sharpeye: cannot write the result ({error.strerror}); `sharpeye status {run.id}` shows the run",
            err=True,
        )


def result_of(run: Run) -> "RunResult":
    """A run's result, once it is there; see `finished`."""
    finished(run)
    return run.result


def finished(run: Run) -> None:
    """Wait for a run; progress on stderr.

    Exits with 1 where the run failed or was canceled; raises InputError, which exits with 2, where the input
    was bad.
    """
    try:
        run.wait()
    except KeyboardInterrupt:
        click.echo(f"run {run.id} goes on in the background; `sharpeye cancel {run.id}` stops it", err=True)
        raise click.exceptions.Exit(130) from None
    except RunFailed as error:
        _print_notes(run)
        click.echo(f"sharpeye: {error}", err=True)
        raise click.exceptions.Exit(1) from None
    except InputError:
        _print_notes(run)
        raise
    _print_notes(run)


def _print_notes(run: Run) -> None:
    """What the user should know about a run that ended."""
    for note in (*_warnings(run), *run.row().notes.splitlines()):
        click.echo(f"sharpeye: {note}", err=True)


def _warnings(run: Run) -> list[str]:
    """Warnings in a run's log, each once."""
    try:
        lines = run.workspace.run(run.id).log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return list(
        dict.fromkeys(line.removeprefix("warning: ") for line in lines if line.startswith("warning: "))
    )


def _print_result(run: Run, result: "RunResult") -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    title = f"run {result.run}: {result.n:,} images, {result.classes} classes, {result.device}"
    console.print(title, highlight=False)
    console.print(_quality(result) if result.measured else _suspects(run))
    console.print(result.wrong_labels, highlight=False)
    if result.skipped:
        left_out = f"left out: {result.skipped:,} rows, see {Path(result.scores).with_name('skipped.csv')}"
        console.print(left_out, highlight=False, soft_wrap=True)
    ranked = f"ranked by {result.ranked_by}; {result.seconds:.0f} s; scores in {result.scores}"
    console.print(ranked, highlight=False, soft_wrap=True)


def _quality(result: "RunResult") -> "Table":
    """How well each method did, where true labels are known."""
    from rich.table import Table

    from sharpeye.quality import MAIN_METRICS, METRIC_TITLES

    table = Table("method")
    for metric in MAIN_METRICS:
        table.add_column(METRIC_TITLES[metric], justify="right")
    table.add_column("seconds", justify="right")
    for name, method in result.methods.items():
        values = (getattr(method, metric) for metric in MAIN_METRICS)
        shares = ("–" if value is None else f"{value:.4f}" for value in values)
        table.add_row(name, *shares, f"{method.score_seconds:.1f}")
    return table


def _suspects(run: Run) -> "Table":
    """The most suspicious images."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("rank", "most suspicious image", "given", "suggested", "P(wrong)")
    for row in run.suspects(SUSPECTS).itertuples(index=False):
        texts = (escape(str(value)) for value in (row.id, row.given_label, row.suggested_label))
        table.add_row(str(row.rank), *texts, f"{row.wrong_probability:.2f}")
    return table
