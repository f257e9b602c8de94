from pathlib import Path

import pytest

from engine.diagnostics import lesson
from engine.runs.workspace import open_workspace


def test_the_experiment_measures_what_the_lesson_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesson, "TRAINING_IMAGES", 240)
    monkeypatch.setattr(lesson, "VALIDATION_IMAGES", 120)
    workspace = open_workspace(str(tmp_path))
    assert lesson.read_lesson(workspace, "sam", 0.05) is None
    lesson.main(workspace, "sam", 0.05)
    found = lesson.read_lesson(workspace, "sam", 0.05)
    assert found is not None
    assert [one["epoch"] for one in found["checkpoints"]] == [0, 1, 6, 10]
    assert all(0 <= one[name] <= 1 for one in found["checkpoints"] for name in ("new", "classical"))
    assert found["checkpoints"][-1]["risk"] < found["checkpoints"][0]["risk"]
    assert sum(found["histogram"]["wrong"]) == pytest.approx(1)
    assert len(found["slice"]["x"]) == len(found["slice"]["risk"]) == 21
    assert {len(suspect["scores"]) for suspect in found["suspects"]} == {10}
    assert (workspace.decoded / found["decoded"] / "dataset.json").exists()
    assert len(found["leverage"]["without"]["rows"]) == len(found["leverage"]["without"]["wrong"]) == 12


def test_what_goes_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(lesson, "compute", fail)
    workspace = open_workspace(str(tmp_path))
    lesson.main(workspace, "erm", 0.0)
    assert lesson.read_lesson(workspace, "erm", 0.0) == {"error": "MemoryError: none left"}
