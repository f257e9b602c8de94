"""`sharpeye text` and `sharpeye bench text`: influence of training examples on what a language model says."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sharpeye.api import TextRun, submit_text
from sharpeye.commands.options import DEVICE, JSON, LIMIT, WORKSPACE, method_names, names_of
from sharpeye.commands.waiting import finished
from sharpeye.errors import InputError
from sharpeye.quality import mean_percent
from sharpeye.text.config import CURVATURES, DEFAULT_METHODS, METHODS, TextConfig

if TYPE_CHECKING:
    from rich.table import Table

    from sharpeye.runs.text_result import TextResult

SUSPECTS = 10
# Names of the published tables' files (arXiv 2310.00902), and AUC and recall of arXiv 2505.19097 in percent,
# on Llama-2-13B-chat.
TASKS = {"sentences": "grammars", "math": "math_with_reason", "math-answers": "math_without_reason"}
PAPER = {
    "sentences": {"tracin": (94.95, 70.97), "datainf": (99.58, 96.18), "vm": (99.97, 99.10)},
    "math": {"tracin": (78.50, 26.61), "datainf": (99.86, 97.37), "fvm": (99.99, 99.38)},
    "math-answers": {},
}

MODEL = click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Folder or name of a causal model of Hugging Face, or a .gguf file.",
)
TRAINING = (
    click.option(
        "--rank", type=click.IntRange(min=1), default=TextConfig.rank, show_default=True, help="Of LoRA."
    ),
    click.option(
        "--alpha", type=click.IntRange(min=1), default=TextConfig.alpha, show_default=True, help="Of LoRA."
    ),
    click.option(
        "--projections",
        default="",
        metavar="A,B,…",
        help="Linear layers that LoRA adapts.  [default: the usual ones of the model's attention]",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(min=0),
        default=TextConfig.epochs,
        show_default=True,
        help="Of training on the training examples, first.",
    ),
    click.option(
        "--validation-epochs",
        type=click.IntRange(min=1),
        default=TextConfig.validation_epochs,
        show_default=True,
        help="Of training to the validation minimum.",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=TextConfig.learning_rate,
        show_default=True,
    ),
    click.option(
        "--curvature",
        type=click.Choice(CURVATURES),
        default=TextConfig.curvature,
        show_default=True,
        help="Approximation of the Hessian.",
    ),
    click.option(
        "--damping",
        type=click.FloatRange(min=0, min_open=True),
        default=TextConfig.damping,
        show_default=True,
        help="Relative to the mean eigenvalue.",
    ),
)


def _training(command: Any) -> Any:
    for option in reversed(TRAINING):
        command = option(command)
    return command


@click.command()
@click.option("--train", required=True, metavar="FILE", help="Examples: .jsonl, .csv, .tsv or .parquet.")
@click.option(
    "--validation", required=True, metavar="FILE", help="Trusted examples, or share:0.1 of the training ones."
)
@MODEL
@click.option(
    "--method",
    "methods",
    default=",".join(DEFAULT_METHODS),
    show_default=True,
    metavar="A,B,…",
    help=f"The first one ranks. Of {', '.join(METHODS)}.",
)
@_training
@LIMIT
@DEVICE
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@WORKSPACE
@JSON
def text(workspace: str, as_json: bool, methods: str, projections: str, **options: Any) -> None:
    """Find which training examples taught a language model what it says, and which look wrong.

    \b
    Example:
      sharpeye text --train train.jsonl --validation trusted.jsonl --model SmolLM2-135M/
    """
    config = TextConfig(methods=method_names(methods), projections=names_of(projections), **options)
    print_text_result(submit_text(config, workspace), as_json)


@click.command("text")
@click.option("--data", required=True, metavar="DIR", help="grammars_train.jsonl, grammars_test.jsonl, …")
@click.option("--task", type=click.Choice(list(TASKS)), default="sentences", show_default=True)
@MODEL
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Seeds 0 to N − 1.")
@click.option(
    "--corrupt",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the training examples that swap completions with another class, to be found.",
)
@click.option("--method", "methods", default=",".join(METHODS), show_default=True, metavar="A,B,…")
@_training
@LIMIT
@DEVICE
@WORKSPACE
@JSON
def bench_text(
    data: str,
    task: str,
    seeds: int,
    methods: str,
    projections: str,
    workspace: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Text generation, the paper's third table: of a validation example, are the training examples of its
    class the most influential? The prompt and padding take no part in any loss.
    """
    folder = Path(data).expanduser()
    paths = [folder / f"{TASKS[task]}_{split}.jsonl" for split in ("train", "test")]
    for path in paths:
        if not path.is_file():
            raise InputError(f"--data {data}: there is no {path.name}")
    results = []
    for seed in range(seeds):
        config = TextConfig(
            str(paths[0]),
            str(paths[1]),
            methods=method_names(methods),
            projections=names_of(projections),
            say=False,
            seed=seed,
            **options,
        )
        run = submit_text(config, workspace)
        finished(run)
        results.append(run.result)
    click.echo(msgspec.json.encode(results).decode() if as_json else markdown(task, results))


def markdown(task: str, results: "list[TextResult]") -> str:
    """The table of a task, mean ± standard deviation over seeds, beside the paper's figures."""
    from statistics import fmean

    lines = [
        f"{task}: {results[0].n} training and {results[0].validation} validation examples, {len(results)} "
        f"seeds, {results[0].device}",
        "",
        "| method | AUC | recall | the paper (Llama-2-13B) | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for method in results[0].methods:
        found = [result.methods[method] for result in results]
        paper = PAPER[task].get(method)
        beside = "–" if paper is None else f"{paper[0]:.2f} / {paper[1]:.2f}"
        spent = fmean(one.seconds for one in found)
        shown = (mean_percent([one.auc for one in found]), mean_percent([one.recall for one in found]))
        lines.append(f"| {method} | {shown[0]} | {shown[1]} | {beside} | {spent:.0f} |")
    if results[0].detection:
        lines += ["", "| to find swapped completions | AUC |", "|---|---:|"]
        for name in results[0].detection:
            lines.append(f"| {name} | {mean_percent([result.detection[name] for result in results])} |")
    taken = ", ".join(f"{result.seconds / 60:.0f}" for result in results)
    memory = max(result.peak_memory_mb for result in results)
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in results[0].stage_seconds.items())
    lines += ["", f"Minutes a run: {taken}; memory at most {memory:,.0f} MB. Seconds of the first: {stages}."]
    return "\n".join(lines)


def print_text_result(run: TextRun, as_json: bool) -> None:
    """Show a run's progress until it ends, then its result."""
    from rich.console import Console

    finished(run)
    result = run.result
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    console = Console(width=None if sys.stdout.isatty() else 110)
    title = f"run {result.run}: {result.n:,} training and {result.validation:,} validation examples"
    console.print(f"{title}, {result.device}", highlight=False)
    if any(method.auc is not None for method in result.methods.values()):
        console.print(_quality(result))
    console.print(_suspects(run))
    console.print(f"ranked by {result.ranked_by}; {result.seconds:.0f} s", highlight=False)
    console.print(f"`sharpeye serve --workspace {run.workspace.root}` shows them on the Text page")


def _quality(result: "TextResult") -> "Table":
    from rich.table import Table

    table = Table("method", "AUC of the class", "recall", "seconds")
    for name, method in result.methods.items():
        shares = ("–" if value is None else f"{value:.4f}" for value in (method.auc, method.recall))
        table.add_row(name, *shares, f"{method.seconds:.1f}")
    return table


def _suspects(run: TextRun) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("rank", "suspicious example", "prompt", "completion", "self-influence", "loss")
    for row in run.scores.head(SUSPECTS).itertuples(index=False):
        texts = (escape(str(text)[-60:]) for text in (row.id, row.prompt, row.completion))
        table.add_row(str(row.rank), *texts, f"{row.self_influence:.3g}", f"{row.loss:.2f}")
    return table
