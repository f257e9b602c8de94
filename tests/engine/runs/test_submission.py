import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sharpeye.config import RunConfig
from sharpeye.data.load import open_sources
from sharpeye.runs.submission import identify


def test_a_run_is_another_one_with_other_weights(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"first")
    plain = RunConfig.of(
        str(make_folder("train", 2)), validation=str(make_folder("check", 2)), methods=("fvm",)
    )
    config = replace(plain, weights=str(weights))

    def run(config: RunConfig) -> str:
        return identify(config, open_sources(config.data))[0]

    first = run(config)
    assert run(config) == first != run(plain)
    weights.write_bytes(b"other")
    os.utime(weights, (1, 1))
    assert run(config) != first
