"""Where tensors live and in which precision they are multiplied."""

import resource
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from engine.errors import InputError


def select_device(name: str) -> torch.device:
    """`auto` (cuda, else mps, else cpu) or a torch device name.

    Raises:
        InputError: the device is unknown or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return device


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the hardware multiplies bf16 natively; elsewhere a no-op."""
    if _has_native_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return False


def generator(seed: int, *parts: int, device: torch.device | None = None) -> torch.Generator:
    """A random stream for one place in a run, a function of the seed and of that place alone.

    Streams need no saved state: an epoch that is resumed draws what it would have drawn.
    """
    value = seed & 0xFFFFFFFF
    for part in parts:
        value = (value * 6364136223846793005 + part + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator(device or "cpu").manual_seed(value)
