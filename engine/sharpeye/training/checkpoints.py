"""Checkpoints of a training: parameters, the optimizer's state and the epoch, in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sharpeye.files import replacing

MODEL, STATE = "model.", "state."


def save_checkpoint(
    path: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, epoch: int
) -> None:
    """Write a model's parameters and buffers by name, the optimizer's state, and how many epochs are done."""
    tensors = {MODEL + name: value for name, value in parameters.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{STATE}{index}.{name}": value for name, value in state.items() if value is not None}
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(held, temporary, metadata={"training": json.dumps({"epoch": epoch})})


def epochs_done(path: Path) -> int:
    """How many epochs a checkpoint holds; 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        done: int = json.loads(file.metadata()["training"])["epoch"]
    return done


def load_parameters(path: Path, device: torch.device) -> dict[str, Tensor]:
    """A model's parameters and buffers by name."""
    return _without(MODEL, load_file(path, str(device)))


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's state back; it takes what it wants to its parameters' device."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in _without(STATE, load_file(path)).items():
        index, name = key.split(".")
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
