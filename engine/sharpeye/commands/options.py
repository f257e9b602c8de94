"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from sharpeye.api import DEFAULT_WORKSPACE
from sharpeye.config import AUTO, BUDGETS
from sharpeye.errors import InputError

DEMO_WORKSPACE = "~/.sharpeye/demo"
BUDGET = click.option(
    "--budget", type=click.Choice(BUDGETS), default="standard", show_default=True, help="How long to train."
)
LIMIT = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Use at most N training images, evenly spaced."
)
MODEL = click.option("--model", default=AUTO, show_default=True, metavar="NAME", help="As of `sharpeye run`.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
FIGURES = click.option(
    "--figures/--no-figures",
    default=False,
    show_default=True,
    help="Also the figures of the Diagnostics page; takes minutes.",
)
RUN = click.argument("run")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON line.")


def workspace_option(default: str) -> Callable[[Any], Any]:
    """--workspace, with its default."""
    return click.option(
        "--workspace", default=default, show_default=True, metavar="DIR", help="Where runs are kept."
    )


WORKSPACE = workspace_option(DEFAULT_WORKSPACE)


def method_names(text: str) -> tuple[str, ...]:
    """The methods of `--method A,B,…`, each once.

    Raises:
        InputError: there is none.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InputError("--method: name at least one method")
    return names


def SERVER(command: Any) -> Any:
    """Where the app listens, and whether a browser opens."""
    for option in (
        click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser."),
        click.option(
            "--port",
            type=click.IntRange(1, 65535),
            help="Port of the app.  [default: the first free one from 8501 on]",
        ),
        click.option(
            "--root",
            "roots",
            multiple=True,
            metavar="DIR",
            help="Keep people who use the app to this folder, or address; may be given again.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; anyone who reaches it can decide.",
        ),
    ):
        command = option(command)
    return command
