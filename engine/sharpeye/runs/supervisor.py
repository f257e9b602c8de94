"""The supervisor: starts one detached process a run, one run at a time on each device, and notices when one
dies.

    python -P -m sharpeye.runs.supervisor WORKSPACE

There is at most one for a workspace. It exits when nothing has been queued or running for a while.
"""

import functools
import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from sharpeye.files import sweep
from sharpeye.processes import module_command, start_detached
from sharpeye.runs import store
from sharpeye.runs.backups import back_up
from sharpeye.runs.workspace import Workspace, is_held, keep_reserve

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
IDLE_SECONDS = 5.0
START_SECONDS = 20.0
KILL_AFTER_SECONDS = 2.0
DEATHS_ALLOWED = 5
ASK_SECONDS = 60.0
# Clients hold the lock for a moment to see whether a supervisor is at work.
LOCK_SECONDS = 1.0


def ensure_supervisor(workspace: Workspace) -> None:
    """Start a detached supervisor unless one is at work."""
    if is_held(workspace.supervisor_lock):
        return
    start_detached(module_command("sharpeye.runs.supervisor", str(workspace.root)), workspace.supervisor_log)


def supervise(workspace: Workspace, keep_going: Callable[[bool], bool]) -> None:
    """Work off the queue while `keep_going(busy)` says so.

    Returns at once where another supervisor is at work.
    """
    try:
        with FileLock(workspace.supervisor_lock, timeout=LOCK_SECONDS), store.store(workspace) as connection:
            for folder in workspace.folders:
                sweep(folder)
            busy = True
            while keep_going(busy):
                try:
                    back_up(connection, workspace)
                    busy = tick(connection, workspace)
                except (sqlite3.OperationalError, OSError) as error:
                    # A full disk, say: what is on disk stays, and room may be made.
                    log.warning("store: %s", error)
                time.sleep(TICK_SECONDS)
    except Timeout:
        return


def tick(connection: sqlite3.Connection, workspace: Workspace) -> bool:
    """Check running runs and start queued ones; returns whether there are any."""
    for row in store.runs_in(connection, "running"):
        process = process_of(row, workspace)
        if process is not None:
            if row.cancel_requested is not None:
                waited = time.time() - row.cancel_requested
                process.kill() if waited > KILL_AFTER_SECONDS else process.terminate()
        elif row.pid is not None or time.time() - (row.heartbeat or 0) > START_SECONDS:
            store.orphan(connection, row.id, DEATHS_ALLOWED)
    taken = {row.device for row in store.runs_in(connection, "running")}
    for row in store.runs_in(connection, "queued"):
        device = free_device(row.device_wanted, taken)
        if device is not None and store.claim(connection, row.id, device):
            taken.add(device)
            keep_reserve(workspace)
            start(workspace, row.id, device, connection)
    return bool(taken) or bool(store.runs_in(connection, "queued"))


def start(workspace: Workspace, run: str, device: str, connection: sqlite3.Connection) -> None:
    """Start a run's process, detached, its output going to the run's log."""
    command = module_command("sharpeye.runs.worker", str(workspace.root), run, device)
    child = start_detached(command, workspace.run(run).log)
    store.set_process(connection, run, child.pid, psutil.Process(child.pid).create_time())


def process_of(row: store.RunRow, workspace: Workspace) -> psutil.Process | None:
    """The living process that computes a run.

    None where it is gone or its number belongs to another one now.
    """
    if row.pid is None or row.pid_started is None:
        return None
    try:
        process = psutil.Process(row.pid)
        # When a process started is counted back from the clock, and moves with it; its lock does not.
        same = abs(process.create_time() - row.pid_started) < 1 or is_held(workspace.run(row.id).lock)
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def free_device(wanted: str, taken: set[str | None]) -> str | None:
    """The device a run would compute on, or None while that is taken.

    `auto` takes any free GPU where there are some.
    """
    gpus = [f"cuda:{number}" for number in range(gpu_count())]
    if wanted == "auto" and gpus:
        return next((gpu for gpu in gpus if gpu not in taken), None)
    device = "cuda:0" if wanted == "cuda" else wanted
    return None if device in taken or (device in ("auto", "cpu") and taken & {"auto", "cpu"}) else device


@functools.cache
def gpu_count() -> int:
    """GPUs that PyTorch can use; asked in a process of its own, so that the supervisor holds no GPU
    memory."""
    if shutil.which("nvidia-smi") is None:
        return 0
    question = "import torch; print(torch.cuda.is_available() and torch.cuda.device_count() or 0)"
    command = [sys.executable, "-P", "-c", question]
    try:
        return int(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_SECONDS).stdout
        )
    except (subprocess.SubprocessError, ValueError) as error:
        log.warning("no GPU is used: PyTorch cannot say how many there are (%s)", error)
        return 0


def until_idle() -> Callable[[bool], bool]:
    """A `keep_going` that ends after IDLE_SECONDS without work."""
    last = time.monotonic()

    def keep_going(busy: bool) -> bool:
        nonlocal last
        if busy:
            last = time.monotonic()
        return time.monotonic() - last < IDLE_SECONDS

    return keep_going


if __name__ == "__main__":
    supervise(Workspace(Path(sys.argv[1])), until_idle())
