"""The commands on a workspace: serve, runs, status, cancel, resume, delete, export, import."""

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.client import POLL_SECONDS, opened, start_app, wait
from engine.errors import InputError
from engine.options import JSON, SERVER, WORKSPACE

if TYPE_CHECKING:
    import sqlite3

    from engine.runs.store import RunRow

CANCEL_SECONDS = 5.0


@click.command()
@WORKSPACE
@SERVER
def serve(workspace: str, host: str, port: int | None, browser: bool) -> None:
    """Open the app in the browser, and work off the queue of runs.

    \b
    Example:
      sharpeye serve --workspace review/
    """
    start_app(workspace, host, port, browser)


@click.command()
@WORKSPACE
@JSON
def runs(workspace: str, as_json: bool) -> None:
    """List the runs of a workspace."""
    from engine.runs.store import list_runs

    with opened(workspace) as (_, connection):
        rows = list_runs(connection)
    if as_json:
        click.echo(json.dumps([row.summary() for row in rows]))
        return
    for row in rows:
        config = json.loads(row.config)
        click.echo(
            f"{row.id}  {row.state:<9} {_when(row.submitted)}  {config['train']}  {config['methods'][0]}, {config['budget']}"
        )
    if not rows:
        click.echo("no runs yet: start one with `sharpeye run`, or see `sharpeye demo`")


@click.command()
@click.argument("run")
@WORKSPACE
@JSON
def status(run: str, workspace: str, as_json: bool) -> None:
    """Show how far a run is."""
    with opened(workspace) as (_, connection):
        row = get_run(connection, run)
    if as_json:
        click.echo(json.dumps(row.summary()))
        return
    click.echo(f"{row.id}  {row.state}  submitted {_when(row.submitted)}")
    if row.state == "running" and row.progress:
        step = json.loads(row.progress)
        loss = "" if step["loss"] is None else f", loss {step['loss']:.3f}"
        click.echo(
            f"{step['stage']}: {step['done']:,}/{step['total']:,} {step['unit']}s{loss}, {step['images_per_second']:,.0f} images/s, "
            f"{step['seconds_left']:.0f} s left in this stage, {step['memory_mb']:,.0f} MB, on {row.device}"
        )
    for line in (row.message, *row.notes.splitlines()):
        if line:
            click.echo(line)


@click.command()
@click.argument("run")
@WORKSPACE
@JSON
def cancel(run: str, workspace: str, as_json: bool) -> None:
    """Cancel a run; what it has computed is kept, and `resume` goes on from there."""
    from engine.runs.store import request_cancel
    from engine.runs.supervisor import ensure_supervisor

    with opened(workspace) as (folder, connection):
        row = request_cancel(connection, get_run(connection, run).id)
        ensure_supervisor(folder)
        deadline = time.monotonic() + CANCEL_SECONDS
        while row.state == "running" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            row = get_run(connection, row.id)
    click.echo(json.dumps(row.summary()) if as_json else f"{row.id}  {row.state}")


@click.command()
@click.argument("run")
@WORKSPACE
@JSON
def resume(run: str, workspace: str, as_json: bool) -> None:
    """Go on with a run that failed, was canceled or was cut off; waits and prints what `run` would have."""
    from engine.runs import store

    with opened(workspace) as (folder, connection):
        row = store.resume(connection, get_run(connection, run).id)
        wait(folder, connection, row.id, as_json)


@click.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@WORKSPACE
def delete(run: str, yes: bool, workspace: str) -> None:
    """Delete a finished run and its files; decisions made on its images are kept."""
    from engine.runs.store import delete_run

    with opened(workspace) as (folder, connection):
        run = get_run(connection, run).id
        if not yes:
            click.confirm(f"Delete run {run} and its files?", abort=True)
        delete_run(connection, run)
        shutil.rmtree(folder.run(run).root, ignore_errors=True)
    click.echo(f"{run}  deleted")


@click.command()
@click.argument("run")
@click.argument("target", metavar="DIR")
@click.option("--images", is_flag=True, help="Also a cleaned copy of the image folder (hard links where possible).")
@WORKSPACE
@JSON
def export(run: str, target: str, images: bool, workspace: str, as_json: bool) -> None:
    """Write cleaned labels (CSV and Parquet) and the decision log to DIR; only decided changes are applied.

    \b
    Example:
      sharpeye export 1a2b cleaned/ --images
    """
    from engine.runs import export as exports

    with opened(workspace) as (folder, connection):
        try:
            labels = exports.export(connection, folder, get_run(connection, run), Path(target), images)
        except OSError as error:
            raise InputError(f"{target}: cannot be written to ({error})") from error
    changed = int((labels["given_label"] != labels["final_label"]).sum())
    summary = {"folder": str(Path(target).resolve()), "images": len(labels), "changed": changed}
    click.echo(json.dumps(summary) if as_json else f"{len(labels):,} labels, {changed:,} of them changed, in {summary['folder']}")


@click.command("import")
@click.argument("run")
@click.argument("file", metavar="DECISIONS.CSV")
@WORKSPACE
@JSON
def import_(run: str, file: str, workspace: str, as_json: bool) -> None:
    """Add the decision log of an export to a run's dataset."""
    from engine.runs.export import import_log

    with opened(workspace) as (folder, connection):
        added = import_log(connection, folder, get_run(connection, run), Path(file))
    click.echo(json.dumps({"actions": added}) if as_json else f"{added:,} actions added")


def get_run(connection: "sqlite3.Connection", run: str) -> "RunRow":
    """A run by the beginning of its id; pandas and the store are imported only when a command needs them."""
    from engine.runs import store

    return store.get_run(connection, run)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


COMMANDS = (serve, runs, status, cancel, resume, delete, export, import_)
