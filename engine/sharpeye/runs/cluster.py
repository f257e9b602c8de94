"""A connection to a Ray cluster, on which shards of a stage are computed.

Nothing but this and `shared_training` imports Ray.
"""

import contextlib
import importlib.util
import io
import logging
import os
import pickle
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from filelock import FileLock
from joblib import cpu_count

from sharpeye.config import VERSION
from sharpeye.errors import InputError, is_disk_full
from sharpeye.files import remove, replacing
from sharpeye.progress import ImageReport

if TYPE_CHECKING:
    import torch

LOCAL, AUTO = "local", "auto"
CONNECT_SECONDS = 10.0
# Images of one shard, which is what a lost node computes again: multiples of the batches in which images are
# embedded, so that these are those of one machine. Enough shards for many nodes, but none so small that the
# way there and back counts.
LEAST_SHARD, MOST_SHARD, SHARDS = 64, 4096, 256
# Of a worker that dies, and of a shard in its hands: what kills its worker must end.
MOST_TRIES = 10
ERROR_LINE = re.compile(r"[\w.]*(Error|Exception): .+")

Result = TypeVar("Result")
Compute = Callable[[np.ndarray], Any]


class Work(Protocol):
    """What a node computes of rows; sent to it once."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """What a node must have at hand."""

    def begin(self, device: "torch.device") -> Compute:
        """What computes the result of some rows; called once on a node."""


@dataclass(frozen=True)
class Workers:
    """Processes on the nodes of a cluster.

    Attributes:
        count: how many.
        cpus: processors of each.
        gpus: GPUs of each, 0 or 1.
    """

    count: int
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        workers: compute shards, each its own.
        trainers: train one network together.
    """

    workers: Workers
    trainers: Workers

    def shards(self, work: Work, rows: list[np.ndarray]) -> Iterator[tuple[int, Any]]:
        """The number and the result of each shard of rows, in the order in which they are done.

        A shard whose node is lost is computed on another one.

        Raises:
            InputError: what a node met; it names the node.
        """
        import ray
        from ray.data import ActorPoolStrategy

        items = [{"number": number, "rows": part} for number, part in enumerate(rows)]
        workers = min(self.workers.count, len(items))
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=(work, VERSION),
            compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            num_cpus=self.workers.cpus,
            num_gpus=self.workers.gpus,
            max_restarts=MOST_TRIES,
            max_task_retries=MOST_TRIES,
        )
        try:
            for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
                for number, problem, result in zip(
                    batch["number"], batch["problem"], batch["result"], strict=True
                ):
                    if problem:
                        raise InputError(str(problem))
                    yield int(number), pickle.loads(result)
        except ray.exceptions.RayError as error:
            raise InputError(f"--cluster: {failure(str(error))}") from error


class _Worker:
    """On a node: what computes shards, and names the node where something is wrong with it."""

    def __init__(self, work: Work, version: int):
        import torch

        self.problem, self.compute = "", None
        try:
            begin_on_node(work.paths, version)
            self.compute = work.begin(torch.device("cuda" if _has_gpu() else "cpu"))
        except Exception as error:
            self.problem = named(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        result, problem = b"", self.problem
        if self.compute is not None:
            try:
                result = pickle.dumps(self.compute(np.asarray(batch["rows"][0])))
            except Exception as error:
                problem = named(error)
        columns = {"number": batch["number"], "problem": np.array([problem], dtype=object)}
        return columns | {"result": np.array([result], dtype=object)}


def begin_on_node(paths: tuple[Path, ...], version: int) -> None:
    """Check that this node can take part, and set how many threads it computes with.

    Args:
        paths: what it must have at hand.
        version: of Sharpeye on the machine that asks.

    Raises:
        InputError: it has another version, or lacks a path.
    """
    import torch

    if version != VERSION:
        raise InputError("has another version of Sharpeye; install the same everywhere")
    for path in paths:
        if not path.exists():
            raise InputError(f"has no {path}; every node needs it at the same place")
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


def named(error: Exception) -> str:
    """What went wrong on this node, and its name."""
    import ray

    known = isinstance(error, InputError | OSError) or is_disk_full(error)
    kind = "" if known else f"unexpected {type(error).__name__}: "
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return f"node {ray.util.get_node_ip_address()} ({socket.gethostname()}): {kind}{reason}"


@contextmanager
def connected(where: str, note: Callable[[str], None]) -> Iterator[Cluster]:
    """Yield a connection to a cluster; what was started here ends with the block.

    Args:
        where: `local` starts Ray on this machine; `auto` finds the cluster that this machine belongs to; else
            HOST:PORT of its head.
        note: called with what was started or found.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached or has another version.
    """
    check_cluster(where)
    import ray
    import ray.data

    # What Ray would tell its makers about the use of a cluster that is started here.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Training finds its files where the run names them.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    # Without an address, Ray would look for a cluster that runs already.
    options: dict[str, Any] = {"address": where, "logging_level": logging.ERROR, "log_to_driver": False}
    if where == LOCAL:
        options |= {"num_cpus": cpu_count(), "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            ray.init(**options)
        # Else a process that is told to end would fail, and not be started again.
        signal.signal(signal.SIGTERM, before)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--cluster {where}: {_explained(error, where)}") from error
    try:
        # Ray Data without its own progress bars and log lines.
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive]
        cpus, gpus = map(sum, zip(*nodes, strict=True))
        started = "Ray was started on this machine, and ends with the run" if where == LOCAL else "Ray"
        note(f"{started}: {len(nodes)} nodes, {cpus} processors, {gpus} GPUs.")
        yield cluster_of(nodes, where)
    finally:
        ray.shutdown()


def cluster_of(nodes: list[tuple[int, int]], where: str) -> Cluster:
    """How work is spread: a worker a GPU with an equal share of its node's processors; without GPUs, a worker
    a processor, and for training a worker a node.

    Args:
        nodes: processors and GPUs of each.
        where: for the message.

    Raises:
        InputError: there is no processor.
    """
    shares = [cpus // gpus for cpus, gpus in nodes if gpus and cpus >= gpus]
    if shares:
        cpus = min(shares)
        workers = Workers(sum(min(have // cpus, gpus) for have, gpus in nodes), cpus, 1)
        return Cluster(workers, workers)
    sizes = [cpus for cpus, _ in nodes if cpus]
    if not sizes:
        raise InputError(f"--cluster {where}: it has no processors")
    # Threads of one process share a batch with less talk than processes do.
    return Cluster(Workers(sum(sizes), 1, 0), Workers(len(sizes), min(sizes), 0))


@contextmanager
def shard_folder(path: Path) -> Iterator[Path]:
    """A folder for the shards of a file, which one process at a time works on; see `remove_shards`."""
    folder = _shards(path)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield folder


def remove_shards(path: Path) -> None:
    """Remove the shards of a file that is there now."""
    remove(_shards(path))


def _shards(path: Path) -> Path:
    return path.with_name(path.name + ".shards")


def sharded(
    cluster: Cluster,
    work: Work,
    rows: np.ndarray,
    folder: Path,
    save: Callable[[Result, Path], None],
    load: Callable[[Path], Result],
    report: ImageReport,
) -> Iterator[Result]:
    """Results of all shards of some rows, in their order. Each is kept in a file as soon as it is there, and
    not computed again by whoever goes on.

    Args:
        cluster: that computes.
        work: what it computes.
        rows: of the source, (N,).
        folder: of the files, see `shard_folder`.
        save: writes a result to a path.
        load: reads it back.
        report: called with (images done, images in all).
    """
    parts = cut(rows)
    files = [folder / f"{number:06d}" for number in range(len(parts))]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    done = len(rows) - sum(len(parts[number]) for number in missing)
    for at, result in cluster.shards(work, [parts[number] for number in missing]) if missing else ():
        with replacing(files[missing[at]]) as temporary:
            save(result, temporary)
        done += len(parts[missing[at]])
        report(done, len(rows))
    return map(load, files)


def cut(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in shards."""
    size = min(MOST_SHARD, -(-len(rows) // (SHARDS * LEAST_SHARD)) * LEAST_SHARD)
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def check_cluster(where: str) -> None:
    """Raise InputError where Ray is not installed, or an address is none or does not answer."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"--cluster {where} needs another package: pip install 'sharpeye[cluster]'")
    if where in (LOCAL, AUTO):
        return
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--cluster {where}: expected auto, local, or HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--cluster {where}: cannot be reached ({reason})") from error


def _explained(error: Exception, where: str) -> str:
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    if "ersion mismatch" in text:
        return f"another version runs there; install the same one ({text[:300]})"
    if where == AUTO:
        return "no cluster is found; begin one with `ray start --head`, or give --cluster local"
    if "raylet" in text:
        return "this machine is no node of it; make it one with `ray start --address " + where + "`"
    return text.split(". ")[0]


def _has_gpu() -> bool:
    import ray
    import torch

    return bool(ray.get_gpu_ids()) and torch.cuda.is_available()


def failure(text: str) -> str:
    """What failed, and where, of the many lines that Ray says."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if ERROR_LINE.match(line)), lines[0])
    node = re.search(r"\bip=([^,)]+)", text)
    return f"node {node[1]}: {said}" if node else said
