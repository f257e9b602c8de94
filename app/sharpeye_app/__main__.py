"""Start the app on a workspace: python -m sharpeye_app WORKSPACE, with the options of `sharpeye serve`."""

import sys

import click

from sharpeye.commands.options import SERVER, ServerOptions
from sharpeye.errors import InputError
from sharpeye_app.server import serve


@click.command()
@click.argument("workspace")
@SERVER
def main(workspace: str, server: ServerOptions) -> None:
    """Serve the app until interrupted."""
    try:
        serve(workspace, server)
    except InputError as error:
        click.echo(f"sharpeye: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
