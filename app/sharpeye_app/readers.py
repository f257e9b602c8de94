"""What the pages read of the workspace that this app was started on. Never torch."""

import os
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from sharpeye.errors import InputError
from sharpeye.runs.result import read_result
from sharpeye.runs.review import Review, open_review
from sharpeye.runs.second_round import decided_labels
from sharpeye.runs.store import RunRow, get_run, list_runs, store
from sharpeye.runs.workspace import Workspace, open_workspace

WORKSPACE_VARIABLE = "SHARPEYE_WORKSPACE"


@lru_cache(maxsize=1)
def workspace() -> Workspace:
    """The workspace that this app was started on."""
    return open_workspace(os.environ[WORKSPACE_VARIABLE])


def all_runs() -> list[RunRow]:
    """Every run, the latest first."""
    with store(workspace()) as connection:
        return list_runs(connection)[::-1]


def reviewable_runs() -> list[RunRow]:
    """Runs on images that have scores, the latest first; some may still be drawing their map."""
    return [row for row in all_runs() if not row.is_text and workspace().run(row.id).result.exists()]


def text_runs() -> list[RunRow]:
    """Runs on text, the latest first."""
    return [row for row in all_runs() if row.is_text]


def runs_over_seeds(run: str) -> dict[int, RunRow]:
    """The runs with figures that differ from one at most in the seed, by seed; that one is among them."""

    def choices(row: RunRow) -> object:
        config = replace(row.run_config(), seed=0, methods=(), device="auto", cluster=None, figures=True)
        return row.dataset, config, read_result(workspace().run(row.id)).version

    rows = [row for row in reviewable_runs() if workspace().run(row.id).diagnostics.exists()]
    own = next(row for row in rows if row.id == run)
    wanted, alike = choices(own), {}
    for row in rows[::-1]:
        with suppress(InputError):  # of another version, or damaged
            if choices(row) == wanted:
                alike[row.run_config().seed] = row
    return dict(sorted((alike | {own.run_config().seed: own}).items()))


@lru_cache(maxsize=16)
def decided_count(opened: Workspace, run: str, head: int) -> int:
    """How many images of a run have a decided label, as of the last action on its data set, `head`."""
    with store(opened) as connection:
        return len(decided_labels(connection, workspace(), get_run(connection, run)))


def review(run: str) -> Review:
    """A run's scores with the decisions as they stand; raises InputError as `open_review` does."""
    return open_review(workspace(), run)
