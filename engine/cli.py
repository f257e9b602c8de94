"""The command line: a thin client of the store and the supervisor."""

import contextlib
import json
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.config import BUDGETS, CURVATURES, OPTIMIZERS, PARAMETERS, RunConfig
from engine.errors import InputError

if TYPE_CHECKING:
    import sqlite3

    from engine.runs.store import RunRow
    from engine.runs.workspace import Workspace

DEFAULT_WORKSPACE = "~/.sharpeye"
DEFAULT_METHODS = "fvm,fvm_normalized,fvm_posterior,val_loss,val_loss_posterior,margin"
POLL_SECONDS = 0.2
CANCEL_SECONDS = 5.0
WORKSPACE = click.option("--workspace", default=DEFAULT_WORKSPACE, show_default=True, metavar="DIR", help="Where runs are kept.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON line.")
DEMO_METHODS = "fvm,vm,fvm_normalized,fvm_posterior,val_loss,val_loss_posterior,margin"


class InputErrorsExit2(click.Group):
    """A group whose commands end with one clear line and exit code 2 on bad input."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"sharpeye: {error}", err=True)
            ctx.exit(2)


def _defaults_from_toml(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Use a TOML file's keys (option names, with - or _) as the command's defaults."""
    if path is None:
        return None
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--config {path}: {error}") from error
    known: dict[str, str] = {}
    for parameter in ctx.command.params:
        for spelling in (parameter.name, *parameter.opts):
            known[str(spelling).lstrip("-").replace("-", "_")] = str(parameter.name)
    defaults = {}
    for key, value in values.items():
        if key.replace("-", "_") not in known:
            raise InputError(f"--config {path}: unknown key {key!r}; the keys are the options of `sharpeye {ctx.info_name}`")
        defaults[known[key.replace("-", "_")]] = ",".join(value) if isinstance(value, list) else value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


@click.group(cls=InputErrorsExit2, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sharpeye")
def main() -> None:
    """Find wrong labels in image-classification training sets.

    \b
    Examples:
      sharpeye demo --headless
      sharpeye run --train photos/ --validation checked/
      sharpeye run --train train.parquet --label-column noisy --validation share:0.1
    """


@main.command()
@click.option(
    "--config",
    callback=_defaults_from_toml,
    is_eager=True,
    expose_value=False,
    metavar="FILE",
    help="TOML file; its keys are these options' names.",
)
@click.option(
    "--train",
    required=True,
    metavar="SPEC",
    help="demo, a folder of class folders, a .csv/.parquet file, or torchvision:NAME[/SPLIT].",
)
@click.option(
    "--validation",
    metavar="SPEC",
    help="Clean images: a SPEC, 'split' (the source's split column or folders), or share:0.1. Default: the source's own.",
)
@click.option("--label-column", metavar="NAME", help="Column of the given labels.")
@click.option("--true-label-column", metavar="NAME", help="Column of true labels: only to measure quality, no method reads it.")
@click.option(
    "--human-labels",
    metavar="FILE",
    help="Official CIFAR-10N/100N .pt beside torchvision:CIFAR10/100; --label-column picks its column.",
)
@click.option("--torchvision-root", metavar="DIR", help="Where torchvision keeps its datasets.  [default: ~/.cache/torchvision]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use at most N training images, evenly spaced.")
@click.option(
    "--image-size",
    type=click.IntRange(16, 1024),
    metavar="PX",
    help="Pixels per side fed to the model.  [default: by model and images]",
)
@click.option(
    "--method",
    "methods",
    default=DEFAULT_METHODS,
    metavar="A,B,…",
    show_default=True,
    help="Methods; the first ranks the images.",
)
@click.option(
    "--model",
    default="small",
    show_default=True,
    metavar="NAME",
    help="small, resnet18, resnet34, resnet50, convnext_tiny, vit_b_16 or timm:NAME.",
)
@click.option("--weights", metavar="FILE", help="'pretrained' (download), or a state dict (.safetensors, .pt).")
@click.option(
    "--pretrain/--no-pretrain", default=None, help="Pre-train on the given labels.  [default: where there are no weights]"
)
@click.option(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default="lpf-sgd",
    show_default=True,
    help="How the validation minimum is reached.",
)
@click.option(
    "--parameters",
    type=click.Choice(PARAMETERS),
    default="head",
    show_default=True,
    help="What the influence is taken over.",
)
@click.option(
    "--curvature",
    type=click.Choice(CURVATURES),
    default="kfac",
    show_default=True,
    help="Approximation of the Hessian.",
)
@click.option(
    "--damping",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Relative to the mean eigenvalue.",
)
@click.option("--budget", type=click.Choice(BUDGETS), default="standard", show_default=True, help="How long to train.")
@click.option(
    "--candidates/--no-candidates", default=True, show_default=True, help="Score every candidate label, or the given label only."
)
@click.option(
    "--mirror/--no-mirror",
    default=True,
    show_default=True,
    help="Whether a mirrored image keeps its label (not so for digits and text).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@WORKSPACE
@JSON
def run(workspace: str, as_json: bool, methods: str, **options: Any) -> None:
    """Rank the training images by influence and suggest labels.

    \b
    Examples:
      sharpeye run --train demo
      sharpeye run --train photos/ --validation checked/ --budget fast
      sharpeye run --train train.csv --validation share:0.1 --model resnet18 --weights pretrained
      sharpeye run --config run.toml --seed 1 --json
    """
    names = tuple(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise InputError("--method: name at least one method")
    for option in ("train", "validation", "weights", "human_labels", "torchvision_root"):
        options[option] = _absolute(options[option])
    _submit_and_wait(RunConfig(methods=names, **options), workspace, as_json)


@main.command()
@click.option("--headless", is_flag=True, help="Compute and print, without the app.")
@WORKSPACE
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@JSON
def demo(headless: bool, workspace: str, device: str, as_json: bool) -> None:
    """Run the packaged demo: 6,000 Fashion-MNIST images, a fifth of them wrongly labelled.

    \b
    Example:
      sharpeye demo --headless
    """
    config = RunConfig(train="demo", validation="demo", methods=tuple(DEMO_METHODS.split(",")), budget="fast", device=device)
    _submit_and_wait(config, workspace, as_json)


@main.command()
@WORKSPACE
def serve(workspace: str) -> None:
    """Keep a supervisor at work on the queue until interrupted.

    \b
    Example:
      sharpeye serve --workspace review/
    """
    from engine.runs.supervisor import supervise
    from engine.runs.workspace import open_workspace

    folder = open_workspace(workspace)
    click.echo(f"sharpeye: working off the queue of {folder.root}; Ctrl-C ends this, a run under way goes on", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        supervise(folder, lambda busy: True)


@main.command()
@WORKSPACE
@JSON
def runs(workspace: str, as_json: bool) -> None:
    """List the runs of a workspace."""
    from engine.runs.store import list_runs

    with _opened(workspace) as (_, connection):
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


@main.command()
@click.argument("run")
@WORKSPACE
@JSON
def status(run: str, workspace: str, as_json: bool) -> None:
    """Show how far a run is."""
    from engine.runs.store import get_run

    with _opened(workspace) as (_, connection):
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


@main.command()
@click.argument("run")
@WORKSPACE
@JSON
def cancel(run: str, workspace: str, as_json: bool) -> None:
    """Cancel a run; what it has computed is kept, and `resume` goes on from there."""
    from engine.runs.store import request_cancel
    from engine.runs.supervisor import ensure_supervisor

    with _opened(workspace) as (folder, connection):
        row = request_cancel(connection, run_id(connection, run))
        ensure_supervisor(folder)
        deadline = time.monotonic() + CANCEL_SECONDS
        while row.state == "running" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            row = _row(connection, row.id)
    click.echo(json.dumps(row.summary()) if as_json else f"{row.id}  {row.state}")


@main.command()
@click.argument("run")
@WORKSPACE
@JSON
def resume(run: str, workspace: str, as_json: bool) -> None:
    """Go on with a run that failed, was canceled or was cut off; waits and prints what `run` would have."""
    from engine.runs import store

    with _opened(workspace) as (folder, connection):
        row = store.resume(connection, run_id(connection, run))
        _wait(folder, connection, row.id, as_json)


@main.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@WORKSPACE
def delete(run: str, yes: bool, workspace: str) -> None:
    """Delete a finished run and its files; decisions made on its images are kept."""
    from engine.runs.store import delete_run

    with _opened(workspace) as (folder, connection):
        run = run_id(connection, run)
        if not yes:
            click.confirm(f"Delete run {run} and its files?", abort=True)
        delete_run(connection, run)
        shutil.rmtree(folder.run(run).root, ignore_errors=True)
    click.echo(f"{run}  deleted")


@main.command()
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

    with _opened(workspace) as (folder, connection):
        labels = exports.export(connection, folder, _row(connection, run), Path(target), images)
    changed = int((labels["given_label"] != labels["final_label"]).sum())
    summary = {"folder": str(Path(target).resolve()), "images": len(labels), "changed": changed}
    click.echo(json.dumps(summary) if as_json else f"{len(labels):,} labels, {changed:,} of them changed, in {summary['folder']}")


@main.command("import")
@click.argument("run")
@click.argument("file", metavar="DECISIONS.CSV")
@WORKSPACE
@JSON
def import_(run: str, file: str, workspace: str, as_json: bool) -> None:
    """Add the decision log of an export to a run's dataset."""
    from engine.runs.export import import_log

    with _opened(workspace) as (_, connection):
        added = import_log(connection, _row(connection, run), Path(file))
    click.echo(json.dumps({"actions": added}) if as_json else f"{added:,} actions added")


def _row(connection: "sqlite3.Connection", run: str) -> "RunRow":
    from engine.runs.store import get_run

    return get_run(connection, run)


def run_id(connection: "sqlite3.Connection", run: str) -> str:
    """The whole id of a run that is named by its beginning."""
    return _row(connection, run).id


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _absolute(spec: str | None) -> str | None:
    """A path as an absolute one, so that a run is the same from any folder; anything else as it is."""
    return str(Path(spec).expanduser().resolve()) if spec and Path(spec).expanduser().exists() and spec != "demo" else spec


def _submit_and_wait(config: RunConfig, workspace: str, as_json: bool) -> None:
    from engine.runs.submission import submit_run

    with _opened(workspace) as (folder, connection):
        row = submit_run(connection, config)
        _wait(folder, connection, row.id, as_json)


@contextmanager
def _opened(workspace: str) -> Iterator[tuple["Workspace", "sqlite3.Connection"]]:
    from engine.runs.store import store
    from engine.runs.workspace import open_workspace

    folder = open_workspace(workspace)
    with store(folder) as connection:
        yield folder, connection


def _wait(folder: "Workspace", connection: "sqlite3.Connection", run: str, as_json: bool) -> None:
    """Show a run's progress until it ends, then its result; exit code 2 where it failed, 1 where it was canceled."""
    from engine.progress import Progress, progress_bars
    from engine.runs.store import FINISHED, get_run
    from engine.runs.supervisor import ensure_supervisor

    row = get_run(connection, run)
    seen = ""
    try:
        with progress_bars() as report:
            while row.state not in FINISHED:
                ensure_supervisor(folder)
                if row.progress and row.progress != seen:
                    seen = row.progress
                    report(Progress(**{key: value for key, value in json.loads(seen).items() if key != "memory_mb"}))
                time.sleep(POLL_SECONDS)
                row = get_run(connection, run)
    except KeyboardInterrupt:
        click.echo(f"run {run} goes on in the background; `sharpeye cancel {run}` stops it", err=True)
        raise click.exceptions.Exit(130) from None
    for note in (*_warnings(folder, run), *row.notes.splitlines()):
        click.echo(f"sharpeye: {note}", err=True)
    if row.state == "done":
        assert row.result is not None
        click.echo(row.result) if as_json else _print_result(json.loads(row.result))
    elif row.state == "failed":
        raise InputError(f"run {run}: {row.message}")
    else:
        click.echo(f"sharpeye: run {run} was canceled; `sharpeye resume {run}` goes on with it", err=True)
        raise click.exceptions.Exit(1)


def _warnings(folder: "Workspace", run: str) -> list[str]:
    """Warnings in a run's log, each once."""
    try:
        lines = folder.run(run).log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")))


def _print_result(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"run {result['run']}: {result['n']:,} images, {result['classes']} classes, {result['device']}")
    columns = {
        "auc": "AUC",
        "ap": "AP",
        "suggestion_accuracy": "suggestion acc.",
        "relabel_accuracy": "relabel acc.",
        "score_seconds": "seconds",
    }
    table.add_column("method")
    for title in columns.values():
        table.add_column(title, justify="right")
    for name, summary in result["methods"].items():
        values = [summary[key] for key in columns]
        *shares, seconds = ["–" if value is None else f"{value:.4f}" for value in values[:-1]] + [f"{values[-1]:.1f}"]
        table.add_row(name, *shares, seconds)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    share = result["expected_wrong"] / result["n"]
    console.print(
        f"expected wrong labels: about {result['expected_wrong']:,.0f} of {result['n']:,} ({share:.1%})", highlight=False
    )
    if result["skipped"]:
        console.print(f"left out: {result['skipped']:,} rows, see skipped.csv beside the scores", highlight=False)
    console.print(
        f"ranked by {result['ranked_by']}; {result['seconds']:.0f} s; scores in {result['scores']}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
