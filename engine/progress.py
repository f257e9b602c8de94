"""What a progress display needs to know, and the one on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a stage is; loss and images_per_second are of the epoch or stage so far."""

    stage: str
    done: int
    total: int
    unit: str
    loss: float | None
    images_per_second: float
    seconds_left: float


Report = Callable[[Progress], None]


def timed(report: Report, seconds: dict[str, float]) -> Report:
    """A report that also adds to `seconds`, stage by stage, how long each lasted from one report to the next."""
    last: list[tuple[str, float]] = []

    def told(step: Progress) -> None:
        now = time.monotonic()
        for stage, since in last:
            seconds[stage] = seconds.get(stage, 0.0) + now - since
        last[:] = [(step.stage, now)]
        report(step)

    return told


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Yield a report function that shows one bar a stage; where stderr is no terminal, one line a stage or epoch."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description:>20}"),
        rich.BarColumn(24),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[detail]}"),
        rich.TimeElapsedColumn(),
    )
    tasks: dict[str, rich.TaskID] = {}
    printed: dict[str, int] = {}
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def report(step: Progress) -> None:
            loss = "" if step.loss is None else f"loss {step.loss:.3f}, "
            detail = f"{loss}{step.images_per_second:,.0f} images/s, {step.seconds_left:.0f} s left"
            if console.is_terminal:
                if step.stage not in tasks:
                    for earlier in bars.tasks:
                        bars.update(earlier.id, completed=earlier.total)
                    tasks[step.stage] = bars.add_task(step.stage, total=step.total, detail="")
                bars.update(tasks[step.stage], completed=step.done, total=step.total, detail=detail)
            elif printed.get(step.stage) != step.done and (step.done == step.total or step.unit == "epoch"):
                console.print(f"{step.stage}: {step.done:,}/{step.total:,} {step.unit}s, {detail}", highlight=False)
                printed[step.stage] = step.done

        yield report
