"""Start the app on a workspace: python -m sharpeye_app WORKSPACE [--host H] [--port N] [--root DIR] …."""

import sys

import click

from sharpeye.errors import InputError
from sharpeye_app.server import Listening, serve


@click.command()
@click.argument("workspace")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int)
@click.option("--root", "roots", multiple=True)
@click.option("--allowed-host", "allowed_hosts", multiple=True)
@click.option("--token/--no-token", default=True)
@click.option("--browser/--no-browser", default=True)
def main(
    workspace: str,
    host: str,
    port: int | None,
    roots: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    token: bool,
    browser: bool,
) -> None:
    """Serve the app until interrupted."""
    try:
        serve(workspace, Listening(host, port, roots, allowed_hosts, token, browser))
    except InputError as error:
        click.echo(f"sharpeye: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
