"""The measures of checkpoints, of one run and over seeds."""

import numpy as np
import pandas as pd

from sharpeye.diagnostics.trajectories import mean_trajectory, trajectory

CHECKPOINTS = (("flat", 1), ("flat", 10), ("pretrain", 2))


def table(value: float, checkpoints: tuple[tuple[str, int], ...] = CHECKPOINTS) -> pd.DataFrame:
    rows = [
        {"figure": "trajectory", "phase": phase, "epoch": epoch, "name": name, "value": value + 10 * epoch}
        for phase, epoch in checkpoints
        for name in ("trace", "trace error")
    ]
    return pd.DataFrame(
        [*rows, {"figure": "landscape", "phase": "flat", "epoch": 1, "name": "risk", "value": 9}]
    )


def test_checkpoints_stand_in_the_order_of_training() -> None:
    rows = trajectory(table(1.0))
    assert rows[["phase", "epoch"]].to_numpy().tolist() == [["pretrain", 2], ["flat", 1], ["flat", 10]]
    assert rows["trace"].tolist() == [21, 11, 101]


def test_means_and_deviations_over_seeds_at_checkpoints_that_all_have() -> None:
    several = [trajectory(table(value)) for value in (1.0, 2.0, 6.0)]
    several.append(trajectory(table(3.0, CHECKPOINTS[1:])))
    rows = mean_trajectory(several)
    assert rows[["phase", "epoch"]].to_numpy().tolist() == [["pretrain", 2], ["flat", 10]]
    np.testing.assert_allclose(rows["trace"], [23, 103])
    np.testing.assert_allclose(rows["trace error"], np.std([1, 2, 6, 3], ddof=1))
