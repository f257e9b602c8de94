"""The app in a process of its own and a real Chromium on it, for the browser tests and the benchmarks."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from sharpeye_app.reviewer import COOKIE

START_SECONDS = 30
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class App:
    """A running app.

    Attributes:
        process: of the server.
        url: where it is, without a final slash.
        seconds: from its start to its first answer.
    """

    process: "subprocess.Popen[bytes]"
    url: str
    seconds: float


@contextmanager
def served(workspace: Path, port: int | None = None, *options: str) -> Iterator[App]:
    """The app on a workspace, without a token where no options are given; killed at the end."""
    port = port or free_port()
    log = workspace.with_name(f"{workspace.name}-app.log")
    started = time.monotonic()
    with log.open("ab") as output:
        listen = ["--no-browser", "--port", str(port), *(options or ("--no-token",))]
        command = [sys.executable, "-m", "sharpeye_app", str(workspace), *listen]
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(url):
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                pytest.fail(f"the app did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield App(process, url, time.monotonic() - started)
    finally:
        process.kill()
        process.wait(10)


def answers(url: str) -> bool:
    """Whether the app is there."""
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as response:
            return bool(response.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; without one the test is skipped, or fails where SHARPEYE_REQUIRE_BROWSER=1."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "needs Chromium: install the package `chromium`"
        if os.environ.get("SHARPEYE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def reviewing(browser: Browser, who: str, **options: Any) -> BrowserContext:
    """A profile whose browser knows who reviews; options as of a browser's `new_context`."""
    context = browser.new_context(**options)
    context.add_cookies([{"name": COOKIE, "value": who, "domain": "127.0.0.1", "path": "/"}])
    return context


def focused(page: Page) -> str:
    """Id of the image in focus in the gallery."""
    return page.locator(".card.focus").get_attribute("data-id") or ""


def drag_box(page: Page, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a lasso around a part of the map; edges as shares of the plotting area."""
    area = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    assert area is not None
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    places = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()
