from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sharpeye.data.dataset import JoinedImages
from sharpeye.progress import Progress
from sharpeye.training.batches import SoftLabels, augment, draw_changes, normalize, read_batches
from sharpeye.training.models import Classifier, small_network
from sharpeye.training.trainer import TrainingPlan, load_snapshot, one_cycle, snapshots, train
from tests.conftest import blob

CPU = torch.device("cpu")
LABELS = np.arange(48) % 3
IMAGES = np.stack([blob(int(label), np.random.default_rng(i)) for i, label in enumerate(LABELS)])


class PowerCut(Exception):
    pass


def network() -> Classifier:
    torch.manual_seed(0)
    return small_network(3, (8, 8, 8)).to(memory_format=torch.channels_last)


def trained(
    checkpoint: Path,
    optimizer: str,
    stop_in_epoch: int | None = None,
    epochs: int = 4,
    device: torch.device = CPU,
    make: Callable[[], Classifier] = network,
) -> Classifier:
    model = make().to(device)

    def report(progress: Progress) -> None:
        if progress.done == stop_in_epoch:
            raise PowerCut

    plan = TrainingPlan(epochs, optimizer=optimizer, batch_size=16)
    train(
        model, IMAGES, LABELS, plan, stage="test", seed=5, device=device, checkpoint=checkpoint, report=report
    )
    return model


def with_dropout() -> Classifier:
    plain = network()
    return Classifier(nn.Sequential(plain.features, nn.Dropout(0.5)), plain.head)


@pytest.mark.parametrize("make", [network, with_dropout])
@pytest.mark.parametrize("optimizer", ["erm", "sam", "lpf-sgd"])
def test_resumed_training_ends_where_undisturbed_training_does(
    tmp_path: Path, optimizer: str, make: Callable[[], Classifier]
) -> None:
    whole = trained(tmp_path / "whole", optimizer, make=make)
    with pytest.raises(PowerCut):
        trained(tmp_path / "cut", optimizer, stop_in_epoch=3, make=make)
    assert (tmp_path / "cut").exists()
    resumed = trained(tmp_path / "cut", optimizer, make=make)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_training_learns(tmp_path: Path) -> None:
    model = trained(tmp_path / "checkpoint", "erm", epochs=15)
    with torch.inference_mode():
        predicted = model(normalize(torch.from_numpy(IMAGES))).argmax(1).numpy()
    assert (predicted == LABELS).mean() > 0.95


def test_certain_beliefs_train_as_labels_do(tmp_path: Path) -> None:
    """Also where a belief names one class twice, and where the images lie in two arrays."""
    hard = trained(tmp_path / "hard", "erm")
    classes = np.stack([LABELS, LABELS, (LABELS + 1) % 3], 1)
    beliefs = SoftLabels(classes, np.tile([0.25, 0.75, 0.0], (len(LABELS), 1)), 3)
    soft, images = network(), JoinedImages(IMAGES[:20], IMAGES[20:])
    plan = TrainingPlan(4, batch_size=16)
    train(soft, images, beliefs, plan, seed=5, device=CPU, checkpoint=tmp_path / "soft")
    for one, other in zip(hard.state_dict().values(), soft.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
def test_training_on_cuda(tmp_path: Path) -> None:
    model = trained(tmp_path / "checkpoint", "lpf-sgd", epochs=15, device=torch.device("cuda"))
    with torch.inference_mode():
        predicted = model(normalize(torch.from_numpy(IMAGES).cuda())).argmax(1).cpu().numpy()
    assert (predicted == LABELS).mean() > 0.95


def test_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    assert max(rates) == rates[20] == 1
    assert rates[0] == rates[100] == 0


def test_batches_hold_every_row_once_in_order() -> None:
    rows = np.array([5, 3, 40, 7, 1])
    parts = list(read_batches(IMAGES, rows, 2, CPU))
    assert np.concatenate([part for part, _ in parts]).tolist() == rows.tolist()
    torch.testing.assert_close(
        torch.cat([batch for _, batch in parts]), normalize(torch.from_numpy(IMAGES[rows]))
    )


def test_augmentation_shifts_whole_images() -> None:
    images = normalize(torch.from_numpy(IMAGES))
    count, drawing = len(images), torch.Generator().manual_seed(0)
    unchanged = augment(images, draw_changes(count, drawing, mirrored=False, shift=0), 0)
    assert torch.equal(unchanged, images)
    shifted = augment(images, draw_changes(count, drawing, mirrored=False, shift=3), 3)
    for before, after in zip(images, shifted, strict=True):
        padded = torch.nn.functional.pad(before[None], (3,) * 4, mode="reflect")[0]
        assert any(torch.equal(padded[:, y : y + 16, x : x + 16], after) for y in range(7) for x in range(7))


def test_snapshots_are_kept_along_the_way(tmp_path: Path) -> None:
    plan = TrainingPlan(epochs=7, batch_size=16, learning_rate=0.1, snapshots=3)
    model = network()
    train(model, IMAGES, LABELS, plan, seed=0, device=CPU, checkpoint=tmp_path / "c.safetensors")
    on_the_way = snapshots(plan, len(LABELS), tmp_path / "c.safetensors")
    assert [snapshot.epoch for snapshot in on_the_way] == [1, 4, 7]
    rates = [0.1 * one_cycle(step / 21) for step in range(21)]
    np.testing.assert_allclose(
        [s.step_size for s in on_the_way], [sum(rates[:3]), sum(rates[3:12]), sum(rates[12:])]
    )
    last = load_snapshot(network(), on_the_way[-1], CPU)
    assert all(torch.equal(value, last.state_dict()[key]) for key, value in model.state_dict().items())
    first = load_snapshot(network(), on_the_way[0], CPU)
    assert not torch.equal(first.head.weight, last.head.weight)
    assert [s.epoch for s in snapshots(TrainingPlan(epochs=2), 48, tmp_path / "x")] == [1, 2]
    assert [s.epoch for s in snapshots(TrainingPlan(epochs=9, snapshots=1), 48, tmp_path / "x")] == [9]


@pytest.mark.parametrize("optimizer", ["erm", "lpf-sgd"])
def test_batch_norm_knows_the_weights_without_noise(tmp_path: Path, optimizer: str) -> None:
    model = trained(tmp_path / "checkpoint.safetensors", optimizer)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    [(_, batch)] = read_batches(IMAGES, np.arange(len(IMAGES)), len(IMAGES), CPU)
    with torch.no_grad():
        model(batch)
    assert norm.running_mean is not None
    error = (norm.running_mean - seen[0].float().mean((0, 2, 3))).abs().max() / seen[0].float().std()
    assert (error < 0.01) == (optimizer == "lpf-sgd")
