from pathlib import Path

import pytest

from sharpeye.runs import lesson
from sharpeye.runs.workspace import open_workspace


def test_the_experiment_measures_what_the_lesson_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lesson, "TRAINING_IMAGES", 240)
    monkeypatch.setattr(lesson, "VALIDATION_IMAGES", 120)
    workspace = open_workspace(str(tmp_path))
    assert lesson.read_lesson(workspace, "sam", 0.05) is None
    lesson.main(workspace, "sam", 0.05)
    report = lesson.read_lesson(workspace, "sam", 0.05)
    assert report is not None
    assert report.result is not None
    checkpoints = report.result.checkpoints
    assert [one.epoch for one in checkpoints] == [0, 1, 6, 10]
    assert all(0 <= auc <= 1 for one in checkpoints for auc in (one.new, one.classical))
    assert checkpoints[-1].risk < checkpoints[0].risk
    assert sum(report.result.histogram.wrong) == pytest.approx(1)
    noise = report.result.noise
    assert noise.risk[0] == pytest.approx(checkpoints[-1].risk)
    assert noise.risk[0] < noise.risk[-1]
    family = [member.ranking for member in report.result.family]
    assert family[0].auc == pytest.approx(report.result.with_leverage.auc)
    # Nearly the loss.
    assert family[-2].auc == pytest.approx(family[-1].auc, abs=0.01)
    assert {len(suspect.scores) for suspect in report.result.suspects} == {10}
    assert (workspace.decoded / report.result.decoded / "dataset.json").exists()
    assert len(report.result.without_leverage.rows) == len(report.result.without_leverage.wrong) == 12


def test_what_goes_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(lesson, "compute", fail)
    workspace = open_workspace(str(tmp_path))
    lesson.main(workspace, "erm", 0.0)
    report = lesson.read_lesson(workspace, "erm", 0.0)
    assert report is not None
    assert report.state == "failed"
    assert "MemoryError: none left" in report.message
