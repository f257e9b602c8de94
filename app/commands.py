"""What the app asks of the engine's processes; nothing is computed here."""

import subprocess
import sys

from app.readers import workspace
from engine.config import RunConfig
from engine.errors import InputError
from engine.runs.supervisor import ensure_supervisor


def submit(config: RunConfig) -> str:
    """Queue a run in a process of its own, since reading some sources needs torch; the run's id.

    Raises:
        InputError: whatever is wrong with the configuration.
    """
    command = [sys.executable, "-m", "engine.runs.submission", str(workspace().root)]
    answer = subprocess.run(command, input=config.to_json(), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise InputError(answer.stderr.strip().splitlines()[-1] if answer.stderr.strip() else "the run could not be submitted")
    ensure_supervisor(workspace())
    return answer.stdout.strip()
