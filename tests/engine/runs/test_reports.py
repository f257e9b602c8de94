"""A report's process goes after runs."""

import os
from pathlib import Path

import pytest

from sharpeye.runs import reports
from sharpeye.runs.workspace import ReportFolder


def test_a_report_has_a_lower_priority_within_its_session_and_among_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(command: list[str], log: Path) -> object:
        started.append(reports_start(["sleep", "60"], log))
        return started[0]

    reports_start = reports.start_detached
    monkeypatch.setattr(reports, "start_detached", start)
    (tmp_path / "report").mkdir()
    reports.start_report(ReportFolder(tmp_path / "report"), "nothing")
    [child] = started
    try:
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == reports.LOWER_PRIORITY
        group = Path(f"/proc/{child.pid}/autogroup")
        if group.exists():
            assert f"nice {reports.LOWER_PRIORITY}" in group.read_text()
            assert group.read_text() != Path("/proc/self/autogroup").read_text()
    finally:
        child.kill()
        child.wait()
