"""Text: source → run → prompt → influential examples → three decisions by keyboard → export."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from sharpeye.runs.workspace import open_workspace
from tests.browser.driving import free_port, reviewing, served
from tests.engine.text.tiny import tiny_model, write_examples

WAIT = 60_000


def test_from_a_table_to_cleaned_examples(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = tiny_model(tmp_path / "model")
    train = write_examples(tmp_path / "train.jsonl", 60)
    check = write_examples(tmp_path / "check.jsonl", 8, seed=1)
    workspace = open_workspace(str(tmp_path / "workspace"))
    with served(workspace.root, free_port()) as app:
        context = reviewing(browser, "ann", viewport={"width": 1440, "height": 1000}, accept_downloads=True)
        page = context.new_page()
        page.goto(f"{app.url}/text")
        expect(page.get_by_text("No run on text yet")).to_be_visible(timeout=WAIT)
        page.get_by_role("link", name="New run on text").click()
        for title, path in (
            ("Training examples", train),
            ("Trusted examples", check),
            ("Language model", model),
        ):
            page.get_by_label(title, exact=True).fill(str(path))
            page.keyboard.press("Enter")
        expect(page.get_by_test_id("stMetric")).to_contain_text(["60", "2", "8"])
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_text("1 of 60")).to_be_visible(timeout=WAIT)
        page.get_by_role("combobox", name=re.compile("Trusted prompt")).click()
        page.get_by_role("option").nth(2).click()
        # Keys go to the search field until something else is clicked.
        page.get_by_text("The model, before training").click()
        app_root = page.get_by_test_id("stApp")
        expect(app_root).to_have_attribute("data-test-script-state", "notRunning", timeout=WAIT)
        names = []
        for place, key in ((1, "d"), (2, "k"), (3, "s")):
            said = page.get_by_text(re.compile(rf"^{place} of 60 · train"))
            expect(said).to_be_visible(timeout=WAIT)
            expect(app_root).to_have_attribute("data-test-script-state", "notRunning", timeout=WAIT)
            names.append(re.findall(r"train-\d+", said.inner_text())[0])
            page.keyboard.press(key)
        expect(page.get_by_text("Decided: 1 dropped, 1 kept, 1 skipped.")).to_be_visible(timeout=WAIT)
        page.keyboard.press("u")
        expect(page.get_by_text("Decided: 1 dropped, 1 kept.")).to_be_visible(timeout=WAIT)
        with page.expect_download() as download:
            page.get_by_role("button", name=re.compile("Cleaned examples")).click()
        rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert len(rows) == 59
        assert names[0] not in {row["id"] for row in rows}
        page.get_by_text("Your own", exact=True).click()
        page.get_by_label("Your prompt").fill(rows[5]["prompt"])
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_text("Influence is about what the model says")).to_be_visible(timeout=WAIT)
        expect(page.get_by_text(re.compile("^1 of 60 · train"))).to_be_visible(timeout=WAIT)
        context.close()
