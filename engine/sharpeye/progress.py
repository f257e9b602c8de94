"""What a progress display needs to know, and the one on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: its name, one of `sharpeye.runs.stages.stages_of`.
        done: units done.
        total: units in all.
        unit: what is counted, in the singular.
        loss: mean of the epoch so far, or None.
        images_per_second: of the stage so far.
        seconds_left: in this stage.
        part: name of the part of the stage that is at work, or empty.
        memory_mb: resident memory of the process, or None.
        item: what the speed counts, in the singular.
    """

    stage: str
    done: int
    total: int
    unit: str
    loss: float | None = None
    images_per_second: float = 0.0
    seconds_left: float = 0.0
    part: str = ""
    memory_mb: float | None = None
    item: str = "image"

    @property
    def title(self) -> str:
        """The stage, and the part of it that is at work."""
        return f"{self.stage}: {self.part}" if self.part else self.stage


Report = Callable[[Progress], None]
ImageReport = Callable[[int, int], None]


def ignore(step: Progress) -> None:
    """A report that nobody reads."""


def timed(report: Report, seconds: dict[str, float]) -> Report:
    """A report that also adds up in `seconds` how long each stage lasted, from one report to the next."""
    last: list[tuple[str, float]] = []

    def report_and_time(step: Progress) -> None:
        now = time.monotonic()
        for stage, since in last:
            seconds[stage] = seconds.get(stage, 0.0) + now - since
        last[:] = [(step.stage, now)]
        report(step)

    return report_and_time


def image_report(stage: str, report: Report, unit: str = "image", before: int = 0) -> ImageReport:
    """A report of (images done, images in all), or of another unit, as the progress of a stage.

    Those done `before` it began do not count in its speed.
    """
    started = time.monotonic()

    def report_images(done: int, total: int) -> None:
        rate = (done - before) / max(time.monotonic() - started, 1e-9)
        report(Progress(stage, done, total, unit, None, rate, (total - done) / max(rate, 1e-9)))

    return report_images


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Yield a report function that shows one bar a stage.

    Where stderr is no terminal, one line a stage or epoch.
    """
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
            detail = f"{loss}{step.images_per_second:,.3g} {step.item}s/s, {step.seconds_left:.0f} s left"
            if console.is_terminal:
                if step.title not in tasks:
                    for earlier in bars.tasks:
                        bars.update(earlier.id, completed=earlier.total)
                    tasks[step.title] = bars.add_task(step.title, total=step.total, detail="")
                bars.update(tasks[step.title], completed=step.done, total=step.total, detail=detail)
            elif printed.get(step.title) != step.done and (step.done == step.total or step.unit == "epoch"):
                line = f"{step.title}: {step.done:,}/{step.total:,} {step.unit}s, {detail}"
                console.print(line, highlight=False)
                printed[step.title] = step.done

        yield report
