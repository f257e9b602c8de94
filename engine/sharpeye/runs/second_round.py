"""A second run on the images that are left, with those that were decided as its clean validation split."""

import sqlite3
from dataclasses import replace

import pandas as pd

from sharpeye.config import RunConfig, digest
from sharpeye.data.splits import listed_labels
from sharpeye.files import replacing
from sharpeye.runs.decisions import VERDICTS, current_decisions
from sharpeye.runs.store import RunRow
from sharpeye.runs.workspace import Workspace
from sharpeye.specs import NoValidation, TrustedList


def takes_decisions(config: RunConfig) -> bool:
    """Whether decided images can become the clean split of a run like this one: its images judge one another,
    and it has no other split."""
    return config.on_features and isinstance(config.data.validation, NoValidation | TrustedList)


def decided_labels(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> pd.DataFrame:
    """The images of a run's data set whose label is decided, and those it trusted: columns id and label."""
    made = current_decisions(connection, row.dataset)
    gives = made["verdict"].map({name: verdict.gives != "none" for name, verdict in VERDICTS.items()})
    decided = made[gives.astype(bool)][["image", "to_label"]].set_axis(["id", "label"], axis=1)
    if (trusted := workspace.run(row.id).trusted).exists():
        decided = pd.concat([listed_labels(trusted).reset_index(), decided])
    return decided.drop_duplicates("id", keep="last").sort_values("id", ignore_index=True)


def second_round(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> RunConfig:
    """The configuration of a run like `row` that trusts what is decided by now; the list is kept in the
    workspace."""
    labels = decided_labels(connection, workspace, row)
    path = workspace.trusted_list(digest(labels.to_numpy().tolist()))
    with replacing(path) as temporary:
        labels.to_csv(temporary, index=False)
    config = row.run_config()
    return replace(config, data=replace(config.data, validation=TrustedList(str(path))))
