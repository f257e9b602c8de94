from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpeye.config import RunConfig
from sharpeye.runs.artifacts import cached, key_of
from sharpeye.runs.context import Execution, RunContext
from sharpeye.runs.workspace import open_workspace


@dataclass(frozen=True)
class Named:
    name: str
    note: str = ""

    def key(self) -> str:
        return self.name


@dataclass(frozen=True)
class Inputs:
    number: float
    images: Named
    values: np.ndarray
    nested: tuple[Named, ...] = ()
    choice: str | None = None


INPUTS = Inputs(1.0, Named("images"), np.arange(3))


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    execution = Execution(torch.device("cpu"), lambda step: None, lambda text: None)
    return RunContext(RunConfig.of("demo"), open_workspace(str(tmp_path)), execution)


def test_a_result_is_computed_once_for_equal_inputs(context: RunContext) -> None:
    computed: list[float] = []

    def compute(inputs: Inputs, execution: Execution) -> float:
        computed.append(inputs.number)
        return 2 * inputs.number

    def ask(inputs: Inputs) -> float:
        return cached(
            context,
            "double",
            inputs,
            compute,
            lambda result, path: path.write_text(str(result)) and None,
            lambda path: float(path.read_text()),
        )

    assert [ask(INPUTS), ask(INPUTS), ask(replace(INPUTS, number=3.0))] == [2.0, 2.0, 6.0]
    assert computed == [1.0, 3.0]
    assert len(list(context.workspace.artifacts.glob("double-*.safetensors"))) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(INPUTS, number=1.5),
        replace(INPUTS, images=Named("others")),
        replace(INPUTS, values=np.array([0, 1, 3])),
        replace(INPUTS, values=np.arange(3, dtype=np.float64)),
        replace(INPUTS, values=np.arange(3)[None]),
        replace(INPUTS, nested=(Named("images"),)),
        replace(INPUTS, choice="a"),
    ],
)
def test_every_field_of_the_inputs_is_a_part_of_the_key(other: Inputs) -> None:
    assert key_of(other) != key_of(INPUTS)


def test_what_says_itself_what_identifies_it_is_asked() -> None:
    assert key_of(replace(INPUTS, images=Named("images", "another note"))) == key_of(INPUTS)
    assert key_of(replace(INPUTS, values=np.arange(6)[::2] // 2)) == key_of(INPUTS)


def test_what_has_no_identity_cannot_be_an_input() -> None:
    for value, name in ((torch.nn.Linear(1, 1), "a network"), (object(), "object"), ({"a": 1}, "dict")):
        with pytest.raises(TypeError, match=f"{name} has no identity"):
            key_of((value,))


def test_a_result_that_could_not_be_written_is_not_there(context: RunContext) -> None:
    def fail(result: float, path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached(context, "broken", INPUTS, lambda inputs, execution: 1.0, fail, lambda path: 1.0)
    assert list(context.workspace.artifacts.glob("*")) == []
