"""Results that runs share: computed once for each set of inputs, and read from disk after that."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from safetensors.numpy import load_file, save_file
from torch import nn

from sharpeye.config import VERSION, digest
from sharpeye.files import replacing
from sharpeye.runs.context import Execution
from sharpeye.runs.workspace import Workspace

Inputs = TypeVar("Inputs")
Result = TypeVar("Result")


@runtime_checkable
class Identified(Protocol):
    """Something that says itself what identifies it, such as images or a trained network."""

    def key(self) -> str: ...


class Computing(Protocol):
    """Where artifacts are kept, and how they are computed: of a run on images or on text."""

    @property
    def workspace(self) -> Workspace: ...

    @property
    def execution(self) -> Execution: ...


def cached(
    context: Computing,
    name: str,
    inputs: Inputs,
    compute: Callable[[Inputs, Execution], Result],
    save: Callable[[Result, Path], None],
    load: Callable[[Path], Result],
    suffix: str = ".safetensors",
) -> Result:
    """The result of `compute(inputs, execution)`: read from the workspace where it is there, else computed
    and written.

    Args:
        context: of the run; `compute` sees only its execution.
        name: of the artifact.
        inputs: a frozen dataclass. All of it is hashed, and nothing else reaches `compute`, so that no choice
            that decides the result can be left out of the key.
        compute: makes the result.
        save: writes a result to a path.
        load: reads it back.
        suffix: of the file.
    """
    path = artifact_path(context, name, inputs, suffix)
    if not path.exists():
        result = compute(inputs, context.execution)
        with replacing(path) as temporary:
            save(result, temporary)
    # So that what is still read is not old, see `sharpeye.runs.cleaning`.
    os.utime(path)
    return load(path)


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a result that is one array."""
    save_file({"array": array}, path)


def load_array(path: Path) -> np.ndarray:
    """Read what `save_array` wrote."""
    return load_file(path)["array"]


def save_npy(array: np.ndarray, path: Path) -> None:
    """Write an array, or a table of records, that `np.load` reads and maps."""
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def artifact_path(context: Computing, name: str, inputs: object, suffix: str = ".safetensors") -> Path:
    """Where the artifact of some inputs is kept."""
    return context.workspace.artifact(name.replace(" ", "-"), key_of(inputs), suffix)


def key_of(inputs: object) -> str:
    """What identifies inputs: a digest of all fields of a frozen dataclass, and of the version of this
    program.

    Raises:
        TypeError: a field is of a type that has no identity.
    """
    return digest(VERSION, type(inputs).__name__, identity(inputs))


def identity(value: object) -> object:
    """A JSON value that is equal for equal values, and only for these."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Identified):
        return value.key()
    if isinstance(value, np.ndarray):
        content = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16).hexdigest()
        return [str(value.dtype), list(value.shape), content]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: identity(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    kind = "a network" if isinstance(value, nn.Module) else type(value).__name__
    raise TypeError(f"{kind} has no identity: give it a method key(), or leave it out of the inputs")
