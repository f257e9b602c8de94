"""Training on a cluster: its nodes share every batch of one network, by Ray Train."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sharpeye.config import VERSION
from sharpeye.data.dataset import Images
from sharpeye.errors import InputError, is_disk_full, is_out_of_memory
from sharpeye.files import replacing
from sharpeye.progress import Progress, Report, ignore
from sharpeye.runs.cluster import (
    MOST_TRIES,
    Cluster,
    begin_on_node,
    failure,
    named,
    remove_shards,
    shard_folder,
)
from sharpeye.training.batches import Labels
from sharpeye.training.checkpoints import epochs_done
from sharpeye.training.models import Classifier
from sharpeye.training.shares import Share, is_shareable
from sharpeye.training.trainer import TrainingPlan, train

PROGRESS_SECONDS = 0.5
# Smaller shares of a batch cost more talk than they save.
LEAST_SHARE = 16
# Written where all nodes see them: what the first process would report, and what ended the training.
PROGRESS, PROBLEM = "progress.json", "problem.json"
# Bytes of the latter, taken beforehand: a full disk is one of the problems.
PROBLEM_BYTES = 4096


@dataclass(frozen=True)
class Training:
    """What the nodes do together: train a network, see `train`.

    Attributes:
        images: opens them there.
        labels: of all images.
        model: untrained, on the CPU.
        plan: what to do.
        stage: name for progress.
        seed: of order, augmentation and noise.
        checkpoint: where the first process keeps every epoch; on storage that all nodes share.
    """

    images: Callable[[], Images]
    labels: Labels
    model: Classifier
    plan: TrainingPlan
    stage: str
    seed: int
    checkpoint: Path


def train_on_cluster(cluster: Cluster, work: Training, report: Report) -> None:
    """Bring a checkpoint to the last epoch of its plan; `train` then finds all there.

    Whoever is lost, training goes on from the last epoch, with the processes that are left: how many share a
    batch changes nothing but rounding.

    Source of the processes: Ray Train's elastic TorchTrainer; its own checkpoints are not used, since the
    stage keeps its own.

    Raises:
        InputError: what a node met; it names the node.
        MemoryError: of a node.
    """
    # Processes of a killed driver train on for a moment, and may have ended the last epoch.
    if epochs_done(work.checkpoint) < work.plan.epochs:
        with shard_folder(work.checkpoint) as folder:
            (folder / PROGRESS).unlink(missing_ok=True)
            (folder / PROBLEM).write_text(" " * PROBLEM_BYTES)
            with _reported(folder / PROGRESS, report):
                _fit(cluster, work, folder)
            if problem := _problem(folder):
                raise (MemoryError if problem["memory"] else InputError)(problem["says"])
    remove_shards(work.checkpoint)


def _fit(cluster: Cluster, work: Training, folder: Path) -> None:
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    trainers = cluster.trainers
    kind = torch.device("cuda" if trainers.gpus else "cpu")
    batch = min(work.plan.batch_size, len(work.labels))
    shares = min(trainers.count, batch // LEAST_SHARE) if is_shareable(work.model, kind) else 1
    trainer = TorchTrainer(
        lambda: train_on_node(work, folder, VERSION),
        scaling_config=ScalingConfig(
            num_workers=(1, shares) if shares > 1 else 1,
            use_gpu=trainers.gpus > 0,
            resources_per_worker={"CPU": trainers.cpus, "GPU": trainers.gpus},
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=MOST_TRIES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except (RayError, TrainingFailedError) as error:
        raise InputError(f"--cluster: {failure(str(error))}") from error
    finally:
        # Ray takes this signal over.
        signal.signal(signal.SIGINT, interrupted)


def train_on_node(work: Training, folder: Path, version: int) -> None:
    """What each process does. An error that would come again ends the training; a lost one is replaced."""
    from ray.train import get_context
    from ray.train.torch import get_device

    if _problem(folder):
        return
    try:
        # Made just now, so that a node which sees it shares the workspace.
        begin_on_node((folder,), version)
        share = Share(get_context().get_world_rank(), get_context().get_world_size())
        train(
            work.model.to(get_device()),
            work.images(),
            work.labels,
            work.plan,
            stage=work.stage,
            seed=work.seed,
            device=get_device(),
            checkpoint=work.checkpoint,
            report=_writer(folder / PROGRESS) if share.rank == 0 else ignore,
            share=share,
        )
    except Exception as error:
        if not _is_lasting(error):
            raise
        said = json.dumps({"says": named(error)[:1000], "memory": is_out_of_memory(error)})
        # Where this node does not share the workspace, there is no such file.
        with contextlib.suppress(FileNotFoundError), (folder / PROBLEM).open("r+") as file:
            file.write(said.ljust(PROBLEM_BYTES))
        raise InputError(named(error)) from error


def _problem(folder: Path) -> dict[str, Any]:
    """What ended the training, if anything has."""
    with contextlib.suppress(FileNotFoundError):
        if text := (folder / PROBLEM).read_text().strip():
            return json.loads(text)
    return {}


def _is_lasting(error: Exception) -> bool:
    """Whether the next try would end in the same way, other than by a lost peer."""
    lasts = isinstance(error, InputError | OSError) and not isinstance(error, ConnectionError)
    return lasts or is_disk_full(error) or is_out_of_memory(error)


def _writer(path: Path) -> Report:
    """A report that another process reads."""
    last = [0.0]

    def write(step: Progress) -> None:
        if time.monotonic() - last[0] > PROGRESS_SECONDS:
            last[0] = time.monotonic()
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(asdict(step)))

    return write


@contextmanager
def _reported(path: Path, report: Report) -> Iterator[None]:
    """Report what another process writes, inside the block."""
    done = threading.Event()

    def read() -> None:
        while not done.wait(PROGRESS_SECONDS):
            with contextlib.suppress(FileNotFoundError):
                report(Progress(**json.loads(path.read_text())))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()
