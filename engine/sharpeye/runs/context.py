"""What every stage of a run is given, and what happens where memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from sharpeye.config import RunConfig
from sharpeye.errors import is_out_of_memory
from sharpeye.progress import Progress, Report
from sharpeye.runs.cluster import Cluster
from sharpeye.runs.workspace import Workspace

Note = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Execution:
    """How something is computed. Nothing in it decides what comes out.

    Attributes:
        device: where to compute.
        report: called with progress.
        note: called with what the user should know.
        cluster: on which shards are computed; None computes here.
    """

    device: torch.device
    report: Report
    note: Note
    cluster: Cluster | None = None

    def start(self, stage: str) -> None:
        """Report that a stage begins, which says nothing of its length."""
        self.report(Progress(stage, 0, 1, "step"))


@dataclass(frozen=True)
class RunContext:
    """What every stage of a run is given.

    Attributes:
        config: of the run.
        workspace: where artifacts are kept.
        execution: how they are computed.
    """

    config: RunConfig
    workspace: Workspace
    execution: Execution

    def within(self, stage: str, part: str = "") -> "RunContext":
        """The context for work that is a part of a larger stage, under whose name it reports."""
        prefix = f"{part}, " if part else ""

        def report(step: Progress) -> None:
            self.execution.report(replace(step, stage=stage, part=prefix + step.title))

        return replace(self, execution=replace(self.execution, report=report))


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
