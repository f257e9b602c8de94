"""What was measured at the checkpoints of training, one row a checkpoint, of one run or over seeds. Never
torch."""

from collections.abc import Sequence

import pandas as pd

PHASES = ("pretrain", "erm", "flat")


def trajectory(table: pd.DataFrame) -> pd.DataFrame:
    """One row a checkpoint, in the order of training: `phase`, `epoch` and every measure.

    Args:
        table: of `sharpeye.diagnostics.checkpoints`.
    """
    rows = table[table["figure"] == "trajectory"]
    result = rows.pivot_table(index=["phase", "epoch"], columns="name", values="value").reset_index()
    return result.sort_values(
        ["phase", "epoch"], key=lambda c: c.map(PHASES.index) if c.name == "phase" else c, ignore_index=True
    )


def mean_trajectory(trajectories: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean over seeds of each measure that all have, at the checkpoints that all have.

    `NAME error` beside each is the standard deviation over seeds, in place of the error of one estimate.

    Args:
        trajectories: at least two.
    """
    known = [name for name in map(str, trajectories[0]) if not name.endswith(" error")]
    measures = [name for name in known if all(name in one for one in trajectories)]
    groups = pd.concat([one[measures] for one in trajectories]).groupby(["phase", "epoch"], sort=False)
    shared = (groups.size() == len(trajectories)).to_numpy()
    mean, deviation = groups.mean(), groups.std().add_suffix(" error")
    return pd.concat([mean, deviation], axis=1)[shared].reset_index()
