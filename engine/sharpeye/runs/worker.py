"""The process that computes one run and then exits, which frees the device.

python -P -m sharpeye.runs.worker WORKSPACE RUN DEVICE
"""

import contextlib
import json
import logging
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from sharpeye.errors import InputError, is_disk_full, is_out_of_memory
from sharpeye.progress import Progress
from sharpeye.runs import store
from sharpeye.runs.doctor import artifact_damage
from sharpeye.runs.result import RunResult
from sharpeye.runs.text_result import TextResult
from sharpeye.runs.workspace import RunFolder, Workspace

BEAT_SECONDS = 0.5
# An earlier process of the same run may still be on its way out.
LOCK_SECONDS = 10.0


def main(workspace: Workspace, run: str, device: str) -> None:
    """Compute a run and record how it ended; returns at once where another process computes it."""
    folder = workspace.run(run)
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.lock, timeout=LOCK_SECONDS), store.store(workspace) as connection:
            row = store.get_run(connection, run)
            if row.state == "running":
                process = psutil.Process()
                store.set_process(connection, run, process.pid, process.create_time())
                compute(connection, workspace, row, device)
    except Timeout:
        return


def compute(connection: sqlite3.Connection, workspace: Workspace, row: store.RunRow, device: str) -> None:
    """Run the pipeline with signs of life, and translate what goes wrong into one sentence."""
    heart = Heart(workspace, row.id)
    heart.start()
    try:
        for damage in artifact_damage(workspace, whole=False):
            # What is cut off would end every try at the same place.
            heart.note(f"{damage.path.name} was damaged ({damage.reason}): it is made again.")
            if damage.mend is not None:
                damage.mend()
        result = execute(row, workspace, device, heart)
        heart.stop()
        store.finish(connection, row.id, "done", result=result)
    except BaseException as error:
        traceback.print_exc()
        heart.stop()
        if is_disk_full(error):
            workspace.reserve.unlink(missing_ok=True)
        exit_code = 2 if isinstance(error, InputError) else None
        store.finish(connection, row.id, "failed", sentence(error, workspace), exit_code=exit_code)


def execute(row: store.RunRow, workspace: Workspace, device: str, heart: "Heart") -> RunResult | TextResult:
    """Compute a run of either kind; each imports only what it needs."""
    if row.is_text:
        from sharpeye.runs.text_pipeline import execute_text

        return execute_text(row.text_config(), row, workspace, device, heart.report, heart.note)
    from sharpeye.runs.pipeline import execute

    return execute(row.run_config(), row, workspace, device, heart.report, heart.note)


def sentence(error: BaseException, workspace: Workspace) -> str:
    """What went wrong, and what to do, in one sentence."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, InputError):
        return text
    if is_disk_full(error):
        return f"The disk of {workspace.root} is full: make room there, then resume the run."
    if is_out_of_memory(error) and isinstance(error, ImportError):
        return "There is too little memory to load PyTorch: free some, then resume the run."
    if is_out_of_memory(error):
        return (
            "Memory ran out even with small batches: use a smaller --image-size, --model or --parameters, or "
            "free memory and resume."
        )
    if "CUDA error" in text or "CUDA driver" in text:
        return f"The GPU was lost ({text}): check it with nvidia-smi, then resume the run."
    return f"Unexpected {type(error).__name__}: {text}. The run's log has the details."


class Heart(threading.Thread):
    """Writes the latest progress to the store twice a second, and epochs and stages to events.jsonl."""

    def __init__(self, workspace: Workspace, run: str):
        super().__init__(daemon=True)
        self.workspace, self.run_id = workspace, run
        self.folder: RunFolder = workspace.run(run)
        self.latest: Progress | None = None
        self.recorded: tuple[str, int] | None = None
        self.stopping = threading.Event()
        self.process = psutil.Process()

    def run(self) -> None:
        with store.store(self.workspace) as connection:
            while not self.stopping.wait(BEAT_SECONDS):
                self._beat(connection)
            self._beat(connection)

    def stop(self) -> None:
        self.stopping.set()
        self.join()

    def report(self, progress: Progress) -> None:
        """Take note of progress; cheap enough for every step."""
        self.latest = replace(progress, memory_mb=round(self.process.memory_info().rss / 2**20, 1))
        place = (progress.title, progress.done if progress.unit == "epoch" else 0)
        if place != self.recorded:
            self.recorded = place
            self._event(asdict(self.latest))

    def note(self, text: str) -> None:
        """Tell the user something about this run."""
        self._event({"note": text})
        with contextlib.suppress(sqlite3.OperationalError), store.store(self.workspace) as connection:
            store.add_note(connection, self.run_id, text)

    def _event(self, content: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError), self.folder.events.open("a") as file:
            file.write(json.dumps({"at": time.time(), **content}) + "\n")

    def _beat(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(
            sqlite3.OperationalError
        ):  # a full disk must not end a run that may need none
            store.beat(connection, self.run_id, self.latest)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    main(Workspace(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
