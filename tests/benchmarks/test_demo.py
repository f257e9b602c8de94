"""The README's first command as a newcomer sees it: how long until the first suspect, and what every page
looks like.

    pytest -m benchmark tests/benchmarks/test_demo.py -s

Prints a table and writes .benchmarks/demo.json, and .benchmarks/screenshots/PAGE-THEME-WIDTH.png.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from rich.table import Table

from sharpeye.runs.workspace import Workspace
from tests.benchmarks.reporting import publish
from tests.browser.driving import answers, chromium, free_port, reviewing
from tests.engine.runs.watching import kill_all

PATIENCE = 600_000
SHOTS = Path(".benchmarks/screenshots")
# What is on each page once it is drawn.
DRAWN = {
    "": "text=training images",
    "run": "text=New run",
    "review": ".card.focus img",
    "map": ".js-plotly-plot .gl-canvas",
    "export": "text=What changes",
}


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.mark.benchmark
def test_demo(tmp_path: Path, browser: Browser) -> None:
    workspace, port = Workspace(tmp_path / "demo"), free_port()
    command = [
        sys.executable,
        "-m",
        "sharpeye.commands.cli",
        "demo",
        "--workspace",
        str(workspace.root),
        "--no-browser",
        "--no-token",
        "--port",
        str(port),
    ]
    started = time.monotonic()
    process = subprocess.Popen(command)
    try:
        rows = newcomer(
            reviewing(browser, "ann", viewport={"width": 1280, "height": 870}).new_page(),
            f"http://127.0.0.1:{port}",
            started,
        )
        for scheme in ("light", "dark"):
            for width in (1280, 1920):
                photograph(browser, f"http://127.0.0.1:{port}", scheme, width)
    finally:
        process.kill()
        kill_all(workspace)
    table = Table("from the command to", "seconds", "target")
    for name, seconds, target in rows:
        table.add_row(name, f"{seconds:.1f}", f"≤ {target}" if target else "–")
    publish("demo", [dict(zip(("to", "seconds", "target"), row, strict=True)) for row in rows], table)


def newcomer(page: Page, url: str, started: float) -> list[tuple[str, float, int | None]]:
    """Open the app, watch the run, review some suspects."""
    page.set_default_timeout(PATIENCE)
    while not answers(url):
        time.sleep(0.05)
    page.goto(url)
    page.get_by_text("Stage 2 of").wait_for()
    rows: list[tuple[str, float, int | None]] = [
        ("live progress on screen", time.monotonic() - started, None)
    ]
    page.get_by_role("button", name="Review suspects").wait_for()
    page.get_by_role("button", name="Review suspects").click()
    page.locator(".card.focus img").wait_for()
    rows.append(("the first suspect on screen", time.monotonic() - started, 240))
    for key in "aaraasaaa":
        page.keyboard.press(key)
        page.wait_for_timeout(200)
    page.get_by_role("link", name="Run", exact=True).click()
    page.get_by_text("· done").wait_for()
    rows.append(("the run done, with its map", time.monotonic() - started, None))
    page.get_by_role("link", name="Data", exact=True).click()
    page.get_by_role("button", name="Inspect").click()
    page.get_by_text("Everything is there").wait_for()
    page.close()
    return rows


def photograph(browser: Browser, url: str, scheme: str, width: int) -> None:
    """A picture of every page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    size = {"width": width, "height": width * 17 // 25}
    context = reviewing(browser, "ann", color_scheme=scheme, viewport=size)
    for name, drawn in DRAWN.items():
        page = context.new_page()
        page.goto(f"{url}/{name}")
        page.locator(drawn).first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=SHOTS / f"{name or 'data'}-{scheme}-{width}.png")
        page.close()
    context.close()
