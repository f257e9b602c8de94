"""Every page under axe-core: no serious or critical finding, light and dark, wide and narrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.synthetic import synthetic_workspace, write_figures
from tests.browser.driving import App, reviewing, served
from tests.engine.runs.watching import kill_all

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
# What is there once a page is drawn.
PAGES = {
    "": "Choose a source",
    "run": "Review suspects",
    "review": "decided",
    "team": "Agreement",
    "map": "Draw a lasso",
    "diagnostics": "Figure 2",
    "compare": "How alike the rankings are",
    "text": "No run on text yet",
    "export": "Write to a folder",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    workspace, run = synthetic_workspace(tmp_path_factory.mktemp("access") / "synthetic", 300)
    write_figures(workspace, run)
    with served(workspace.root) as running:
        yield running
    kill_all(workspace)


def is_elsewhere(address: str, app: App) -> bool:
    """Whether a request leaves this machine."""
    return not address.startswith((app.url, "data:", "blob:"))


def findings(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {node['html'][:120]} ({node['failureSummary'][:160]})"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("width", [800, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_shuts_anybody_out(
    browser: Browser, app: App, scheme: Literal["light", "dark"], width: int
) -> None:
    context = reviewing(browser, "ann", viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    elsewhere: list[str] = []
    page.on("request", lambda sent: elsewhere.append(sent.url) if is_elsewhere(sent.url, app) else None)
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    for name, shows in PAGES.items():
        page.goto(f"{app.url}/{name}")
        expect(page.get_by_text(shows).first).to_be_visible()
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        expect(page).to_have_title(f"{name.capitalize() or 'Data'} · Sharpeye")
        assert findings(page) == [], name
    assert said == []
    assert elsewhere == []
    context.close()


def test_dialogs_of_the_review_too(browser: Browser, app: App) -> None:
    context = reviewing(browser, "ann", viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{app.url}/review")
    page.locator(".card.focus img").wait_for()
    for key, box in (("?", "Keys"), ("/", "Find a class"), ("Space", "The image, closely")):
        page.keyboard.press(key)
        expect(page.get_by_role("dialog", name=box)).to_be_visible()
        assert findings(page) == [], box
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog", name=box)).to_be_hidden()
    # The first thing that Tab reaches leads past the filters.
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".card.focus")).to_be_focused()
    suggested = page.locator(".card.focus .suggested").inner_text().removeprefix("→ ").split("?")[0]
    page.keyboard.press("a")
    expect(page.locator(".said")).to_have_text(f"{suggested} accepted")
    context.close()
