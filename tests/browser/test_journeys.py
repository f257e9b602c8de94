"""Whole journeys of a user through the app, in a real browser, on images made on the spot."""

import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from sharpeye.runs.decisions import Decision, decide, read_log
from sharpeye.runs.store import list_runs, store
from sharpeye.runs.workspace import Workspace, open_workspace
from tests.app.synthetic import synthetic_workspace, write_figures
from tests.browser.driving import App, drag_box, focused, free_port, reviewing, served
from tests.engine.runs.watching import kill_all

RUN_SECONDS = 240


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = open_workspace(str(tmp_path / "ws"))
    yield made
    kill_all(made)


def choose(page: Page, label: str, option: str) -> None:
    """Pick an option of a select box, once those of the page before are gone."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    field = page.get_by_label(label, exact=True)
    # The list closes where the page scrolls under it.
    field.evaluate("(element) => element.scrollIntoView({ block: 'center' })")
    field.click()
    page.get_by_role("option", name=option, exact=True).click()


def inspect_folder(page: Page, app: App, train: Path, split: str, check: Path | None = None) -> None:
    page.goto(app.url)
    choose(page, "Source", "Files on this machine")
    page.get_by_role("textbox", name="Training images").fill(str(train))
    page.get_by_text(split).click()
    if check is not None:
        page.get_by_role("textbox", name="Clean images").fill(str(check))
    page.get_by_role("button", name="Inspect", exact=True).click()


def decisions(workspace: Workspace, count: int) -> pd.DataFrame:
    """The log, once it holds that many rows."""
    with store(workspace) as connection:
        [row] = list_runs(connection)
        deadline = time.monotonic() + 10
        while len(log := read_log(connection, row.dataset)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(log) == count
    return log


def test_from_a_folder_to_cleaned_labels(
    page: Page, workspace: Workspace, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    train, check = make_folder("train", 30, wrong=5, seed=1), make_folder("check", 10, seed=2)
    port = free_port()
    with served(workspace.root, port) as app:
        inspect_folder(page, app, train, "Another source of clean images", check)
        page.get_by_text("Everything is there: go to Run").click()
        page.get_by_text("fast", exact=True).click()
        page.get_by_role("button", name="Start").click()
        page.get_by_role("button", name="Review suspects").wait_for(timeout=RUN_SECONDS * 1000)
        expect(page.get_by_text("· done")).to_be_visible(timeout=RUN_SECONDS * 1000)
        page.get_by_role("button", name="Review suspects").click()

        page.locator(".card.focus img").wait_for()
        first = focused(page)
        cards = page.locator(".card")
        ids = [cards.nth(number).get_attribute("data-id") for number in range(6)]
        assert first == ids[0]
        for key in ("a", "r", "s"):
            page.keyboard.press(key)
        page.keyboard.press("/")
        page.get_by_label("A few letters of the class").fill("ant")
        page.keyboard.press("Enter")
        expect(page.locator(".card .badge")).to_have_count(4)
        page.keyboard.press("u")
        expect(page.locator(".card .badge")).to_have_count(3)
        page.keyboard.press("y")
        expect(page.locator(".card .badge")).to_have_count(4)
        log = decisions(workspace, 6)
        assert log["image"].iloc[:4].tolist() == ids[:4]
        # What looks right is kept, not accepted.
        assert log["verdict"].iloc[0] in ("accept", "keep")
        assert log["verdict"].iloc[1:3].tolist() == ["keep", "skip"]
        assert log["to_label"].iloc[3] == "ant"
        assert set(log["who"]) == {"ann"}
        assert log["kind"].tolist() == ["decide"] * 4 + ["undo", "redo"]

        page.reload()
        page.locator(".card.focus img").wait_for()
        expect(page.locator(".card .badge")).to_have_count(4)
        cards.nth(4).click()

    # The app is gone; what is decided now waits in the browser for it to come back.
    page.keyboard.press("a")
    expect(page.get_by_role("alert").get_by_text("not saved yet")).to_be_visible()
    decisions(workspace, 6)
    with served(workspace.root, port) as app:
        log = decisions(workspace, 7)
        assert (log["image"].iloc[6], log["verdict"].iloc[6]) == (ids[4], "accept")
        expect(page.get_by_text("not saved yet")).to_be_hidden()

        page.goto(f"{app.url}/map")
        page.locator(".js-plotly-plot .gl-canvas").first.wait_for()
        page.wait_for_timeout(500)
        drag_box(page, 0.02, 0.02, 0.98, 0.98)
        page.get_by_role("button", name="Review these").click()
        expect(page.get_by_text("chosen on the map")).to_be_visible()
        page.locator(".card.focus img").wait_for()

        page.get_by_role("link", name="Export").click()
        page.get_by_text("What changes").wait_for()
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Labels, CSV").click()
        exported = pd.read_csv(waiting.value.path()).set_index("id")
        check_labels(exported, log)
        target = tmp_path / "cleaned"
        page.get_by_role("textbox", name="Folder").fill(str(target))
        page.get_by_text("Also a cleaned copy").click()
        page.get_by_role("button", name="Write files").click()
        expect(page.get_by_text("Wrote labels.csv")).to_be_visible()
        check_labels(pd.read_parquet(target / "labels.parquet").set_index("id"), log)
        moved = Path(ids[3]).name
        assert [path.parent.name for path in (target / "images").rglob(moved)] == ["ant"]


def check_labels(exported: pd.DataFrame, log: pd.DataFrame) -> None:
    """Exactly the decided changes are applied."""
    made = log[log["kind"] == "decide"].set_index("image")
    final = made["to_label"].dropna()
    assert exported.loc[final.index, "final_label"].tolist() == final.tolist()
    others = exported.drop(index=final.index)
    assert (others["final_label"] == others["given_label"]).all()
    assert len(exported) == 90


def test_a_confirmed_sample_becomes_the_validation_split(
    page: Page, workspace: Workspace, make_folder: Callable[..., Path]
) -> None:
    train = make_folder("train", 20, wrong=2, seed=1)
    with served(workspace.root) as app:
        inspect_folder(page, app, train, "None: judge every image by the others")
        page.get_by_text("Are these all “ant”?").wait_for()
        page.get_by_role("button", name="These labels are right now").click()
        page.get_by_text("1 of 3 classes checked").wait_for()
        (train / "dog").mkdir()
        Image.new("RGB", (24, 24), "red").save(train / "dog" / "only.png")
        page.get_by_role("button", name="Inspect", exact=True).click()
        # Other files, so what was said is asked again.
        for number, name in enumerate(("ant", "bee", "cat", "dog")):
            page.get_by_text(f"Are these all “{name}”?").wait_for()
            expect(page.get_by_text(f"{number} of 4 classes checked")).to_be_visible()
            if name == "bee":
                choose(page, "Label of image 1", "leave it out")
                choose(page, "Label of image 2", "cat")
            if name == "dog":
                choose(page, "Label of image 1", "leave it out")
            page.get_by_role("button", name="These labels are right now").click()
        expect(page.get_by_text("No confirmed image of dog")).to_be_visible()
        page.get_by_role("button", name="Use these 35 images as the validation split").click()
        page.get_by_text("Everything is there: go to Run").wait_for(timeout=60_000)
        [confirmed] = workspace.inspections.glob("*/confirmed-*.csv")
        table = pd.read_csv(confirmed)
        assert len(table) == 35
        assert (table["label"] != table["given_label"]).sum() == 1


def open_review(page: Page, app: App) -> None:
    """Open Review, and wait for its first card."""
    page.goto(f"{app.url}/review")
    page.locator(".card.focus img").wait_for()


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[tuple[App, Workspace, str]]:
    """The app on a finished synthetic run of 500 images."""
    workspace, run = synthetic_workspace(tmp_path / "synthetic", 500)
    with served(workspace.root) as app:
        yield app, workspace, run
    kill_all(workspace)


def test_keys_pressed_while_a_page_turns_are_for_the_next_page(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, _ = reviewed
    open_review(page, app)
    for _ in range(130):  # more than two pages of 60, as fast as the keyboard goes
        page.keyboard.press("a")
    page.locator(".pages").get_by_text("Page 3 of").wait_for()
    log = decisions(workspace, 130)
    assert log["image"].is_unique
    ranks = pd.read_parquet(workspace.run(log["run"].iloc[0]).scores, columns=["id", "rank"]).set_index("id")[
        "rank"
    ]
    assert ranks[log["image"]].tolist() == list(range(1, 131))
    page.keyboard.press("u")
    expect(page.locator(".card .badge")).to_have_count(9)


def test_focus_follows_undo_and_redo(page: Page, reviewed: tuple[App, Workspace, str]) -> None:
    app, workspace, _ = reviewed
    open_review(page, app)
    ids = [page.locator(".card").nth(number).get_attribute("data-id") for number in range(4)]
    for key in "aruyus":  # the second undo takes back image 2, so the skip is for it
        page.keyboard.press(key)
    log = decisions(workspace, 6)
    assert log["kind"].tolist() == ["decide", "decide", "undo", "redo", "undo", "decide"]
    assert (log["image"].iloc[5], log["verdict"].iloc[5]) == (ids[1], "skip")
    page.keyboard.press("u")
    page.keyboard.press("y")
    page.keyboard.press("r")
    log = decisions(workspace, 9)
    assert (log["image"].iloc[8], log["verdict"].iloc[8]) == (ids[2], "keep")


def test_a_duplicated_tab_keeps_its_own_count(page: Page, reviewed: tuple[App, Workspace, str]) -> None:
    app, workspace, _ = reviewed
    open_review(page, app)
    page.keyboard.press("a")
    decisions(workspace, 1)
    with page.expect_popup() as opening:
        page.evaluate("window.open(location.href)")
    other = opening.value
    other.locator(".card.focus img").wait_for()
    other.keyboard.press("r")
    decisions(workspace, 2)
    page.bring_to_front()
    page.keyboard.press("j")
    page.keyboard.press("s")
    assert decisions(workspace, 3)["verdict"].tolist() == ["accept", "keep", "skip"]


def test_keys_decide_after_a_filter_was_chosen(page: Page, reviewed: tuple[App, Workspace, str]) -> None:
    app, workspace, _ = reviewed
    open_review(page, app)
    choose(page, "Status", "open")
    page.wait_for_timeout(1000)
    page.keyboard.press("a")
    decisions(workspace, 1)


def test_keys_decide_after_a_switch_was_used_and_once_when_held(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, _ = reviewed
    open_review(page, app)
    page.get_by_role("button", name="More").click()
    page.get_by_text("Only changes").click()
    expect(page.locator(".card .suggested", has_text="looks right")).to_have_count(0)
    for _ in range(5):
        page.keyboard.down("a")
    page.keyboard.up("a")
    expect(page.locator(".card .badge")).to_have_count(1)
    page.keyboard.press("s")
    assert decisions(workspace, 2)["verdict"].tolist() == ["accept", "skip"]


def test_another_class_is_chosen_with_the_arrow_keys(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, _ = reviewed
    held: list[Route] = []
    page.route("**/classes/*", lambda route: held.append(route))
    open_review(page, app)
    with page.expect_request("**/classes/*"):
        page.get_by_role("button", name="Another class").click()
    options = page.get_by_role("listbox", name="Classes").get_by_role("option")
    expect(options).to_have_count(10)
    given = page.locator(".card.focus .given").inner_text()
    other = 2 if given != "class 2" else 3
    for _ in range(other):
        page.keyboard.press("ArrowDown")
    # The pictures come while a class is marked, which must stay marked.
    held[0].continue_()
    expect(options.locator("img")).to_have_count(10)
    page.keyboard.press("Enter")
    log = decisions(workspace, 1)
    assert log[["verdict", "to_label"]].to_numpy().tolist() == [["relabel", f"class {other}"]]


def test_a_card_shows_what_was_accepted_whatever_this_run_suggests(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, run = reviewed
    scores = pd.read_parquet(
        workspace.run(run).scores, columns=["id", "rank", "given_label", "suggested_label"]
    ).astype(str)
    first = scores[scores["rank"] == "1"].iloc[0]
    other = next(
        f"class {n}"
        for n in range(10)
        if f"class {n}" not in (first["given_label"], first["suggested_label"])
    )
    with store(workspace) as connection:
        decide(
            connection, "dataset", run, "me", [Decision(first["id"], "accept", first["given_label"], other)]
        )
    page.goto(f"{app.url}/review")
    expect(page.locator(f'.card[data-id="{first["id"]}"] .badge')).to_have_text(f"✓ {other}")


def test_many_are_accepted_at_once_and_taken_back_at_once(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, _ = reviewed
    open_review(page, app)
    page.get_by_role("button", name="Accept many").click()
    page.get_by_role("dialog").get_by_text("All pages of this view").click()
    button = page.get_by_role("dialog").get_by_role("button", name=re.compile(r"Accept \d+ suggestions"))
    expect(button).to_be_enabled()
    page.wait_for_timeout(500)
    count = int(button.inner_text().split()[1])
    button.click()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert set(decisions(workspace, count)["verdict"]) == {"accept"}
    expect(page.get_by_text(f"{count} of 500 decided")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_text("0 of 500 decided")).to_be_visible()


def test_a_confused_pair_is_a_click_away_and_its_address_brings_it_back(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, run = reviewed
    scores = pd.read_parquet(workspace.run(run).scores, columns=["given_label", "suggested_label"]).astype(
        str
    )
    count = int(((scores["given_label"] == "class 0") & (scores["suggested_label"] == "class 9")).sum())
    page.goto(f"{app.url}/review")
    page.get_by_text("which classes are confused").click()
    page.locator(".js-plotly-plot .scatterlayer .point").nth(8).click(force=True)
    expect(page.get_by_text(f"{count} images in this view")).to_be_visible()
    expect(page.locator(".card")).to_have_count(count)
    page.goto(page.url)
    expect(page.locator(".card")).to_have_count(count)
    assert page.locator(".card .given").all_inner_texts() == ["class 0"] * count


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_follow_the_browser_s_theme(
    browser: Browser, reviewed: tuple[App, Workspace, str], scheme: str
) -> None:
    app, _, _ = reviewed
    context = reviewing(browser, "ann", color_scheme=scheme)
    page = context.new_page()
    open_review(page, app)
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness > 128) == (scheme == "light")
    context.close()


def test_from_the_figures_to_the_images_on_which_methods_disagree(
    page: Page, reviewed: tuple[App, Workspace, str]
) -> None:
    app, workspace, run = reviewed
    write_figures(workspace, run)
    page.goto(f"{app.url}/diagnostics")
    for name in (
        "Estimated label noise",
        "AUC against accuracy",
        "AUC along flat training",
        "Distributions of influence",
        "Risk around both minima",
    ):
        plot = page.get_by_role("img", name=name).or_(page.locator(f'[aria-label*="{name}"]')).first
        plot.scroll_into_view_if_needed()
        expect(plot).to_be_visible()
    expect(page.locator(".js-plotly-plot .xtitle", has_text="validation accuracy").first).to_be_visible()
    page.get_by_text("trace of the Hessian of R", exact=True).click()
    axis = page.locator(".js-plotly-plot .x2title", has_text="trace of the Hessian of R")
    expect(axis.first).to_be_visible()
    page.get_by_role("link", name="Compare").click()
    page.get_by_text("How alike the rankings are").wait_for()
    page.get_by_role("button", name="Review these 24 images").click()
    expect(page.get_by_text("Only the 24 images")).to_be_visible()
    expect(page.locator(".card")).to_have_count(24)


def test_the_lesson_computes_its_own_numbers(page: Page, workspace: Workspace) -> None:
    page.set_default_timeout(300_000)
    with served(workspace.root) as app:
        page.goto(f"{app.url}/learn")
        page.get_by_text("The label that pulls least").wait_for()
        expect(page.get_by_role("img", name="Training image")).to_have_count(12)
        page.get_by_text("4 Why classical fades").click()
        page.get_by_text("From the noisily trained network").wait_for()
        page.get_by_text("2 Sharp and flat").click()
        page.get_by_text("at the plain minimum").wait_for()
        page.get_by_text("6 Influence and loss").click()
        expect(page.get_by_text("w = 0.1: AUC")).to_be_visible()
        weight = page.locator('input[type="range"][aria-label="w"]')
        for _ in range(3):
            weight.press("ArrowRight")
        expect(page.get_by_text("w = ∞ (the loss): AUC")).to_be_visible()
        page.get_by_text("7 Pairs").click()
        expect(page.get_by_text("rank correlation with training again is 0.99")).to_be_visible()
        assert sorted(path.parent.name for path in workspace.lessons.glob("*/report.json")) == [
            "erm-0",
            "lpf-sgd-0.2",
            "lpf-sgd-0.4",
        ]


def test_a_table_is_shown_before_it_is_read_and_an_archive_can_be_sent(
    page: Page, workspace: Workspace, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    root = make_folder("photos", 4)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    table = pd.DataFrame({"picture": files, "kind": [name.split("/")[0] for name in files]})
    table.to_csv(root / "list.csv", index=False, sep=";")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for name in files:
            packed.write(root / name, name)
    with served(workspace.root) as app:
        page.goto(app.url)
        choose(page, "Source", "Files on this machine")
        # As a file manager copies it.
        page.get_by_role("textbox", name="Training images").fill(f'"{root}"')
        page.get_by_role("textbox", name="Training images").press("Enter")
        page.get_by_role("button", name="Browse").click()
        page.get_by_role("button", name="list.csv").click()
        expect(page.get_by_role("textbox", name="Training images")).to_have_value(str(root / "list.csv"))
        choose(page, "Label column", "kind")
        choose(page, "Image path column", "picture")
        page.get_by_role("button", name="Inspect", exact=True).click()
        page.get_by_role("link", name="Go to Run, without a clean split").wait_for(timeout=120_000)
        expect(page.get_by_test_id("stMetricValue").first).to_have_text("12")
        page.goto(app.url)
        choose(page, "Source", "Upload")
        page.locator("input[type=file]").set_input_files(str(tmp_path / "photos.zip"))
        expect(page.get_by_text("photos.zip")).to_be_visible()
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        page.get_by_role("button", name="Inspect", exact=True).click()
        page.get_by_role("button", name="photos.zip · no clean split").wait_for()
    [kept] = (workspace.root / "uploads").glob("*/photos.zip")
    assert kept.read_bytes() == (tmp_path / "photos.zip").read_bytes()


def test_bad_input_is_said_where_it_is_typed(page: Page, workspace: Workspace, tmp_path: Path) -> None:
    with served(workspace.root) as app:
        inspect_folder(page, app, tmp_path / "nowhere", "Another source of clean images", tmp_path)
        expect(page.get_by_role("alert").get_by_text("nowhere: no such file or folder")).to_be_visible()
        for name in ("review", "map", "export"):
            page.goto(f"{app.url}/{name}")
            expect(page.get_by_text("No run has scores yet")).to_be_visible()
