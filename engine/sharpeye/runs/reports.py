"""Reports that a process of its own computes for a page: it writes how far it is, then the result or what
went wrong."""

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
from filelock import FileLock, Timeout

from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.processes import module_command, start_detached
from sharpeye.runs.workspace import ReportFolder, is_held

# Progress is written at most as often as this.
WRITE_SECONDS = 0.3
START_SECONDS = 20.0
# As of nice(1).
LOWER_PRIORITY = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Report(Generic[T]):
    """How far a report is.

    Attributes:
        state: what its process is doing.
        started: when it was started, in seconds since the epoch.
        stage: what is computed now, while it runs.
        done: units done of that.
        total: units in all, 0 where that is unknown.
        message: what went wrong, where it failed.
        result: what it computed, where it is done.
    """

    state: Literal["running", "done", "failed"]
    started: float
    stage: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    result: T | None = None


Advance = Callable[[str, int, int], None]


def start_report(folder: ReportFolder, module: str, *arguments: str) -> None:
    """Start the process that computes a report, `python -P -m MODULE ARGUMENTS`; runs go before it."""
    _write(folder, Report("running", time.time(), "start"))
    child = start_detached(module_command(module, *arguments), folder.log)
    with contextlib.suppress(OSError):  # it may have ended already
        os.setpriority(os.PRIO_PROCESS, child.pid, LOWER_PRIORITY)
        # Where Linux shares processors among sessions first, a priority counts within the session alone.
        Path(f"/proc/{child.pid}/autogroup").write_text(str(LOWER_PRIORITY))


def read_report(folder: ReportFolder, kind: type[T]) -> Report[T] | None:
    """A report as it stands; None where there is none that this version can read.

    Args:
        folder: of the report.
        kind: type of its result.
    """
    report = _read(folder, kind)
    if report is None or report.state != "running":
        return report
    if time.time() - report.started > START_SECONDS and not is_held(folder.lock):
        report = _read(folder, kind)  # it may have ended since it was read
        if report is not None and report.state == "running":
            return replace(report, state="failed", message="The computation was cut off: start it again.")
    return report


def write_report(folder: ReportFolder, compute: Callable[[Advance], T]) -> None:
    """Compute a report and write it; returns at once where another process does.

    Args:
        folder: of the report.
        compute: called with a function that takes the stage, the units done and the units in all.
    """
    started, written = time.time(), 0.0

    def advance(stage: str, done: int, total: int) -> None:
        nonlocal written
        if done == 0 or time.monotonic() - written > WRITE_SECONDS:
            written = time.monotonic()
            _write(folder, Report("running", started, stage, done, total))

    try:
        with FileLock(folder.lock, timeout=0):
            try:
                _write(folder, Report("done", started, result=compute(advance)))
            except InputError as error:
                _write(folder, Report("failed", started, message=str(error)))
            except Exception as error:  # whatever it was, the page says so
                traceback.print_exc()
                message = f"Unexpected {type(error).__name__}: {error}. Details are in {folder.log}."
                _write(folder, Report("failed", started, message=message))
    except Timeout:
        return


def _read(folder: ReportFolder, kind: type[T]) -> Report[T] | None:
    try:
        return msgspec.json.decode(folder.report.read_bytes(), type=Report[kind])  # type: ignore[valid-type]
    except (OSError, msgspec.MsgspecError):
        return None


def _write(folder: ReportFolder, report: Report[T]) -> None:
    with replacing(folder.report) as temporary:
        temporary.write_bytes(msgspec.json.encode(report))
