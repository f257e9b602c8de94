"""How processes of this package are started: one place, so that none of them takes code from the current
folder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

# Threads that wait for one another spin by default. Where other processes want the same cores, that slows
# training down ten times; sleeping instead costs a quiet machine a twentieth.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this installation.

    With -P Python leaves the current folder out of its path, where a file `torch.py` or `app.py` of the user
    may lie.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def start_detached(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a process that outlives this one, with its output appended to `log`.

    Where it ends before this process does, a thread collects its exit status, so that no zombie is left.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=WAITING | os.environ,
        )
    threading.Thread(target=child.wait, name=f"wait for {child.pid}", daemon=True).start()
    return child
