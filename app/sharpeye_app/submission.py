"""Starting runs from pages; nothing is computed in the app."""

import subprocess

from sharpeye.config import RunConfig
from sharpeye.errors import InputError
from sharpeye.processes import module_command
from sharpeye.runs import text_submission
from sharpeye.runs.inspection import start_inspection
from sharpeye.runs.store import store
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.text.config import TextConfig
from sharpeye_app.readers import workspace
from sharpeye_app.roots import check_config, check_place


def inspect(config: RunConfig) -> str:
    """Start to inspect a data set; the key of its report.

    Raises:
        InputError: it lies outside of the roots.
    """
    check_config(config)
    return start_inspection(workspace(), config)


def submit_text(config: TextConfig) -> str:
    """Queue a run on text; its id.

    Raises:
        InputError: whatever is wrong with the configuration, or it lies outside of the roots.
    """
    for place in (config.train, config.model, *(() if config.shared else (config.validation,))):
        check_place(place)
    with store(workspace()) as connection:
        run = text_submission.submit_text(connection, config).id
    ensure_supervisor(workspace())
    return run


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
