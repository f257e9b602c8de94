"""How fast the app answers reviewers, in a real browser, on synthetic workspaces of 50,000 and 1,000,000
images, with 20 people and 100,000 decisions with notes in the store.

    pytest -m benchmark tests/benchmarks/test_app_speed.py -s

Prints a table with the targets beside the figures and writes .benchmarks/app_speed.json.
"""

import json
import os
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import psutil
import pytest
from playwright.sync_api import Browser, Page
from rich.table import Table

from sharpeye.runs import store, team
from sharpeye.runs.decisions import Decision, decide, read_log
from sharpeye.runs.workspace import Workspace
from sharpeye_app import readers
from sharpeye_app.reviewer import signature
from sharpeye_app.routes import OWN_HEADER
from tests.app.synthetic import synthetic_workspace
from tests.benchmarks.reporting import publish
from tests.browser.driving import App, chromium, drag_box, focused, reviewing, served

KEYS = "ar1s2" * 20
KEYS_A_SECOND = 5
REPEATS = 7
PEOPLE, DECIDED, UNTOUCHED, TOGETHER_SECONDS = 20, 100_000, 2_000, 30
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def opened(browser: Browser) -> Page:
    page = reviewing(browser, "ann", viewport={"width": 1280, "height": 870}).new_page()
    page.add_init_script(WATCH_KEYS)
    return page


def seconds_to_usable(page: Page, url: str) -> float:
    """From the address to a gallery whose first picture is drawn and which takes a key."""
    started = time.monotonic()
    page.goto(url)
    page.locator(".card.focus img").wait_for()
    page.keyboard.press("j")
    page.locator(".card.focus:nth-child(2)").wait_for()
    taken = time.monotonic() - started
    page.keyboard.press("k")
    return taken


def seconds_to_turn(page: Page) -> float:
    before = focused(page)
    started = time.monotonic()
    page.keyboard.press("n")
    page.locator(f".card.focus:not([data-id='{before}'])").wait_for()
    return time.monotonic() - started


# Before the app's own listener, which keeps its keys to itself: how long until a press is painted, and the
# badges then.
WATCH_KEYS = """
window.effects = [];
const inside = (element) => element.shadowRoot?.querySelectorAll('.badge').length ?? 0;
const all = () => [...document.querySelectorAll('*')];
const badges = () => all().reduce((count, element) => count + inside(element), 0);
window.addEventListener('keydown', (event) => {
  const began = event.timeStamp;
  const note = () => window.effects.push([performance.now() - began, badges()]);
  requestAnimationFrame(() => requestAnimationFrame(note));
}, true);
"""


def decided_in_all(connection: sqlite3.Connection) -> int:
    """How many decisions the store has."""
    return int(connection.execute("SELECT count(*) FROM decisions").fetchone()[0])


def key_times(page: Page, workspace: Workspace, run: str) -> tuple[float, float]:
    """Slowest of some key presses: until its effect is painted, and until the decision is in the store."""
    page.evaluate("window.effects = []")
    stored = []
    with store.store(workspace) as connection:
        for number in range(REPEATS):
            count = decided_in_all(connection)
            started = time.monotonic()
            page.keyboard.press("a")
            while decided_in_all(connection) == count:
                time.sleep(0.005)
                assert time.monotonic() - started < 10, "a decision never reached the store"
            stored.append(time.monotonic() - started)
            page.wait_for_function(f"window.effects.length > {number}")
    effects = page.evaluate("window.effects")
    assert [badges for _, badges in effects] == list(range(1, REPEATS + 1))
    return max(effect for effect, _ in effects) / 1000, max(stored)


def decide_fast(page: Page, workspace: Workspace) -> list[tuple[str, str]]:
    """Verdicts of 100 key presses at KEYS_A_SECOND, as the store has them, in order."""
    with store.store(workspace) as connection:
        before = decided_in_all(connection)
        started = time.monotonic()
        for number, key in enumerate(KEYS):
            time.sleep(max(0.0, started + number / KEYS_A_SECOND - time.monotonic()))
            page.keyboard.press(key)
        deadline = time.monotonic() + 10
        while decided_in_all(connection) < before + len(KEYS) and time.monotonic() < deadline:
            time.sleep(0.05)
        log = read_log(connection, "dataset")
    return list(log.iloc[before:][["image", "verdict"]].itertuples(index=False, name=None))


def fill(workspace: Workspace, run: str) -> None:
    """DECIDED decisions of PEOPLE people, some of them second opinions, with notes; the first UNTOUCHED
    suspects stay open."""
    scores = pd.read_parquet(workspace.run(run).scores, columns=["id", "given_label", "rank"])
    scores = scores[scores["rank"] > UNTOUCHED].astype({"given_label": str})
    images, given = scores["id"].to_numpy(), scores["given_label"].to_numpy()
    with store.store(workspace) as connection, store.transaction(connection):
        for person in range(PEOPLE):
            team.join(connection, f"person {person}")
        for number in range(DECIDED):
            at = number * 7 % len(images)
            made = Decision(images[at], "keep", given[at], given[at], "looked at twice")
            who, blind = f"person {number % PEOPLE}", number % 10 == 0
            decide(connection, "dataset", run, who, [made], blind=blind)


def decide_together(app: App, workspace: Workspace, run: str) -> tuple[int, int, float]:
    """PEOPLE people decide at once for TOGETHER_SECONDS, each twice a second: how many decisions were sent,
    how many the store lacks, and within how many seconds 95 of 100 were answered."""
    os.environ[readers.WORKSPACE_VARIABLE] = str(workspace.root)
    readers.workspace.cache_clear()
    names = [f"person {person}" for person in range(PEOPLE)]
    signatures = {name: signature(name) for name in names}

    def work(person: int) -> list[float]:
        taken = []
        for number in range(2 * TOGETHER_SECONDS):
            row = 40_000 + person * 2 * TOGETHER_SECONDS + number
            entry = {"tab": f"tab {person}", "n": number, "kind": "decide", "rows": [row], "verdict": "skip"}
            who = {"who": names[person], "signature": signatures[names[person]]}
            body = {**who, "blind": False, "head": 10**9, "shown": list(range(60)), "entries": [entry]}
            started = time.monotonic()
            request = urllib.request.Request(
                f"{app.url}/decisions/{run}",
                json.dumps(body).encode(),
                {"content-type": "application/json", OWN_HEADER: "1"},
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200
            taken.append(time.monotonic() - started)
            time.sleep(max(0.0, 0.5 - taken[-1]))
        return taken

    with store.store(workspace) as connection:
        before = decided_in_all(connection)
        with ThreadPoolExecutor(PEOPLE) as pool:
            taken = [seconds for one in pool.map(work, range(PEOPLE)) for seconds in one]
        lost = len(taken) - (decided_in_all(connection) - before)
    return len(taken), lost, float(np.quantile(taken, 0.95))


def seconds_to_map(page: Page, images: int) -> float:
    """Until every point is drawn, from now."""
    started = time.monotonic()
    page.locator(".js-plotly-plot .gl-canvas").first.wait_for()
    page.wait_for_function(
        f"document.querySelector('.js-plotly-plot')._fullData.reduce((n, t) => n + t._length, 0) === {images}"
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.monotonic() - started


def seconds_to_lasso(page: Page) -> tuple[int, float]:
    """How many images a lasso around half of the map takes, and how long until these are in Review."""
    drag_box(page, 0.02, 0.02, 0.5, 0.98)
    started = time.monotonic()
    page.get_by_role("button", name="Review these").click()
    chosen = page.get_by_text("chosen on the map")
    chosen.wait_for()
    page.locator(".card.focus img").wait_for()
    return int("".join(filter(str.isdigit, chosen.inner_text()))), time.monotonic() - started


@pytest.mark.benchmark
def test_app_speed(tmp_path: Path, browser: Browser) -> None:
    rows: list[tuple[str, float, float, str]] = []
    workspace, run = synthetic_workspace(tmp_path / "50k", 50_000)
    fill(workspace, run)
    with served(workspace.root) as app:
        rows.append(("app answers", app.seconds, 3, "s"))
        page = opened(browser)
        rows.append(
            (
                "50,000 images: Review usable, app just started",
                seconds_to_usable(page, f"{app.url}/review"),
                2,
                "s",
            )
        )
        again = []
        for _ in range(REPEATS):
            other = opened(browser)
            again.append(seconds_to_usable(other, f"{app.url}/review"))
            other.context.close()
        rows.append(("50,000 images: Review usable, new browser", median(again), 2, "s"))
        rows.append(
            ("50,000 images: next page", max(seconds_to_turn(page) for _ in range(REPEATS)), 0.5, "s")
        )
        shown, stored = key_times(page, workspace, run)
        rows += [("key press to its effect", shown, 0.1, "s"), ("key press to the store", stored, 1, "s")]
        decided = decide_fast(page, workspace)
        # To accept or to choose the given label is to keep it.
        names = {"a": {"accept", "keep"}, "r": {"keep"}, "s": {"skip"}}
        may_be = [names.get(key, {"relabel", "keep"}) for key in KEYS]
        assert all(verdict in known for (_, verdict), known in zip(decided, may_be, strict=True))
        assert len({image for image, _ in decided}) == len(KEYS)
        rows.append(
            (
                f"of {len(KEYS)} decisions at {KEYS_A_SECOND} keys a second, lost",
                len(KEYS) - len(decided),
                0,
                "",
            )
        )
        page.get_by_role("link", name="Map").click()
        rows.append(("50,000 images: from Review to the map drawn", seconds_to_map(page, 50_000), 3, "s"))
        taken, seconds = seconds_to_lasso(page)
        rows.append((f"lasso of {taken:,} images to Review", seconds, 3, "s"))
        page.context.close()
        page = opened(browser)
        page.goto(f"{app.url}/map", wait_until="commit")
        rows.append(("50,000 images: map drawn, new browser", seconds_to_map(page, 50_000), 3, "s"))
        page.context.close()
        sent, lost, slow = decide_together(app, workspace, run)
        rows.append((f"{PEOPLE} people, {sent:,} decisions at once: 95 of 100 within", slow, 0.3, "s"))
        rows.append((f"{PEOPLE} people, {sent:,} decisions at once: lost", lost, 0, ""))
        process = psutil.Process(app.process.pid)
        rows.append(("50,000 images: memory of the app", process.memory_info().rss / MEGABYTE, 600, "MB"))
        assert not [part.path for part in process.memory_maps() if "/torch/" in part.path]
    workspace, run = synthetic_workspace(tmp_path / "1m", 1_000_000)
    fill(workspace, run)
    with served(workspace.root) as app:
        page = opened(browser)
        rows.append(
            (
                "1,000,000 images: Review usable, app just started",
                seconds_to_usable(page, f"{app.url}/review"),
                4,
                "s",
            )
        )
        rows.append(("1,000,000 images: filter by confusion pair", seconds_to_filter(page), 1, "s"))
        rows.append(("1,000,000 images: next page", seconds_to_turn(page), 0.5, "s"))
        rows.append(
            (
                "1,000,000 images: memory of the app",
                psutil.Process(app.process.pid).memory_info().rss / MEGABYTE,
                float("inf"),
                "MB",
            )
        )
    table = Table("what", "measured", "target")
    for name, value, target, unit in rows:
        table.add_row(
            name, f"{value:,.3g} {unit}", f"≤ {target:,.3g} {unit}" if target < float("inf") else "–"
        )
    publish(
        "app_speed",
        [dict(zip(("what", "measured", "target", "unit"), row, strict=True)) for row in rows],
        table,
    )


def seconds_to_filter(page: Page) -> float:
    """From a click on a cell of the confusion matrix to its images."""
    page.get_by_text("which classes are confused").click()
    cell = page.locator(".js-plotly-plot .scatterlayer .point").nth(7)
    cell.wait_for()
    page.wait_for_timeout(500)
    before = focused(page)
    box = cell.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    started = time.monotonic()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(f".card.focus:not([data-id='{before}'])").wait_for()
    return time.monotonic() - started
