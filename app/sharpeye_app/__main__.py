"""Start the app on a workspace: python -m sharpeye_app WORKSPACE [--host H] [--port N] [--no-browser]."""

import click

from sharpeye_app.server import serve


@click.command()
@click.argument("workspace")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int)
@click.option("--browser/--no-browser", default=True)
def main(workspace: str, host: str, port: int | None, browser: bool) -> None:
    """Serve the app until interrupted."""
    serve(workspace, host, port, browser)


if __name__ == "__main__":
    main()
