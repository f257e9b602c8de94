"""The commands on a workspace, from serve to doctor."""

import json
import time
from pathlib import Path

import click

from sharpeye.api import TextRun, list_runs, open_run
from sharpeye.commands.options import JSON, RUN, SERVER, WORKSPACE, ServerOptions
from sharpeye.commands.text import print_text_result
from sharpeye.commands.waiting import print_result, start_app
from sharpeye.config import EXPORT_FORMATS


@click.command()
@WORKSPACE
@SERVER
def serve(workspace: str, server: ServerOptions) -> None:
    """Open the app in the browser, and work off the queue of runs.

    \b
    Example:
      sharpeye serve --workspace review/
    """
    start_app(workspace, server)


@click.command()
@WORKSPACE
@JSON
def runs(workspace: str, as_json: bool) -> None:
    """List the runs of a workspace."""
    rows = [run.row() for run in list_runs(workspace)]
    if as_json:
        click.echo(f"[{', '.join(row.to_json() for row in rows)}]")
        return
    for row in rows:
        if row.is_text:
            words = row.text_config()
            what = f"{words.train}  {words.methods[0]}, text"
        else:
            config = row.run_config()
            what = f"{config.data.train}  {config.methods[0]}, {config.budget}"
        click.echo(f"{row.id}  {row.state:<9} {_when(row.submitted)}  {what}")
    if not rows:
        click.echo("no runs yet: start one with `sharpeye run`, or see `sharpeye demo`")


@click.command()
@RUN
@WORKSPACE
@JSON
def status(run: str, workspace: str, as_json: bool) -> None:
    """Show how far a run is."""
    row = open_run(run, workspace).row()
    if as_json:
        click.echo(row.to_json())
        return
    click.echo(f"{row.id}  {row.state}  submitted {_when(row.submitted)}")
    step = row.step()
    if row.state == "running" and step is not None:
        loss = "" if step.loss is None else f", loss {step.loss:.3f}"
        memory = "" if step.memory_mb is None else f", {step.memory_mb:,.0f} MB"
        click.echo(
            f"{step.title}: {step.done:,}/{step.total:,} {step.unit}s{loss}, {step.images_per_second:,.0f} "
            "images/s, "
            f"{step.seconds_left:.0f} s left in this stage{memory}, on {row.device}"
        )
    for line in (row.message, *row.notes.splitlines()):
        if line:
            click.echo(line)


@click.command()
@RUN
@WORKSPACE
@JSON
def cancel(run: str, workspace: str, as_json: bool) -> None:
    """Cancel a run; what it has computed is kept, and `resume` goes on from there."""
    opened = open_run(run, workspace)
    state = opened.cancel()
    click.echo(opened.row().to_json() if as_json else f"{opened.id}  {state}")


@click.command()
@RUN
@WORKSPACE
@JSON
def resume(run: str, workspace: str, as_json: bool) -> None:
    """Go on with a run that failed, was canceled or was cut off; waits and prints what `run` would have."""
    resumed = open_run(run, workspace).resume()
    if isinstance(resumed, TextRun):
        print_text_result(resumed, as_json)
    else:
        print_result(resumed, as_json)


@click.command()
@RUN
@click.option("--yes", is_flag=True, help="Do not ask.")
@WORKSPACE
def delete(run: str, yes: bool, workspace: str) -> None:
    """Delete a finished run and its files; decisions made on its images are kept."""
    opened = open_run(run, workspace)
    if not yes:
        click.confirm(f"Delete run {opened.id} and its files?", abort=True)
    opened.delete()
    click.echo(f"{opened.id}  deleted")


@click.command()
@RUN
@click.argument("target", metavar="DIR")
@click.option(
    "--images", is_flag=True, help="Also a cleaned copy of the image folder (hard links where possible)."
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(EXPORT_FORMATS),
    multiple=True,
    help="Also a file for this tool; may be given again.",
)
@WORKSPACE
@JSON
def export(
    run: str, target: str, images: bool, formats: tuple[str, ...], workspace: str, as_json: bool
) -> None:
    """Write cleaned labels (CSV and Parquet) and the decision log to DIR; only decided changes are applied.

    \b
    Example:
      sharpeye export 1a2b cleaned/ --images
      sharpeye export 1a2b cleaned/ --format label-studio
    """
    opened = open_run(run, workspace)
    if isinstance(opened, TextRun):
        kept = opened.export_text(target)
        summary = {"folder": str(Path(target).resolve()), "examples": kept}
        sentence = f"{kept:,} examples kept, in {summary['folder']}"
        click.echo(json.dumps(summary) if as_json else sentence)
        return
    labels = opened.export(target, images, formats)
    changed = int((labels["given_label"] != labels["final_label"]).sum())
    folder = str(Path(target).resolve())
    summary = {"folder": folder, "images": len(labels), "changed": changed}
    sentence = f"{len(labels):,} labels, {changed:,} of them changed, in {folder}"
    click.echo(json.dumps(summary) if as_json else sentence)


@click.command()
@RUN
@click.option(
    "--out", metavar="FILE", default="review.html", show_default=True, help="The file that is written."
)
@WORKSPACE
def report(run: str, out: str, workspace: str) -> None:
    """Write a report on the review of a run: one HTML file to send or print, with pictures and counts."""
    path = Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(open_run(run, workspace).report(), encoding="utf-8")
    click.echo(str(path.resolve()))


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@WORKSPACE
def doctor(repair: bool, workspace: str) -> None:
    """Look for damage in a workspace: what was computed can be computed again, and the store be restored from
    its daily copy.

    Exits with 1 where something is left damaged.
    """
    from sharpeye.runs.doctor import examine
    from sharpeye.runs.workspace import open_workspace

    opened = open_workspace(workspace)
    left = 0
    found = examine(opened)
    for damage in found:
        mended = False
        if repair and damage.mend is not None:
            damage.mend()
            mended = True
        left += not mended
        click.echo(f"{damage.path}: {damage.reason}; {'' if mended else 'not mended: '}{damage.remedy}")
    if not found:
        click.echo("nothing is damaged")
    if left:
        if not repair:
            click.echo("`sharpeye doctor --repair` mends what can be mended", err=True)
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Drop what no run read for so long.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@WORKSPACE
def clean(days: float, yes: bool, workspace: str) -> None:
    """List what runs share by size, such as features and networks, and drop what is old; it is computed again
    where it is needed. Scores, decisions and decoded pictures stay.
    """
    from sharpeye.runs.cleaning import drop, shared_results
    from sharpeye.runs.workspace import open_workspace

    opened = open_workspace(workspace)
    results = shared_results(opened, days)
    for one in results:
        click.echo(
            f"{one.size / 1e6:10,.1f} MB  {one.kind} ({one.files:,} files; old: {len(one.old):,}, "
            f"{one.old_size / 1e6:,.1f} MB)"
        )
    old = sum(one.old_size for one in results)
    if not old:
        click.echo(f"nothing is older than {days:g} days")
        return
    if not yes:
        click.confirm(f"Drop {old / 1e6:,.1f} MB that no run read for {days:g} days?", abort=True)
    click.echo(f"{drop(opened, results) / 1e6:,.1f} MB dropped")


@click.command("import")
@RUN
@click.argument("file", metavar="FILE")
@click.option("--user", metavar="NAME", help="Whose they are, where annotations do not say.")
@WORKSPACE
@JSON
def import_(run: str, file: str, user: str | None, workspace: str, as_json: bool) -> None:
    """Add decisions to a run's data set: the log of an export (decisions.csv), or annotations of Label
    Studio, FiftyOne or COCO (.json) or CVAT (.xml).
    """
    added = open_run(run, workspace).import_decisions(file, user)
    click.echo(json.dumps({"actions": added}) if as_json else f"{added:,} actions added")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


COMMANDS = (serve, runs, status, cancel, resume, delete, export, import_, report, doctor, clean)
