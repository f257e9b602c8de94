import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpeye.commands.photographs import Row, markdown
from sharpeye.config import DEFAULT_METHODS
from tests.engine.commands.test_cli import sharpeye
from tests.engine.data.scenes import enlarge

BASELINES = {
    "cleanlab self confidence",
    "cleanlab normalized margin",
    "cleanlab confidence weighted entropy",
    "kNN",
}


@pytest.fixture
def photographs(make_folder: Callable[..., Path]) -> Callable[..., Path]:
    """Folders of 36 images larger than icons."""

    def make(name: str, wrong: int = 0) -> Path:
        folder = make_folder(name, 12, wrong=wrong, seed=1)
        enlarge(folder)
        return folder

    return make


def rows_of(*arguments: object) -> list[Row]:
    outcome = sharpeye("bench", *arguments, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    return [Row(**row) for row in json.loads(outcome.stdout.splitlines()[-1])]


def test_changed_labels_are_found_beside_the_baselines(
    photographs: Callable[..., Path], tmp_path: Path
) -> None:
    data = photographs("clean")
    rows = rows_of("photos", "--data", data, "--noise", 0.2, "--workspace", tmp_path / "ws")
    assert {row.setting for row in rows} == {"0.2 wrong, seed 0"}
    assert {row.method for row in rows} == {*DEFAULT_METHODS, *BASELINES}
    figures = {row.method: row.figures for row in rows}
    assert [row.method for row in rows if row.ranks] == [DEFAULT_METHODS[0]]
    assert figures[DEFAULT_METHODS[0]]["AUC"] > 80
    # As many are right as were given: a fifth was changed.
    assert figures[DEFAULT_METHODS[0]]["suggestions right"] >= 80
    count = figures[DEFAULT_METHODS[0]]
    assert count["wrong"] == 7
    assert count["from"] <= count["expected wrong"] <= count["to"]
    table = markdown(rows).splitlines()
    columns = "AUC | AP | suggestions right | wrong | expected wrong | from | to | seconds"
    assert table[0] == f"| labels | method | {columns} |"
    assert all(line.count("|") == 11 for line in table)


def test_relabellings_that_two_people_agree_on_are_looked_for(
    photographs: Callable[..., Path], tmp_path: Path
) -> None:
    wrong, right = photographs("wrong", wrong=2), photographs("right")
    rows = rows_of("roman", "--data", wrong, "--corrected", right, right, "--workspace", tmp_path / "ws")
    assert {row.setting for row in rows} == {"6 relabelled, seed 0"}
    assert {row.method for row in rows} == {*DEFAULT_METHODS, *BASELINES}
    # There are fewer images than the first cut.
    assert all(row.figures["in the first 50"] == 6 for row in rows)
    none = sharpeye("bench", "roman", "--data", right, "--corrected", right, right)
    assert none.exit_code == 2
    assert "there is no image whose label both folders change alike" in none.stderr
