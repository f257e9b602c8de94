"""Training on a Ray cluster: the network of one machine, whoever is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sharpeye.config import VERSION
from sharpeye.errors import InputError
from sharpeye.progress import ignore
from sharpeye.runs.cluster import Cluster, Workers
from sharpeye.runs.shared_training import train_on_cluster, train_on_node
from sharpeye.training.checkpoints import epochs_done
from sharpeye.training.trainer import train
from tests.engine.runs import training_driver
from tests.engine.runs.test_cluster import WAIT, Nodes, nodes
from tests.engine.runs.training_driver import LABELS, PIXELS, PLAN, float64_network
from tests.engine.runs.watching import wait_until

pytest.importorskip("ray.train")
__all__ = ["nodes"]

# Shares of batches that two processes read in an epoch.
EPOCH = 2 * len(LABELS) // PLAN.batch_size


def driver(address: str, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, str(Path(training_driver.__file__)), address, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def readers(folder: Path) -> list[int]:
    """The process of every share of a batch that was read."""
    log = folder / "log"
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def epochs(folder: Path) -> int:
    return epochs_done(folder / "checkpoint")


def check(folder: Path, said: str, losses: int) -> None:
    """The network is that of one machine but for rounding, and what a loss costs is an epoch, and what was
    read ahead."""
    assert epochs(folder) == PLAN.epochs, said
    (folder / "alone").mkdir()
    alone = folder / "alone" / "checkpoint"
    train(float64_network(), PIXELS, LABELS, PLAN, seed=1, device=torch.device("cpu"), checkpoint=alone)
    expected, found = load_file(alone), load_file(folder / "checkpoint")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert PLAN.epochs * EPOCH // 2 <= len(readers(folder)) <= (PLAN.epochs + losses) * EPOCH + 4 * losses
    assert not list(folder.glob("*.shards"))


def test_two_nodes_train_the_network_of_one(nodes: Nodes, tmp_path: Path) -> None:
    said, _ = driver(nodes.address, tmp_path).communicate(timeout=WAIT)
    check(tmp_path, said, 0)
    assert len(set(readers(tmp_path))) == 2
    assert "pretrain 3" in said


def test_a_killed_process_and_a_lost_node_cost_an_epoch_each(nodes: Nodes, tmp_path: Path) -> None:
    running = driver(nodes.address, tmp_path)
    wait_until(lambda: epochs(tmp_path) >= 1)
    os.kill(readers(tmp_path)[-1], signal.SIGKILL)
    wait_until(lambda: epochs(tmp_path) >= 2)
    nodes.lose_second()
    said, _ = running.communicate(timeout=WAIT)
    check(tmp_path, said, 2)


def test_a_killed_driver_goes_on_from_the_last_epoch(tmp_path: Path) -> None:
    # On a cluster that lives on, Ray keeps what the dead one had reserved for three minutes more.
    running = driver("local", tmp_path)
    wait_until(lambda: epochs(tmp_path) >= 2)
    running.kill()
    running.communicate()
    said, _ = driver("local", tmp_path).communicate(timeout=WAIT)
    check(tmp_path, said, 1)


def test_what_a_killed_driver_left_is_removed_though_its_processes_trained_to_the_end(tmp_path: Path) -> None:
    work = training_driver.training(tmp_path)
    plan, checkpoint = work.plan, work.checkpoint
    train(work.model, PIXELS, LABELS, plan, seed=1, device=torch.device("cpu"), checkpoint=checkpoint)
    left = tmp_path / "checkpoint.shards"
    left.mkdir()
    none = Workers(0, 0, 0)
    train_on_cluster(Cluster(none, none), work, ignore)
    assert not left.exists()


def test_a_node_without_the_workspace_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^node .*: has no .*elsewhere; every node needs it"):
        train_on_node(training_driver.training(tmp_path), tmp_path / "elsewhere", VERSION)


def test_what_would_fail_again_is_not_tried_again(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    said, _ = driver(nodes.address, tmp_path).communicate(timeout=WAIT)
    assert f"InputError: node {nodes.address.split(':')[0]}" in said
    assert "no images here" in said
