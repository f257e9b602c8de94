"""Stages on a Ray cluster: the same scores as on one machine, whoever is killed; bad clusters are named."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import sharpeye
from sharpeye.config import RunConfig, RunOptions
from sharpeye.curvature.fit import fit_curvature
from sharpeye.data.dataset import JoinedImages, SelectedImages, reopening
from sharpeye.errors import InputError
from sharpeye.influence.evaluation import evaluate, joined_evaluation
from sharpeye.runs import cluster
from sharpeye.runs.cluster import Cluster, Workers, check_cluster, cluster_of
from sharpeye.runs.embedding import node_paths
from sharpeye.runs.scoring import Scoring
from sharpeye.training.models import small_network
from tests.engine.runs import cluster_driver
from tests.engine.runs.watching import wait_until

pytest.importorskip("ray")

ROWS = 16 * 64
WAIT = 120.0


class Nodes:
    """A head and a second node on this machine, a processor each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        self.options = options
        self.second = self.cluster.add_node(**options)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def lose_second(self) -> None:
        """Kill the second node, as a power cut does, and add another one."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(**self.options)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


def driver(nodes: Nodes, folder: Path) -> "subprocess.Popen[str]":
    if not (folder / "data").is_symlink():
        (folder / "data").mkdir(exist_ok=True)
    command = [sys.executable, str(Path(cluster_driver.__file__)), nodes.address, str(folder), str(ROWS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def computed(folder: Path) -> list[tuple[int, int]]:
    """First row and process of every shard that was computed."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(first), int(process)) for first, process in map(str.split, lines)]


def check(folder: Path, said: str, losses: int) -> None:
    """All is there, and nothing was computed twice but what two workers had in hand, and what was on its way,
    each time that something was lost."""
    assert (folder / "doubled.npy").exists(), said
    np.testing.assert_array_equal(np.load(folder / "doubled.npy"), np.arange(ROWS) * 2.0)
    firsts = [first for first, _ in computed(folder)]
    assert sorted(set(firsts)) == list(range(0, ROWS, 64))
    assert len(firsts) <= ROWS // 64 + 4 * losses


def test_a_killed_worker_and_a_lost_node_cost_what_they_had_in_hand(nodes: Nodes, tmp_path: Path) -> None:
    running = driver(nodes, tmp_path)
    wait_until(lambda: len(computed(tmp_path)) >= 3)
    os.kill(computed(tmp_path)[-1][1], signal.SIGKILL)
    wait_until(lambda: len(computed(tmp_path)) >= 7)
    nodes.lose_second()
    said, _ = running.communicate(timeout=WAIT)
    check(tmp_path, said, 2)


def test_a_killed_driver_goes_on_where_it_was(nodes: Nodes, tmp_path: Path) -> None:
    running = driver(nodes, tmp_path)
    wait_until(lambda: len(computed(tmp_path)) >= 6)
    running.kill()
    running.communicate()
    said, _ = driver(nodes, tmp_path).communicate(timeout=WAIT)
    check(tmp_path, said, 1)


def test_heads_on_features_of_a_cluster_score_as_those_of_one_machine(
    nodes: Nodes, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    options = RunOptions(
        validation=str(make_folder("check", 20, seed=2)),
        model="efficientnet_lite0",
        tune="head",
        budget="fast",
    )
    train = str(make_folder("train", 60, wrong=6, seed=1))
    alone = sharpeye.run(train, workspace=tmp_path / "alone", **options)
    spread = sharpeye.run(train, workspace=tmp_path / "spread", cluster=nodes.address, **options)
    assert "2 nodes, 2 processors" in spread.row().notes
    scores = [run.scores.set_index("id") for run in (alone, spread)]
    assert scores[0].index.tolist() == scores[1].index.tolist()
    for column in ("fvm", "val_loss_posterior", "confidence"):
        np.testing.assert_allclose(scores[0][column], scores[1][column], rtol=1e-5, atol=1e-7)
    assert not list((tmp_path / "spread").rglob("*.shards"))


@pytest.mark.parametrize("chosen", [False, True])
def test_images_are_scored_elsewhere_as_here(tmp_path: Path, chosen: bool) -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    rng = np.random.default_rng(0)
    rng.integers(0, 256, (90, 16, 16, 3), np.uint8).tofile(tmp_path / "images.u8")
    kept = np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=(90, 16, 16, 3))
    both = JoinedImages(kept, SelectedImages(kept, np.arange(9, 90)))
    images = SelectedImages(both, np.arange(0, 150, 2))
    labels = rng.integers(0, 3, len(images))
    classes = np.stack([labels, (labels + 1) % 3], 1) if chosen else None
    model, device = small_network(3, (8, 8, 8)).eval(), torch.device("cpu")
    curvature = fit_curvature(model, "kfac", "head", kept, 1.0, device, seed=0)
    state = {name: value.cpu() for name, value in curvature.state().items()}
    work = Scoring(
        reopening(images),
        (),
        labels,
        classes,
        model,
        ("kfac", state),
        "head",
        all_candidates=True,
        mirrored=True,
    )
    sent = cloudpickle.dumps(work)
    assert len(sent) < kept.nbytes + 2**16
    compute = cloudpickle.loads(sent).begin(device)
    parts = [compute(rows) for rows in np.array_split(np.arange(len(images)), 4)]
    spread = joined_evaluation(parts, np.arange(len(images)))
    options = {"parameters": "head", "all_candidates": True, "mirrored": True, "device": device}
    here = evaluate(model, curvature, images, labels, classes, **options)
    for name in ("classes", "losses", "influence", "leverage", "newton", "features"):
        np.testing.assert_allclose(getattr(spread, name), getattr(here, name), rtol=1e-4, atol=1e-5)


def test_what_is_started_here_ends_here(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    command = [sys.executable, str(Path(cluster_driver.__file__)), "local", str(tmp_path), "128"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True).stdout
    assert said.startswith("Ray was started on this machine, and ends with the run: 1 nodes")
    assert len(np.load(tmp_path / "doubled.npy")) == 128
    assert not [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(one.info["cmdline"] or ())
    ]


def test_a_node_without_the_data_is_named(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    running = driver(nodes, tmp_path)
    said, _ = running.communicate(timeout=WAIT)
    assert f"InputError: node {nodes.address.split(':')[0]}" in said
    assert f"has no {tmp_path / 'data'}; every node needs it at the same place" in said


@pytest.mark.parametrize(
    ("machines", "workers", "trainers"),
    [
        ([(4, 0), (2, 0), (0, 0)], Workers(6, 1, 0), Workers(2, 2, 0)),
        ([(16, 2), (16, 2)], Workers(4, 8, 1), Workers(4, 8, 1)),
        # A head without a GPU takes no part, and the node with fewest processors a GPU sets the share.
        ([(8, 0), (8, 1), (8, 1)], Workers(2, 8, 1), Workers(2, 8, 1)),
        ([(8, 1), (8, 4)], Workers(5, 2, 1), Workers(5, 2, 1)),
        # More GPUs than processors.
        ([(2, 4)], Workers(2, 1, 0), Workers(1, 2, 0)),
    ],
)
def test_workers_fit_the_nodes(machines: list[tuple[int, int]], workers: Workers, trainers: Workers) -> None:
    assert cluster_of(machines, "auto") == Cluster(workers, trainers)


def test_a_cluster_without_processors_is_refused() -> None:
    with pytest.raises(InputError, match="it has no processors"):
        cluster_of([(0, 1)], "auto")


def test_nodes_need_the_images_and_no_lists(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    train = make_folder("train", 4)
    (tmp_path / "trusted.csv").write_text("id,label\n")
    weights = tmp_path / "weights.pt"
    weights.touch()
    config = RunConfig.of(str(train), validation=f"ids:{tmp_path / 'trusted.csv'}", weights=str(weights))
    assert set(node_paths(config)) == {train, weights}
    both = RunConfig.of(
        str(train), validation=str(make_folder("check", 2)), confirmed=str(tmp_path / "trusted.csv")
    )
    assert set(node_paths(both)) == {train, tmp_path / "check"}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("here", "expected auto, local, or HOST:PORT"),
        ("localhost:1", "cannot be reached"),
        ("localhost:99999", "cannot be reached"),
    ],
)
def test_clusters_that_cannot_be_used_are_named(where: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        sharpeye.start("demo", cluster=where)


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--cluster local needs another package.*sharpeye\[cluster\]"):
        check_cluster("local")


def test_a_cluster_comes_back_from_json() -> None:
    config = RunConfig.of("demo", cluster="auto")
    assert RunConfig.from_json(config.to_json()).cluster == "auto"
