"""Several people, and many classes."""

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect

from sharpeye.runs import team
from sharpeye.runs.decisions import blind_decisions, current_decisions
from sharpeye.runs.store import store
from sharpeye.runs.workspace import Workspace
from tests.app.synthetic import synthetic_workspace
from tests.browser.conftest import PATIENCE
from tests.browser.driving import App, focused, reviewing, served
from tests.engine.runs.watching import kill_all


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[tuple[App, Workspace]]:
    workspace, _ = synthetic_workspace(tmp_path / "synthetic", 200)
    with served(workspace.root) as app:
        yield app, workspace
    kill_all(workspace)


def settled(page: Page) -> None:
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def told(workspace: Workspace, read: Callable[[sqlite3.Connection], Any], expected: Any) -> None:
    """Fail where what is read of the store does not become what is expected."""
    deadline = time.monotonic() + 10
    with store(workspace) as connection:
        while (found := read(connection)) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
    assert found == expected


def deciders(connection: sqlite3.Connection) -> dict[str, int]:
    """How many decisions of each person hold."""
    return dict(current_decisions(connection, "dataset")["who"].value_counts())


def blind_deciders(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(blind_decisions(connection, "dataset")["who"].value_counts())


def tab(browser: Browser, who: str) -> Page:
    """A browser of its own for a person."""
    page = reviewing(browser, who, viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    return page


def open_queue(page: Page, app: App, queue: str) -> None:
    page.goto(f"{app.url}/review?queue={queue.replace(' ', '+')}")
    page.locator(".card.focus img").wait_for()
    settled(page)


def test_two_reviewers_share_work_and_give_blind_second_opinions(
    browser: Browser, reviewed: tuple[App, Workspace]
) -> None:
    app, workspace = reviewed
    ann, bob = tab(browser, "ann"), tab(browser, "bob")

    # Who comes first leads, and shares out.
    ann.goto(f"{app.url}/team")
    ann.get_by_text("Share out work").wait_for()
    bob.goto(f"{app.url}/team")
    expect(bob.get_by_text("A lead shares out work here")).to_be_visible()
    ann.reload()
    ann.get_by_text("Share out work").wait_for()
    settled(ann)
    count = ann.get_by_test_id("stNumberInputField").first
    count.fill("20")
    count.press("Enter")
    settled(ann)
    ann.get_by_text("in turn", exact=True).click()
    settled(ann)
    thumb = ann.get_by_role("slider").first
    thumb.focus()
    thumb.press("End")
    settled(ann)
    ann.get_by_role("button", name="Share out", exact=True).click()
    expect(ann.get_by_text("20 images shared out, 20 of them to a second person")).to_be_visible()
    with store(workspace) as connection:
        table = team.assigned(connection, "dataset")
    assert table.groupby(["who", "blind"]).size().tolist() == [10, 10, 10, 10]

    # Each decides on their own ten.
    for page in (ann, bob):
        open_queue(page, app, "assigned to me")
        expect(page.locator(".card")).to_have_count(10)
        for _ in range(10):
            page.keyboard.press("r")
        expect(page.locator(".card .badge")).to_have_count(10)
    told(workspace, deciders, {"ann": 10, "bob": 10})

    # Bob's second opinions are on Ann's images, and he does not see what she said.
    open_queue(bob, app, "second opinions for me")
    expect(bob.locator(".card")).to_have_count(10)
    expect(bob.locator(".card .badge")).to_have_count(0)
    for key in "rrrrrrroo":
        bob.keyboard.press(key)
    expect(bob.locator(".card .badge")).to_have_count(9)
    told(workspace, blind_deciders, {"bob": 9})
    told(workspace, deciders, {"ann": 10, "bob": 10})

    # Everybody's undo is their own: Ann's last decision, not Bob's.
    open_queue(ann, app, "assigned to me")
    ann.keyboard.press("u")
    expect(ann.locator(".card .badge")).to_have_count(9)
    told(workspace, deciders, {"bob": 10, "ann": 9})
    told(workspace, blind_deciders, {"bob": 9})
    ann.keyboard.press("y")
    expect(ann.locator(".card .badge")).to_have_count(10)

    # Seven of nine agree; the others wait to be settled.
    ann.goto(f"{app.url}/team")
    expect(ann.get_by_test_id("stMetricValue").get_by_text("78%")).to_be_visible()
    ann.get_by_role("button", name="Review the disagreements").click()
    ann.locator(".card.focus img").wait_for()
    expect(ann.locator(".card")).to_have_count(2)
    ann.locator(".card").first.click()
    ann.keyboard.press("o")
    told(workspace, lambda connection: len(team.disagreements(connection, "dataset")), 1)

    # Both look at one image: who comes second is told, and overrules nobody unseen.
    page = {}
    for one in (ann, bob):
        one.goto(f"{app.url}/review?status=open")
        one.locator(".card.focus img").wait_for()
        page[one] = focused(one)
    assert page[ann] == page[bob]
    ann.keyboard.press("r")
    expect(ann.locator(".card .badge")).to_have_count(1)
    bob.keyboard.press("s")
    expect(bob.get_by_role("alert").get_by_text("1 of these were decided elsewhere")).to_be_visible()
    expect(bob.locator(".card .badge")).to_have_text(["Keep"])

    # A report for those who were not there.
    ann.goto(f"{app.url}/export")
    with ann.expect_download() as waiting:
        ann.get_by_role("button", name="Report, HTML").click()
    report = Path(waiting.value.path()).read_text()
    assert "ann" in report
    assert re.search(r"Of 9 images with a blind second opinion, \d+ % were labelled alike", report)
    with ann.expect_download() as waiting:
        ann.get_by_role("button", name="Decision log").click()
    log = Path(waiting.value.path())
    assert pd.read_csv(log)["blind"].sum() == 9
    ann.locator("input[type=file]").set_input_files(
        {"name": "decisions.csv", "mimeType": "text/csv", "buffer": log.read_bytes()}
    )
    ann.get_by_role("button", name="Add these decisions").click()
    expect(ann.get_by_text("Actions added")).to_be_visible()
    for one in (ann, bob):
        one.context.close()


def test_a_name_is_asked_once_and_kept_by_the_browser(
    browser: Browser, reviewed: tuple[App, Workspace]
) -> None:
    app, workspace = reviewed
    page = browser.new_page()
    page.goto(f"{app.url}/review")
    page.get_by_label("Your name").fill("  Zoë   Ångström ")
    page.get_by_role("button", name="Start").click()
    page.locator(".card.focus img").wait_for()
    page.keyboard.press("a")
    expect(page.locator(".card .badge")).to_have_count(1)
    page.reload()
    page.locator(".card.focus img").wait_for()
    expect(page.get_by_role("button", name="Zoë Ångström")).to_be_visible()
    told(workspace, deciders, {"Zoë Ångström": 1})
    page.close()


def test_150_classes_by_keyboard_alone(browser: Browser, tmp_path: Path) -> None:
    workspace, run = synthetic_workspace(tmp_path / "synthetic", 300, class_count=150)
    scores = pd.read_parquet(workspace.run(run).scores).sort_values("rank", ignore_index=True)
    scores = scores.astype(dict.fromkeys(("given_label", "suggested_label"), str))
    with served(workspace.root) as app:
        page = tab(browser, "ann")
        page.goto(f"{app.url}/review")
        page.locator(".card.focus img").wait_for()
        # The second label that the panel lists; a class by a few letters; a class of one's own.
        page.keyboard.press("2")
        page.keyboard.press("/")
        expect(page.get_by_label("A few letters of the class")).to_be_focused()
        page.keyboard.type("cl 147")
        page.keyboard.press("Enter")
        page.keyboard.press("/")
        page.keyboard.type("wasp")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator(".card .badge")).to_have_count(3)
        # Two at once, with another key for that.
        page.keyboard.press("?")
        page.get_by_role("button", name="Keep the label: key R; change it").focus()
        page.keyboard.press("Enter")
        page.keyboard.press(";")
        expect(page.get_by_role("button", name="Keep the label: key ;; change it")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("Shift+ArrowRight")
        expect(page.get_by_text("2 selected")).to_be_visible()
        page.keyboard.press(";")
        # A note on what is next, and a close look at it.
        page.keyboard.press("ArrowRight")
        page.keyboard.press("m")
        page.keyboard.type("blurred?")
        page.keyboard.press("Enter")
        page.keyboard.press("Space")
        expect(page.get_by_role("dialog", name="The image, closely")).to_be_visible()
        page.keyboard.press("q")
        page.keyboard.press("Escape")
        expect(page.locator(".card .badge")).to_have_count(6)
        told(workspace, deciders, {"ann": 6})
        with store(workspace) as connection:
            made = current_decisions(connection, "dataset").set_index("image")
        page.context.close()
    labels = made["to_label"].reindex(scores["id"].head(6)).fillna("none").tolist()
    assert labels == [
        scores["likely_labels"][0][1],
        "class 147",
        "wasp",
        scores["given_label"][3],
        scores["given_label"][4],
        "none",
    ]
    last = made.loc[scores["id"][5]]
    assert (last["verdict"], last["note"]) == ("ambiguous", "blurred?")
    kill_all(workspace)
