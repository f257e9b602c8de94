"""Whether a language model fits into memory, before it is loaded."""

from math import prod
from pathlib import Path

import psutil
import torch
from safetensors import safe_open

from sharpeye.errors import InputError

# Weights in float32, and once more while they are put together.
BYTES_A_WEIGHT = 8


def weight_count(model: Path) -> int | None:
    """Weights in a .gguf file, or in the safetensors of a folder; None for anything else."""
    if model.suffix == ".gguf":
        from gguf import GGUFReader

        return sum(int(tensor.n_elements) for tensor in GGUFReader(str(model)).tensors)
    if not model.is_dir():
        return None
    count = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count


def check_memory(path: str, device: torch.device) -> None:
    """Refuse a model that cannot fit.

    Args:
        path: of the model, as the user gave it; a name of Hugging Face is not checked.
        device: that it is loaded to.

    Raises:
        InputError: its weights take more than is free.
    """
    count = weight_count(Path(path).expanduser())
    if count is None:
        return
    free = float(psutil.virtual_memory().available)
    if device.type == "cuda":
        free = min(free, float(torch.cuda.mem_get_info(device)[0]))
    needed = BYTES_A_WEIGHT * count
    if needed > free:
        raise InputError(
            f"--model {path}: {count:,} weights take about {needed / 1e9:.1f} GB of memory to load, and "
            f"{free / 1e9:.1f} GB are free: choose a smaller model, or free some"
        )
