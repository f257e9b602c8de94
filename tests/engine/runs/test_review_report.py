import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from sharpeye.commands.cli import main
from sharpeye.runs import team
from sharpeye.runs.decisions import Decision, decide
from sharpeye.runs.review_report import review_report
from sharpeye.runs.store import get_run, store
from sharpeye.runs.workspace import Workspace
from tests.app.synthetic import synthetic_workspace


@pytest.fixture
def reviewed(tmp_path: Path) -> tuple[Workspace, str]:
    return synthetic_workspace(tmp_path / "synthetic", 60)


class Tags(HTMLParser):
    """Whether every tag that is opened is closed, and what leads outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.outside += [
            value
            for name, value in attributes
            if name in ("src", "href") and not str(value).startswith("data:")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_holds_what_was_decided(
    reviewed: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace, run = reviewed
    with store(workspace) as connection:
        row = get_run(connection, run)
        first, second, third = (f"image-{number:07d}.png" for number in range(3))
        scores = {image: f"class {number}" for number, image in enumerate((first, second, third))}
        decide(
            connection,
            "dataset",
            run,
            "ann",
            [Decision(first, "relabel", scores[first], "<b>9</b>", "a & b")],
        )
        decide(connection, "dataset", run, "ann", [Decision(second, "bad image", scores[second], None)])
        decide(connection, "dataset", run, "bob", [Decision(first, "skip", scores[first], None)], blind=True)
        decide(connection, "dataset", run, "bob", [Decision(second, "keep", "x", "x")], blind=True)
        team.join(connection, "ann")
        page = review_report(connection, workspace, row)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.outside == []
    assert page.count("data:image/png;base64,") == 2
    # Names are text, never tags.
    assert "&lt;b&gt;9&lt;/b&gt;" in page
    assert "a &amp; b" in page
    assert "Of 1 images with a blind second opinion, 0 % were labelled alike" in page
    assert re.search(r"<dt>decided</dt><dd>2</dd>", page)
    out = tmp_path / "out" / "report.html"
    outcome = CliRunner().invoke(
        main, ["report", run[:4], "--out", str(out), "--workspace", str(workspace.root)]
    )
    assert outcome.exit_code == 0, outcome.output
    assert out.read_text().startswith("<!doctype html>")


def test_a_report_before_anything_is_decided(reviewed: tuple[Workspace, str]) -> None:
    workspace, run = reviewed
    with store(workspace) as connection:
        page = review_report(connection, workspace, get_run(connection, run))
    assert "Labels that change" not in page
    assert "Among the 60 images" in page
