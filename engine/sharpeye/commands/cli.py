"""The command line: a thin client of the store and the supervisor."""

import errno
import io
import sys
import tomllib
from math import isfinite
from pathlib import Path
from typing import Any

import click

from sharpeye.api import submit
from sharpeye.commands.bench import bench
from sharpeye.commands.manage import COMMANDS
from sharpeye.commands.options import (
    BUDGET,
    CLUSTER,
    DEMO_WORKSPACE,
    DEVICE,
    FIGURES,
    JSON,
    LIMIT,
    SERVER,
    WORKSPACE,
    ServerOptions,
    method_names,
    workspace_option,
)
from sharpeye.commands.score import score
from sharpeye.commands.text import text
from sharpeye.commands.waiting import print_result, start_app
from sharpeye.config import (
    AUTO,
    CLASSICAL_METHODS,
    CURVATURES,
    DEFAULT_METHODS,
    DEMO_METHODS,
    OPTIMIZERS,
    PACKAGED_BACKBONES,
    PARAMETERS,
    PHOTOGRAPHS,
    SMALL,
    SMALL_LIMIT,
    TORCHVISION_BACKBONES,
    TUNES,
    RunConfig,
)
from sharpeye.errors import InputError


class InputErrorsExit2(click.Group):
    """A group whose commands end with one clear line and exit code 2 on bad input."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # A terminal that lacks a character shows another one in its place.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"sharpeye: {error}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT):
                raise
            where = f" {error.filename}" if error.filename else ""
            click.echo(f"sharpeye: cannot write{where} ({error.strerror})", err=True)
            ctx.exit(1)


def _defaults_from_toml(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Use a TOML file's keys (option names, with - or _) as the command's defaults."""
    if path is None:
        return None
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: {error}") from error
    known: dict[str, str] = {}
    for parameter in ctx.command.params:
        for spelling in (parameter.name, *parameter.opts):
            known[str(spelling).lstrip("-").replace("-", "_")] = str(parameter.name)
    defaults = {}
    for key, value in values.items():
        if key.replace("-", "_") not in known:
            raise InputError(
                f"--config {path}: unknown key {key!r}; the keys are the options of `sharpeye "
                f"{ctx.info_name}`"
            )
        words = value if isinstance(value, list) else [value]
        if not all(
            isinstance(word, str | int) or (isinstance(word, float) and isfinite(word)) for word in words
        ):
            raise InputError(f"--config {path}: {key} takes a word, a number or a list of these")
        typed = ",".join(map(str, value)) if isinstance(value, list) else value
        defaults[known[key.replace("-", "_")]] = typed
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


@click.group(cls=InputErrorsExit2, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sharpeye")
def main() -> None:
    """Find wrong labels in image-classification training sets.

    \b
    Examples:
      sharpeye demo
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
    help="demo, a folder or a zip or tar file of class folders, a table (.csv, .tsv, .jsonl, .parquet; or "
    "'data/train-*.parquet'), a folder in Hugging Face's layout, or torchvision:NAME[/SPLIT].",
)
@click.option(
    "--validation",
    metavar="SPEC",
    help="Clean images: a SPEC, 'split' (the source's split column or folders), share:0.1, or ids:FILE "
    "(a CSV of training images' id and trusted label), or 'none'.  [default: the source's own, else none]",
)
@click.option(
    "--confirmed",
    metavar="FILE",
    help="A CSV of training images' id and label that people confirmed: these images join the clean split.",
)
@click.option("--path-column", metavar="NAME", help="Column of the image paths, in a table.")
@click.option(
    "--image-root",
    metavar="DIR",
    help="Folder that a table's image paths are relative to; no path may leave it.  [default: the table's]",
)
@click.option("--label-column", metavar="NAME", help="Column of the given labels.")
@click.option("--validation-label-column", metavar="NAME", help="Column of the labels in --validation.")
@click.option(
    "--follow-links", is_flag=True, help="Read what symbolic links lead to outside the folder, too."
)
@click.option(
    "--true-label-column",
    metavar="NAME",
    help="Column of true labels: only to measure quality, no method reads it.",
)
@click.option(
    "--human-labels",
    metavar="FILE",
    help="Official CIFAR-10N/100N .pt beside torchvision:CIFAR10/100; --label-column picks its column.",
)
@click.option(
    "--torchvision-root",
    metavar="DIR",
    help="Where torchvision keeps its datasets.  [default: ~/.cache/torchvision]",
)
@LIMIT
@click.option(
    "--image-size",
    type=click.IntRange(16, 1024),
    metavar="PX",
    help="Pixels per side fed to the model.  [default: by model and images]",
)
@click.option(
    "--method",
    "methods",
    metavar="A,B,…",
    help=f"Methods; the first ranks the images.  [default: {','.join(DEFAULT_METHODS)}]",
)
@click.option(
    "--model",
    default=AUTO,
    show_default=True,
    metavar="NAME",
    help=f"auto: {SMALL} up to {SMALL_LIMIT} pixels a side, else {PHOTOGRAPHS}. Or {SMALL}, "
    f"{', '.join((*PACKAGED_BACKBONES, *TORCHVISION_BACKBONES))} or timm:NAME.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="random, pretrained (installed with Sharpeye, or downloaded), or a state dict (.safetensors, .pt).  "
    "[default: pretrained where there are published ones]",
)
@click.option(
    "--tune",
    type=click.Choice(TUNES),
    help="head: a linear head on frozen features, in seconds once these are there. all: the whole network.  "
    "[default: head where the weights are pretrained]",
)
@click.option(
    "--pretrain/--no-pretrain",
    default=None,
    help="Where there is a clean split, pre-train the whole network on the given labels.  "
    "[default: unless --weights is a file]",
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
@BUDGET
@click.option(
    "--candidates/--no-candidates",
    default=True,
    show_default=True,
    help="Score every candidate label, or the given label only.",
)
@click.option(
    "--mirror/--no-mirror",
    default=True,
    show_default=True,
    help="Whether a mirrored image keeps its label (not so for digits and text).",
)
@FIGURES
@DEVICE
@CLUSTER
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@WORKSPACE
@JSON
def run(workspace: str, as_json: bool, train: str, methods: str | None, **options: Any) -> None:
    """Rank the training images by influence and suggest labels.

    \b
    Examples:
      sharpeye run --train demo
      sharpeye run --train photos/
      sharpeye run --train photos/ --validation checked/ --model efficientnet_lite2
      sharpeye run --train train.csv --validation share:0.1 --model resnet18 --tune all
      sharpeye run --config run.toml --seed 1 --json
    """
    config = RunConfig.of(train, methods=method_names(methods) if methods else (), **options)
    print_result(submit(config, workspace), as_json)


@main.command()
@click.option("--headless", is_flag=True, help="Compute, print and exit, without the app.")
@click.option("--compare", is_flag=True, help="Also with the classical methods, and all figures.")
@workspace_option(DEMO_WORKSPACE)
@DEVICE
@JSON
@SERVER
def demo(
    headless: bool,
    compare: bool,
    workspace: str,
    device: str,
    as_json: bool,
    server: ServerOptions,
) -> None:
    """Open the app on the packaged demo: 6,000 Fashion-MNIST images, a fifth of them wrongly labelled.

    Its run starts by itself.

    \b
    Examples:
      sharpeye demo
      sharpeye demo --headless --compare
    """
    methods = (*DEMO_METHODS, *CLASSICAL_METHODS) if compare else DEMO_METHODS
    config = RunConfig.of(
        "demo", validation="demo", methods=methods, budget="fast", device=device, figures=compare
    )
    run = submit(config, workspace)
    if headless:
        print_result(run, as_json)
    else:
        start_app(workspace, server)


for command in (text, *COMMANDS, score, bench):
    main.add_command(command)

if __name__ == "__main__":
    main()
