"""The app's server: Streamlit's pages, with images and decisions beside them over plain HTTP."""

import os
import socket
import sqlite3
import webbrowser
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer

import click
import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import sharpeye_app.data_plots  # noqa: F401 - plotly is imported before the first page waits for it
from sharpeye.commands.options import ServerOptions
from sharpeye.data.remote import is_address
from sharpeye.errors import InputError
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.runs.workspace import open_workspace
from sharpeye_app.access import Gate, is_loopback, token_of
from sharpeye_app.index_page import IndexPage
from sharpeye_app.readers import WORKSPACE_VARIABLE, review, reviewable_runs
from sharpeye_app.roots import ROOTS_VARIABLE
from sharpeye_app.routes import ROUTES

FIRST_PORT = 8501
PORTS_TRIED = 50
EVERYWHERE = ("0.0.0.0", "::")
# Seconds, until the server answers.
BROWSER_AFTER = 1.5


def serve(workspace: str, listening: ServerOptions) -> None:
    """Serve the app until interrupted.

    Args:
        workspace: folder of the workspace.
        listening: where, and to whom.

    Raises:
        InputError: the workspace cannot be used, the port is taken, a root is not there, or others could
            reach the app without a token or roots.
    """
    host = listening.host
    if not is_loopback(host):
        if not listening.token:
            raise InputError(f"--no-token: only where this machine alone reaches the app, not on {host}")
        if not listening.roots:
            raise InputError(
                f"--host {host}: give --root DIR, the folder that those who reach the app may read and write"
            )
    folder = open_workspace(workspace)
    ensure_supervisor(folder)
    os.environ[WORKSPACE_VARIABLE] = str(folder.root)
    os.environ[ROOTS_VARIABLE] = "\n".join(map(_root, listening.roots))
    chosen = free_port(host, listening.port)
    shown = "127.0.0.1" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    token = token_of(folder.secret()) if listening.token else None
    address = f"http://{shown}:{chosen}/" + (f"?token={token}" if token else "")
    click.echo(f"Sharpeye is at {address} (Ctrl-C ends the app; runs go on)", err=True)
    # A page elsewhere must not reach the app through a name that it lets resolve to this machine.
    hosts = ["127.0.0.1", "localhost", "[::1]", *listening.allowed_hosts]
    hosts += [] if host in EVERYWHERE else [shown]
    app = st.App(
        Path(__file__).with_name("main.py"),
        routes=ROUTES,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(Gate, token=token),
            Middleware(IndexPage),
        ],
    )
    Thread(target=read_latest, daemon=True).start()
    if listening.browser:
        Timer(BROWSER_AFTER, webbrowser.open, [address]).start()
    app.run(config={**SETTINGS, "server.address": host, "server.port": chosen, "server.headless": True})


def read_latest() -> None:
    """Read the latest run, so that whoever opens its review first does not wait for that."""
    with suppress(InputError, OSError, sqlite3.Error):
        for row in reviewable_runs()[:1]:
            review(row.id)


def _root(text: str) -> str:
    if is_address(text):
        return text
    if not Path(text).expanduser().is_dir():
        raise InputError(f"--root {text}: no such folder")
    return str(Path(text).expanduser().resolve())


def free_port(host: str, port: int | None) -> int:
    """The port asked for, or the first free one from FIRST_PORT on.

    Raises:
        InputError: none is free.
    """
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise InputError(f"--host {host}: no address of this machine ({error.strerror})") from error
    tried = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in tried:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return candidate
    raise InputError(
        f"--port {tried[0]}: cannot be listened on at {host} (taken?); choose another, or leave --port out"
    )


SETTINGS = {
    "browser.gatherUsageStats": False,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    # In MB; an upload is in memory while it comes in.
    "server.maxUploadSize": 2000,
    "client.toolbarMode": "minimal",
    "logger.level": "warning",
    # Under `theme` itself, a colour would make everybody's theme the light one.
    "theme.light.primaryColor": "#0b6f66",
    "theme.dark.primaryColor": "#0f8276",
    "theme.light.baseRadius": "small",
    "theme.dark.baseRadius": "small",
}
