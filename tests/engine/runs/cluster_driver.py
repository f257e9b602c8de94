"""A process that has shards computed on a cluster, to be disturbed.

    python cluster_driver.py ADDRESS FOLDER ROWS

Every shard that a node computes is a line in FOLDER/log: the number of its first row, and the process.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpeye.runs.artifacts import save_npy
from sharpeye.runs.cluster import connected, remove_shards, shard_folder, sharded


@dataclass(frozen=True)
class Doubling:
    """Doubles row numbers, slowly."""

    folder: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.folder / "data",)

    def begin(self, device: object) -> Callable[[np.ndarray], np.ndarray]:
        def compute(rows: np.ndarray) -> np.ndarray:
            time.sleep(0.25)
            with (self.folder / "log").open("a") as log:
                log.write(f"{rows[0]} {os.getpid()}\n")
            return rows * 2.0

        return compute


def main(address: str, folder: Path, rows: int) -> None:
    doubled = folder / "doubled.npy"
    with connected(address, print) as cluster, shard_folder(doubled) as shards:
        # Ray has taken this signal over, and given it back.
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        parts = sharded(
            cluster, Doubling(folder), np.arange(rows), shards, save_npy, np.load, lambda done, total: None
        )
        save_npy(np.concatenate(list(parts)), doubled)
    remove_shards(doubled)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
