"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
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
CLUSTER = click.option(
    "--cluster",
    metavar="WHERE",
    help="Embed, train and score on a Ray cluster: local, auto, or HOST:PORT of its head.",
)
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


def names_of(text: str) -> tuple[str, ...]:
    """The names in `A,B,…`, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def method_names(text: str) -> tuple[str, ...]:
    """The methods of `--method A,B,…`, each once.

    Raises:
        InputError: there is none.
    """
    names = names_of(text)
    if not names:
        raise InputError("--method: name at least one method")
    return names


@dataclass(frozen=True)
class ServerOptions:
    """Where the app listens, and to whom.

    Attributes:
        host: address to listen on.
        port: None takes the first free one.
        roots: folders and addresses that people may use through the app; none for any.
        allowed_hosts: names under which the app may be asked, beside its own.
        token: whether it asks for a token.
        browser: whether to open one.
    """

    host: str
    port: int | None
    roots: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    token: bool
    browser: bool


def SERVER(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the app, given to the command as `server`, ServerOptions."""
    names = [field.name for field in fields(ServerOptions)]

    @wraps(command)
    def with_server(**values: Any) -> None:
        options = {name: values.pop(name) for name in names}
        command(**values, server=ServerOptions(**options))

    decorated: Any = with_server
    for option in (
        click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser."),
        click.option(
            "--token/--no-token",
            default=True,
            show_default=True,
            help="Ask for the token in the printed address; --no-token only on this machine.",
        ),
        click.option(
            "--allowed-host",
            "allowed_hosts",
            multiple=True,
            metavar="NAME",
            help="A name under which others reach the app; may be given again.",
        ),
        click.option(
            "--root",
            "roots",
            multiple=True,
            metavar="DIR",
            help="Keep people who use the app to this folder, or address; may be given again.",
        ),
        click.option(
            "--port",
            type=click.IntRange(1, 65535),
            help="Port of the app.  [default: the first free one from 8501 on]",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on. Beyond this machine it takes --root and --allowed-host.",
        ),
    ):
        decorated = option(decorated)
    return decorated
