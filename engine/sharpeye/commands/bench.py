"""`sharpeye bench`: the paper's protocol on human label noise, as ordinary runs, beside the paper's
figures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click
import msgspec

from sharpeye.api import submit
from sharpeye.commands.options import BUDGET, DEVICE, JSON, LIMIT, WORKSPACE, method_names
from sharpeye.commands.photographs import photos, roman
from sharpeye.commands.waiting import result_of
from sharpeye.config import CLASSICAL_METHODS, DEFAULT_METHODS, RunConfig, RunOptions
from sharpeye.errors import InputError
from sharpeye.quality import METRIC_TITLES
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
EVERY_METHOD = ",".join((*DEFAULT_METHODS, *CLASSICAL_METHODS))


class BenchOptions(TypedDict):
    """What every benchmark is asked."""

    data: str
    seeds: int
    budget: str
    limit: int | None
    methods: str
    device: str
    workspace: str
    as_json: bool


OPTIONS = (
    click.option(
        "--data",
        required=True,
        metavar="DIR",
        help="torchvision's root with CIFAR-*_human.pt; for cifar10n also train.parquet and test.parquet.",
    ),
    click.option(
        "--seeds",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Runs with seeds 0 to N − 1.",
    ),
    BUDGET,
    LIMIT,
    click.option(
        "--method",
        "methods",
        default=EVERY_METHOD,
        metavar="A,B,…",
        help="Methods.  [default: all but vm and cleanlab]",
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
    split."""
    _run("cifar10n", "CIFAR10", noise, options)


@bench.command()
@_options
def cifar100n(**options: Unpack[BenchOptions]) -> None:
    """CIFAR-100N: 50,000 images with labels that people gave, the 10,000 clean test images as validation
    split."""
    _run("cifar100n", "CIFAR100", ("noisy",), options)


def _run(name: str, images: str, noises: tuple[str, ...], options: BenchOptions) -> None:
    """One run for every noise and seed; then the table."""
    results: dict[str, list[RunResult]] = {}
    for noise in noises:
        train, chosen = sources(options["data"], images, COLUMNS[noise])
        chosen["methods"] = method_names(options["methods"])
        chosen["budget"], chosen["limit"], chosen["device"] = (
            options["budget"],
            options["limit"],
            options["device"],
        )
        for seed in range(options["seeds"]):
            chosen["seed"] = seed
            run = submit(RunConfig.of(train, **chosen), options["workspace"])
            results.setdefault(f"{name} {noise}", []).append(result_of(run))
    click.echo(msgspec.json.encode(results).decode() if options["as_json"] else markdown(results))


def sources(data: str, images: str, column: str) -> tuple[str, RunOptions]:
    """The training source of CIFAR10 or CIFAR100 in a folder, and the options that say where the rest is.

    Raises:
        InputError: they are not there.
    """
    root = Path(absolute(data))
    if (root / "train.parquet").exists() and images == "CIFAR10":
        validation = str(root / "test.parquet")
        files = RunOptions(validation=validation, label_column=column, true_label_column="label")
        return str(root / "train.parquet"), files
    human = root / f"CIFAR-{images.removeprefix('CIFAR')}_human.pt"
    if not human.exists():
        parquet = "train.parquet and test.parquet, or " if images == "CIFAR10" else ""
        raise InputError(f"--data {data}: it takes {parquet}{human.name} and torchvision's {images}")
    return f"torchvision:{images}/train", RunOptions(
        validation=f"torchvision:{images}/test",
        label_column=column,
        torchvision_root=str(root),
        human_labels=str(human),
    )


def markdown(results: "dict[str, list[RunResult]]") -> str:
    """Every method's quality, mean over the seeds in percent, as a Markdown table beside the paper's FVM."""
    from statistics import fmean

    titles = " | ".join(METRIC_TITLES[measure] for measure in MEASURES)
    lines = [f"| labels | method | {titles} |", "|---" * (2 + len(MEASURES)) + "|"]
    notes = []
    for name, runs in results.items():
        for method in runs[0].methods:
            cells = (_mean([getattr(run.methods[method], measure) for run in runs]) for measure in MEASURES)
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
        auc, accuracy = PAPER[name]
        missing = " – |" * (len(MEASURES) - 2)
        lines.append(f"| {name} | *fvm in the paper* | *{auc:.2f}* | *{accuracy:.2f}* |{missing}")
        given = _mean([run.label_accuracy.given for run in runs], spread=False)
        cleaned = _mean([run.label_accuracy.cleaned for run in runs], spread=False)
        minutes = max(run.seconds for run in runs) / 60
        notes.append(
            f"{name}: {len(runs)} seed{'s' if len(runs) > 1 else ''}, {runs[0].n:,} images, at most "
            f"{minutes:.1f} min a "
            f"run on {runs[0].device}; by default ranked by {runs[0].ranked_by}, labels suggested as by "
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


def _mean(values: list[float | None], spread: bool = True) -> str:
    """Mean of shares in percent, with the standard deviation of several; a dash where there are none."""
    from statistics import fmean, stdev

    percent = [100 * value for value in values if value is not None]
    if not percent:
        return "–"
    deviation = f" ± {stdev(percent):.2f}" if spread and len(percent) > 1 else ""
    return f"{fmean(percent):.2f}{deviation}"
