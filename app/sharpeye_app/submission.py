"""Starting runs from pages; nothing is computed in the app."""

import subprocess

from sharpeye.config import RunConfig
from sharpeye.errors import InputError
from sharpeye.processes import module_command
from sharpeye.runs.inspection import start_inspection
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye_app.readers import workspace
from sharpeye_app.roots import check_config


def inspect(config: RunConfig) -> str:
    """Start to inspect a data set; the key of its report.

    Raises:
        InputError: it lies outside of the roots.
    """
    check_config(config)
    return start_inspection(workspace(), config)


def submit(config: RunConfig) -> str:
    """Queue a run in a process of its own, since reading some sources needs torch; the run's id.

    Raises:
        InputError: whatever is wrong with the configuration.
    """
    check_config(config)
    command = module_command("sharpeye.runs.submission", str(workspace().root))
    answer = subprocess.run(command, input=config.to_json(), capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        raise InputError(lines[-1] if lines else "the run could not be submitted")
    ensure_supervisor(workspace())
    return answer.stdout.strip()
