"""`sharpeye bench`: the paper's protocol on human label noise, as ordinary runs, beside the paper's figures."""

import json
from pathlib import Path
from typing import Any

import click

from engine.client import opened, result_of
from engine.config import CLASSICAL_METHODS, DEFAULT_METHODS, RunConfig
from engine.errors import InputError
from engine.files import absolute
from engine.options import BUDGET, DEVICE, JSON, LIMIT, WORKSPACE, method_names

# Detection AUC and suggestion accuracy of FVM, in percent (arXiv 2505.19097).
PAPER = {
    "cifar10n aggre": (96.14, 94.63),
    "cifar10n random1": (96.63, 92.46),
    "cifar10n worse": (96.46, 86.09),
    "cifar100n noisy": (90.80, 70.61),
}
COLUMNS = {"aggre": "aggre_label", "random1": "random_label1", "worse": "worse_label", "noisy": "noisy_label"}
MEASURES = {
    "auc": "detection AUC", "suggestion_accuracy": "suggestion accuracy", "relabel_accuracy": "relabel accuracy", "ap": "average precision",
}  # fmt: skip

OPTIONS = (
    click.option("--data", required=True, metavar="DIR", help="torchvision's root with CIFAR-*_human.pt; for cifar10n also train.parquet and test.parquet."),
    click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs with seeds 0 to N − 1."),
    BUDGET,
    LIMIT,
    click.option("--method", "methods", default=",".join((*DEFAULT_METHODS, *CLASSICAL_METHODS)), metavar="A,B,…", help="Methods.  [default: all but vm and cleanlab]"),
    DEVICE,
    WORKSPACE,
    JSON,
)  # fmt: skip


def _options(command: Any) -> Any:
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
def cifar10n(noise: tuple[str, ...], **options: Any) -> None:
    """CIFAR-10N: 50,000 images with the labels that people gave them, the 10,000 clean test images as validation split."""
    _run("cifar10n", "CIFAR10", noise, **options)


@bench.command()
@_options
def cifar100n(**options: Any) -> None:
    """CIFAR-100N: 50,000 images with the labels that people gave them, the 10,000 clean test images as validation split."""
    _run("cifar100n", "CIFAR100", ("noisy",), **options)


def _run(
    name: str,
    images: str,
    noises: tuple[str, ...],
    *,
    data: str,
    seeds: int,
    methods: str,
    workspace: str,
    as_json: bool,
    **options: Any,
) -> None:
    """One run for every noise and seed; then the table."""
    from engine.runs.submission import submit_run

    results: dict[str, list[dict[str, Any]]] = {}
    with opened(workspace) as (folder, connection):
        for noise in noises:
            for seed in range(seeds):
                config = RunConfig(methods=method_names(methods), seed=seed, **sources(data, images, COLUMNS[noise]), **options)
                row = submit_run(connection, config)
                results.setdefault(f"{name} {noise}", []).append(result_of(folder, connection, row.id))
    click.echo(json.dumps(results) if as_json else markdown(results))


def sources(data: str, images: str, column: str) -> dict[str, Any]:
    """The fields of a configuration that say where the images and labels of CIFAR10 or CIFAR100 are in a folder.

    Raises:
        InputError: they are not there.
    """
    root = Path(absolute(data) or data)
    if (root / "train.parquet").exists() and images == "CIFAR10":
        files = {"train": str(root / "train.parquet"), "validation": str(root / "test.parquet")}
        return {**files, "label_column": column, "true_label_column": "label"}
    human = root / f"CIFAR-{images.removeprefix('CIFAR')}_human.pt"
    if not human.exists():
        parquet = "train.parquet and test.parquet, or " if images == "CIFAR10" else ""
        raise InputError(f"--data {data}: it takes {parquet}{human.name} and torchvision's {images}")
    found = {"train": f"torchvision:{images}/train", "validation": f"torchvision:{images}/test", "label_column": column}
    return {**found, "torchvision_root": str(root), "human_labels": str(human)}


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """Every method's quality, mean over the seeds in percent, as a Markdown table beside the paper's FVM."""
    from statistics import fmean, stdev

    lines = ["| labels | method | " + " | ".join(MEASURES.values()) + " |", "|---" * (2 + len(MEASURES)) + "|"]
    notes = []
    for name, runs in results.items():
        for method in runs[0]["methods"]:
            cells = []
            for measure in MEASURES:
                values = [100 * run["methods"][method][measure] for run in runs if run["methods"][method][measure] is not None]
                spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
                cells.append(f"{fmean(values):.2f}{spread}" if values else "–")
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
        auc, accuracy = PAPER[name]
        lines.append(f"| {name} | *fvm in the paper* | *{auc:.2f}* | *{accuracy:.2f}* |" + " – |" * (len(MEASURES) - 2))
        given, cleaned = (100 * fmean(run["label_accuracy"][kind] for run in runs) for kind in ("given", "cleaned"))
        minutes = max(run["seconds"] for run in runs) / 60
        notes.append(
            f"{name}: {len(runs)} seed{'s' if len(runs) > 1 else ''}, {runs[0]['n']:,} images, at most {minutes:.1f} min a run on {runs[0]['device']}; "
            f"by default ranked by {runs[0]['ranked_by']}, labels suggested as by val_loss_posterior; right labels {given:.2f} % as given, {cleaned:.2f} % with every suggestion applied "
            "that is more likely right than not."
        )
        # A run does not list the stages that an earlier one had computed.
        stages: dict[str, list[float]] = {}
        for run in runs:
            for stage, seconds in run["stage_seconds"].items():
                stages.setdefault(stage, []).append(seconds)
        spent = ", ".join(f"{stage} {fmean(times) / 60:.1f}" for stage, times in stages.items())
        notes.append(f"{name}: minutes of each stage, mean over the runs that computed it: {spent or 'none did'}")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])
