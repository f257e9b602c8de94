"""Where tensors live and in which precision they are multiplied."""

import ctypes
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import psutil
import torch
from joblib import cpu_count
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpeye.errors import InputError

MEMORY_INTERVAL = 0.05


def select_device(name: str) -> torch.device:
    """`auto` (cuda, else mps, else cpu) or a torch device name.

    PyTorch gets no more threads than this process may use cores, where a container's quota counts too.

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
    torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))
    return device


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def return_free_memory() -> None:
    """Give back to the system what is free, but kept by the C library for later; where it knows how to."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def one_thread_a_worker(device: torch.device) -> Iterator[int]:
    """Yield the number of threads, as one of workers, who on the CPU have one thread each in the block.

    Threads that share a batch would wait for each other at every layer.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@contextmanager
def watched_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Watch how much memory is in use inside the block: yields a function that says the peak so far, in MB.

    Of the GPU on cuda, else of this process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
        return
    process, done = psutil.Process(), threading.Event()
    peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(MEMORY_INTERVAL):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: round(peak / 2**20, 1)
    finally:
        done.set()
        watcher.join()


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the hardware multiplies bf16 faster than float32; elsewhere a no-op."""
    if _is_faster_in_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def embedding_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the hardware knows bf16: the depthwise convolutions of frozen backbones wait for
    memory, so half as many bytes make them faster even where products are slower."""
    if _knows_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def bf16_products(device: torch.device) -> Iterator[None]:
    """float32 matrices are multiplied in bf16 and summed in float32, where autocast computes in bf16: exact
    for what it computed."""
    before = torch.get_float32_matmul_precision()
    if _is_faster_in_bf16(device):
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64; on the CPU where it was on mps, which has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention step by step: its fused kernels have neither a second derivative nor a forward one."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _knows_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def _is_faster_in_bf16(device: torch.device) -> bool:
    """Whether matrices and dense convolutions take less time in bf16 than in float32.

    On Intel's processors they take twice as long with avx512_bf16 alone (measured on Sapphire Rapids without
    AMX), on AMD's half as long.
    """
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if str(capabilities.get("cpu_name", "")).startswith("Intel"):
            return bool(capabilities.get("amx_bf16"))
    return _knows_bf16(device)


def generator(seed: int, *parts: int, device: torch.device | None = None) -> torch.Generator:
    """A random stream for one place in a run, a function of the seed and of that place alone.

    Streams need no saved state: an epoch that is resumed draws what it would have drawn.
    """
    value = seed & 0xFFFFFFFF
    for part in parts:
        value = (value * 6364136223846793005 + part + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator(device or "cpu").manual_seed(value)
