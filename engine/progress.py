"""Progress bars on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from engine.training.trainer import Progress as Step
    from engine.training.trainer import Report


@contextmanager
def progress_bars() -> Iterator["Report"]:
    """Yield a report function that shows one bar a stage; where stderr is no terminal, one line a stage or epoch."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>20}"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn(),
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    printed: dict[str, int] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def report(step: "Step") -> None:
            loss = "" if step.loss is None else f"loss {step.loss:.3f}, "
            detail = f"{loss}{step.images_per_second:,.0f} images/s, {step.seconds_left:.0f} s left"
            if console.is_terminal:
                task = tasks.setdefault(step.stage, TaskID(-1))
                if task == -1:
                    task = tasks[step.stage] = bars.add_task(step.stage, total=step.total, detail="")
                bars.update(task, completed=step.done, total=step.total, detail=detail)
            elif step.done == step.total or (step.unit == "epoch" and printed.get(step.stage) != step.done):
                if printed.get(step.stage) != step.done:
                    console.print(f"{step.stage}: {step.done:,}/{step.total:,} {step.unit}s, {detail}", highlight=False)
                printed[step.stage] = step.done

        yield report
