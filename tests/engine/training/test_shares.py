"""Processes that share every batch train as one process does."""

import multiprocessing
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn

from sharpeye.training.models import Classifier, small_network
from sharpeye.training.shares import Share, is_shareable
from sharpeye.training.trainer import TrainingPlan, train
from tests.engine.runs.training_driver import float64_network

CPU = torch.device("cpu")
# 31 images a batch, so that two shares differ in size.
PLAN = TrainingPlan(epochs=2, batch_size=31, learning_rate=0.01, snapshots=2)


def trained(folder: Path, optimizer: str, share: Share) -> Classifier:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (95, 16, 16, 3), np.uint8)
    model = float64_network()
    plan = replace(PLAN, optimizer=optimizer)
    checkpoint = folder / "checkpoint"
    train(model, images, np.arange(95) % 3, plan, seed=1, device=CPU, checkpoint=checkpoint, share=share)
    return model


def train_share(folder: Path, optimizer: str, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://localhost:{port}", world_size=2, rank=rank)
    model = trained(folder, optimizer, Share(rank, 2))
    save_file(model.state_dict(), folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.parametrize("optimizer", ["erm", "sam", "lpf-sgd"])
def test_two_processes_train_as_one(tmp_path: Path, optimizer: str) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=train_share, args=(tmp_path, optimizer, rank, port)) for rank in (0, 1)]
    for process in both:
        process.start()
    (tmp_path / "alone").mkdir()
    alone = trained(tmp_path / "alone", optimizer, Share()).state_dict()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert set(first) == set(alone)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)
    # The first writes, what a process that trains alone writes.
    files = [{file.name for file in folder.glob("checkpoint*")} for folder in (tmp_path, tmp_path / "alone")]
    assert files[0] == files[1] != set()


def test_batch_norm_of_other_kinds_is_not_shared_on_cpus() -> None:
    class Other(nn.BatchNorm2d):
        pass

    assert is_shareable(small_network(3, (8, 8, 8)), CPU)
    assert not is_shareable(nn.Sequential(Other(4)), CPU)
    assert is_shareable(nn.Sequential(Other(4)), torch.device("cuda"))
