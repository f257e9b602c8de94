"""`sharpeye bench`: the paper's protocol on human label noise, as ordinary runs, beside the paper's
figures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click
import msgspec

from sharpeye.api import submit
from sharpeye.commands.options import BUDGET, DEVICE, JSON, LIMIT, MODEL, WORKSPACE, method_names
from sharpeye.commands.photographs import photos, roman
from sharpeye.commands.text import bench_text
from sharpeye.commands.waiting import result_of
from sharpeye.config import (
    AUTO,
    CLASSICAL_METHODS,
    DEFAULT_METHODS,
    SMALL,
    TUNES,
    RunConfig,
    RunOptions,
    digest,
)
from sharpeye.errors import InputError
from sharpeye.files import file_stamp, replacing
from sharpeye.quality import METRIC_TITLES, mean_percent
from sharpeye.runs.workspace import open_workspace
from sharpeye.specs import absolute

if TYPE_CHECKING:
    from sharpeye.runs.result import RunResult

Command = TypeVar("Command", bound=Callable[..., None])

# Detection AUC and suggestion accuracy of FVM, in percent (arXiv 2505.19097).
PAPER = {
    "cifar10n aggre": (96.14, 94.63),
    "cifar10n random1": (96.63, 92.46),
    "cifar10n worse": (96.46, 86.09),
    "cifar100n noisy": (90.80, 70.61),
}
COLUMNS = {"aggre": "aggre_label", "random1": "random_label1", "worse": "worse_label", "noisy": "noisy_label"}
MEASURES = ("auc", "suggestion_accuracy", "relabel_accuracy", "ap")
EVERY_METHOD = (*DEFAULT_METHODS, *CLASSICAL_METHODS)


class BenchOptions(TypedDict):
    """What every benchmark is asked."""

    data: str
    validation: str | None
    seeds: int
    model: str
    tune: str | None
    image_size: int | None
    budget: str
    limit: int | None
    methods: str | None
    device: str
    workspace: str
    as_json: bool


OPTIONS = (
    click.option(
        "--data",
        required=True,
        metavar="DIR",
        help="train.parquet and test.parquet with the true `label`, or torchvision's root with "
        "CIFAR-*_human.pt.",
    ),
    click.option(
        "--validation", metavar="SPEC", help="As of `sharpeye run`.  [default: the clean test images]"
    ),
    click.option(
        "--seeds",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Runs with seeds 0 to N − 1.",
    ),
    MODEL,
    click.option("--tune", type=click.Choice(TUNES), help="As of `sharpeye run`."),
    click.option("--image-size", type=click.IntRange(16, 1024), metavar="PX", help="As of `sharpeye run`."),
    BUDGET,
    LIMIT,
    click.option(
        "--method",
        "methods",
        metavar="A,B,…",
        help="Methods.  [default: all but vm; on a pre-trained model the usual ones]",
    ),
    DEVICE,
    WORKSPACE,
    JSON,
)


def _options(command: Command) -> Command:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group()
def bench() -> None:
    """Run a published benchmark, and print its table beside the paper's figures.

    \b
    Example:
      sharpeye bench cifar10n --data cifar10n/ --noise worse --seeds 3
    """


bench.add_command(photos)
bench.add_command(roman)
bench.add_command(bench_text)


@bench.command()
@click.option(
    "--noise",
    type=click.Choice(("aggre", "random1", "worse")),
    multiple=True,
    default=("worse",),
    show_default=True,
    help="Which labels; may be given again.",
)
@_options
def cifar10n(noise: tuple[str, ...], **options: Unpack[BenchOptions]) -> None:
    """CIFAR-10N: 50,000 images with labels that people gave, the 10,000 clean test images as validation
    split, or none."""
    _run("cifar10n", "CIFAR10", noise, options)


@bench.command()
@_options
def cifar100n(**options: Unpack[BenchOptions]) -> None:
    """CIFAR-100N: 50,000 images with labels that people gave, the 10,000 clean test images as validation
    split, or none. Rows that are marked as not `exact` are left out."""
    _run("cifar100n", "CIFAR100", ("noisy",), options)


def _run(name: str, images: str, noises: tuple[str, ...], options: BenchOptions) -> None:
    """One run for every noise and seed; then the table."""
    results: dict[str, list[RunResult]] = {}
    for noise in noises:
        root = open_workspace(options["workspace"]).root / "bench"
        train, chosen = sources(options["data"], images, COLUMNS[noise], root)
        if options["validation"] is not None:
            chosen["validation"] = options["validation"]
        if options["methods"] is not None:
            chosen["methods"] = method_names(options["methods"])
        elif options["model"] in (AUTO, SMALL) and options["validation"] != "none":
            chosen["methods"] = EVERY_METHOD
        chosen |= RunOptions(
            model=options["model"],
            tune=options["tune"],
            image_size=options["image_size"],
            budget=options["budget"],
            limit=options["limit"],
            device=options["device"],
        )
        for seed in range(options["seeds"]):
            chosen["seed"] = seed
            run = submit(RunConfig.of(train, **chosen), options["workspace"])
            results.setdefault(f"{name} {noise}", []).append(result_of(run))
    click.echo(msgspec.json.encode(results).decode() if options["as_json"] else markdown(results))


def sources(data: str, images: str, column: str, prepared: Path) -> tuple[str, RunOptions]:
    """The training source of CIFAR10 or CIFAR100 in a folder, and the options that say where the rest is.

    Args:
        data: the folder.
        images: `CIFAR10` or `CIFAR100`.
        column: of the given labels.
        prepared: folder for files without the rows that are to be left out.

    Raises:
        InputError: they are not there.
    """
    root = Path(absolute(data))
    if (root / "train.parquet").exists():
        train, validation = (exact_rows(root / f"{name}.parquet", prepared) for name in ("train", "test"))
        files = RunOptions(validation=str(validation), label_column=column, true_label_column="label")
        return str(train), files
    human = root / f"CIFAR-{images.removeprefix('CIFAR')}_human.pt"
    if not human.exists():
        raise InputError(
            f"--data {data}: it takes train.parquet and test.parquet, or {human.name} and torchvision's "
            f"{images}"
        )
    return f"torchvision:{images}/train", RunOptions(
        validation=f"torchvision:{images}/test",
        label_column=column,
        torchvision_root=str(root),
        human_labels=str(human),
    )


def exact_rows(file: Path, prepared: Path) -> Path:
    """A Parquet file without the rows whose column `exact` is false; itself where it has no such column.

    Raises:
        InputError: it is not there.
    """
    import pyarrow.parquet as pq

    if not file.exists():
        raise InputError(f"{file}: there is no such file")
    if "exact" not in pq.read_schema(file).names:
        return file
    kept = prepared / f"{digest(str(file), *file_stamp(file))}.parquet"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            pq.write_table(pq.read_table(file, filters=[("exact", "==", True)]), temporary)
    return kept


def markdown(results: "dict[str, list[RunResult]]") -> str:
    """Every method's quality, mean over the seeds in percent, as a Markdown table beside the paper's FVM."""
    from statistics import fmean

    titles = " | ".join(METRIC_TITLES[measure] for measure in MEASURES)
    lines = [f"| labels | method | {titles} |", "|---" * (2 + len(MEASURES)) + "|"]
    notes = []
    for name, runs in results.items():
        for method in runs[0].methods:
            cells = (
                mean_percent([getattr(run.methods[method], measure) for run in runs]) for measure in MEASURES
            )
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
        auc, accuracy = PAPER[name]
        missing = " – |" * (len(MEASURES) - 2)
        lines.append(f"| {name} | *fvm in the paper* | *{auc:.2f}* | *{accuracy:.2f}* |{missing}")
        given = mean_percent([run.label_accuracy.given for run in runs], spread=False)
        cleaned = mean_percent([run.label_accuracy.cleaned for run in runs], spread=False)
        minutes = max(run.seconds for run in runs) / 60
        notes.append(
            f"{name}: {len(runs)} seed{'s' if len(runs) > 1 else ''}, {runs[0].n:,} images, at most "
            f"{minutes:.1f} min a "
            f"run on {runs[0].device}; ranked by {runs[0].ranked_by}, labels suggested as by "
            f"val_loss_posterior; right labels {given} % as given, {cleaned} % with every suggestion applied "
            "that is "
            "more likely right than not."
        )
        # A run does not list the stages that an earlier one had computed.
        stages: dict[str, list[float]] = {}
        for run in runs:
            for stage, seconds in run.stage_seconds.items():
                stages.setdefault(stage, []).append(seconds)
        spent = ", ".join(f"{stage} {fmean(times) / 60:.1f}" for stage, times in stages.items())
        notes.append(
            f"{name}: minutes of each stage, mean over the runs that computed it: {spent or 'none did'}"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])
