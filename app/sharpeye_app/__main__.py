"""Start the app on a workspace: python -m sharpeye_app WORKSPACE [--host H] [--port N] [--root DIR] …."""

import sys

import click

from sharpeye.errors import InputError
from sharpeye_app.server import serve


@click.command()
@click.argument("workspace")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int)
@click.option("--root", "roots", multiple=True)
@click.option("--browser/--no-browser", default=True)
def main(workspace: str, host: str, port: int | None, roots: tuple[str, ...], browser: bool) -> None:
    """Serve the app until interrupted."""
    try:
        serve(workspace, host, port, roots, browser)
    except InputError as error:
        click.echo(f"sharpeye: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
