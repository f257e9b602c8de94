"""A second run on the images that are left, with those that were decided as clean images."""

import json
import sqlite3
from dataclasses import replace

import pandas as pd

from sharpeye.config import RunConfig, digest
from sharpeye.data.splits import listed_labels
from sharpeye.files import replacing
from sharpeye.runs.decisions import current_decisions
from sharpeye.runs.store import RunRow
from sharpeye.runs.workspace import Workspace
from sharpeye.specs import NoValidation, TrustedList


def takes_decisions(config: RunConfig) -> bool:
    """Whether decided images can be clean images of a run like this one: they join its clean split, or where
    its images judge one another are that split."""
    return not isinstance(config.data.validation, NoValidation) or config.on_features


def decided_labels(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> pd.DataFrame:
    """The images of a run's data set whose label is decided, and those it trusted: columns id and label.

    Labels of classes that people added are left out: no model knows them yet.
    """
    made = current_decisions(connection, row.dataset)
    decided = made[made["to_label"].notna()][["image", "to_label"]].set_axis(["id", "label"], axis=1)
    names = connection.execute("SELECT class_names FROM datasets WHERE id = ?", (row.dataset,)).fetchone()[0]
    if names is not None:
        decided = decided[decided["label"].isin(json.loads(names))]
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
    if isinstance(config.data.validation, NoValidation | TrustedList):
        return replace(config, data=replace(config.data, validation=TrustedList(str(path))))
    return replace(config, data=replace(config.data, confirmed=str(path)))
