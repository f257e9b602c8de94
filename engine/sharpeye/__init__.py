"""Find wrong labels in image-classification training sets.

    import sharpeye

    run = sharpeye.run("photos/", validation="checked/")
    run.suspects(20)

Heavy packages, PyTorch among them, are imported only by the calls that need them.
"""

from sharpeye.api import (
    Run,
    RunFailed,
    TextRun,
    list_runs,
    noise_posterior,
    open_run,
    run,
    score,
    start,
    start_text,
)
from sharpeye.errors import InputError

__all__ = [
    "InputError",
    "Run",
    "RunFailed",
    "TextRun",
    "list_runs",
    "noise_posterior",
    "open_run",
    "run",
    "score",
    "start",
    "start_text",
]
