"""From a configuration to a queued run, without torch: what can be checked at once is checked here.

    python -m sharpeye.runs.submission WORKSPACE < CONFIG.json

prints the id of the run; on bad input one line on stderr, with exit code 2.
"""

import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path

from sharpeye.config import (
    BUDGETS,
    CURVATURES,
    OPTIMIZERS,
    PARAMETERS,
    TUNES,
    VERSION,
    RunConfig,
    digest,
)
from sharpeye.data.dataset import natural_size
from sharpeye.data.load import fitted, open_training, open_validation
from sharpeye.data.records import Source
from sharpeye.data.tables import read_table
from sharpeye.errors import InputError
from sharpeye.influence.methods import select_methods
from sharpeye.runs.cluster import check_cluster
from sharpeye.runs.store import RunRow, register_dataset, store, submit
from sharpeye.runs.workspace import Workspace
from sharpeye.specs import TrustedList


def identify(config: RunConfig, sources: tuple[Source, Source | None]) -> tuple[str, str]:
    """Ids of a run and of its training data.

    Both change when a file of the sources changes, the first also with one of weights.

    Raises:
        InputError: a list of trusted or confirmed images cannot be read.
    """
    training, validation = sources
    dataset = digest(training.name, training.stamp)
    trusted: object = validation and [validation.name, validation.stamp]
    if isinstance(config.data.validation, TrustedList):
        trusted = read_table(Path(config.data.validation.path).expanduser())[0].to_csv()
    if config.data.confirmed is not None:
        trusted = [trusted, read_table(Path(config.data.confirmed).expanduser())[0].to_csv()]
    return digest(VERSION, config.options() | {"weights": config.weights_key}, dataset, trusted), dataset


def submit_run(connection: sqlite3.Connection, config: RunConfig) -> RunRow:
    """Check a configuration, register its data and queue the run.

    The run that exists where it was submitted before.

    Raises:
        InputError: an option that is unknown or does not fit the others, or a source that cannot be read.
    """
    for option, value, choices in (
        ("--tune", config.tune, (None, *TUNES)),
        ("--optimizer", config.optimizer, OPTIMIZERS),
        ("--curvature", config.curvature, CURVATURES),
        ("--parameters", config.parameters, PARAMETERS),
        ("--budget", config.budget, BUDGETS),
    ):
        if value not in choices:
            raise InputError(f"{option} {value}: choose from {', '.join(filter(None, choices))}")
    if config.cluster is not None:
        check_cluster(config.cluster)
    training = open_training(config.data)
    config = fitted(config, training, natural_size(training))
    select_methods(config)
    sources = training, open_validation(config.data, training)
    run, dataset = identify(config, sources)
    register_dataset(connection, dataset, str(config.data.train), asdict(config.data.options))
    return submit(connection, run, config, dataset)


if __name__ == "__main__":
    try:
        with store(Workspace(Path(sys.argv[1]))) as opened:
            print(submit_run(opened, RunConfig.from_json(sys.stdin.read())).id)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
