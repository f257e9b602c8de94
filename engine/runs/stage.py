"""What every stage of a run shares: its surroundings, its progress, and what to do where memory runs out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from engine.config import RunConfig
from engine.errors import is_out_of_memory
from engine.progress import Progress, Report
from engine.runs.workspace import Workspace

Note = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What every stage needs to know about its run.

    Attributes:
        config: of the run.
        workspace: where artifacts are kept.
        device: where to compute.
        report: called as the stage goes on.
        note: called with what the user should know.
    """

    config: RunConfig
    workspace: Workspace
    device: torch.device
    report: Report
    note: Note

    def within(self, larger: str) -> "Stage":
        """This stage as a part of a larger one, whose name its progress bears."""
        return replace(self, report=lambda step: self.report(replace(step, stage=f"{larger}: {step.stage}")))


def with_smaller_batches(action: Callable[[int], T], note: Note) -> T:
    """Call `action` with a batch divisor of 1; where memory runs out, with 2, 4 and at last 8."""
    for divisor in (1, 2, 4):
        try:
            return action(divisor)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        note(f"Memory ran out: the stage was tried again with batches 1/{2 * divisor} of the usual size.")
    return action(8)


def image_report(title: str, report: Report) -> Callable[[int, int], None]:
    """A report of (images done, images in all), told as progress of a stage."""
    started = time.monotonic()

    def told(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        report(Progress(title, done, total, "image", None, rate, (total - done) / max(rate, 1e-9)))

    return told
