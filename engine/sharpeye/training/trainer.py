"""One visible training loop, for every stage: on given labels, on what is believed of them, and to a
validation minimum."""

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from sharpeye.data.dataset import Images
from sharpeye.files import replacing
from sharpeye.progress import Progress, Report, ignore
from sharpeye.training.batches import Labels, augment, draw_changes, read_batches, read_labels
from sharpeye.training.checkpoints import epochs_done, load_optimizer, load_parameters, save_checkpoint
from sharpeye.training.devices import autocast, generator
from sharpeye.training.models import Classifier
from sharpeye.training.optimizers import erm_gradient, lpf_gradient, sam_gradient
from sharpeye.training.shares import WHOLE, Share, in_parallel

WARMUP_SHARE = 0.2
SHUFFLE, AUGMENT, NOISE, DROP = 1, 2, 3, 4


@dataclass(frozen=True)
class TrainingPlan:
    """What one stage of training does.

    Attributes:
        epochs: passes over the images.
        optimizer: "erm", "sam" or "lpf-sgd".
        learning_rate: peak of the one-cycle schedule.
        constant_rate: whether the learning rate stays there instead.
        batch_size: images a step.
        weight_decay: ℓ2 penalty on weights with two axes or more.
        momentum: Nesterov momentum.
        label_smoothing: mass spread evenly over the classes.
        rho: SAM's radius.
        sigma: LPF-SGD's relative noise at the end of training (cosine from 0).
        mirrored: whether mirrored images keep their label.
        shift: largest random shift, as a share of the side.
        snapshots: how many models are kept along the way, evenly spaced, the last one included.
    """

    epochs: int
    optimizer: str = "erm"
    learning_rate: float = 0.1
    constant_rate: bool = False
    batch_size: int = 256
    weight_decay: float = 5e-4
    momentum: float = 0.9
    label_smoothing: float = 0.0
    rho: float = 0.05
    sigma: float = 0.2
    mirrored: bool = True
    shift: float = 0.07
    snapshots: int = 5


@dataclass(frozen=True)
class Snapshot:
    """A model on the way through training.

    Attributes:
        path: its parameters and buffers.
        epoch: after which it was kept.
        step_size: Σ of the learning rates of all steps since the snapshot before it.
    """

    path: Path
    epoch: int
    step_size: float

    def key(self) -> str:
        """The name of its file, which holds the key of the training that made it."""
        return self.path.name


def train(
    model: Classifier,
    images: Images,
    labels: Labels,
    plan: TrainingPlan,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    stage: str = "training",
    report: Report = ignore,
    share: Share = WHOLE,
) -> None:
    """Train in place; continue from `checkpoint` where it holds an earlier epoch of the same plan.

    Without one, nothing is written and no snapshots are kept. Of processes that share every batch, the first
    writes.

    Args:
        model: on `device`.
        images: uint8, (N, S, S, 3).
        labels: int64, (N,), or beliefs.
        plan: what to do.
        stage: name for progress.
        seed: seed of the order of images, of augmentation and of noise.
        device: where to compute.
        checkpoint: written after every epoch (safetensors; model, momentum, epoch).
        report: called after every step.
        share: of every batch that this process trains on.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=plan.learning_rate,
        momentum=plan.momentum,
        nesterov=plan.momentum > 0,
    )
    first = epochs_done(checkpoint) if checkpoint else 0
    if checkpoint and first:
        model.load_state_dict(load_parameters(checkpoint, device))
        load_optimizer(checkpoint, optimizer)
    parallel = in_parallel(model, share, device)
    if share.rank > 0:
        checkpoint = None
    steps = steps_an_epoch(plan, len(labels))
    kept = snapshots(plan, len(labels), checkpoint) if checkpoint else []
    snapshot_paths = {snapshot.epoch: snapshot.path for snapshot in kept}
    total = plan.epochs * steps
    started, trained = time.monotonic(), 0
    model.train()
    for epoch in range(first, plan.epochs):
        order = (
            torch.randperm(len(labels), generator=generator(seed, SHUFFLE, epoch))
            .numpy()[: steps * plan.batch_size]
            .reshape(steps, -1)
        )
        mine = share.columns(order)
        weight = share.weight(mine.shape[1], order.shape[1])
        augmentation = generator(seed, AUGMENT, epoch)
        noise = generator(seed, NOISE, epoch, device=device)
        # What dropout draws from.
        torch.manual_seed(generator(seed, DROP, epoch).initial_seed() + share.rank)
        loss_sum = torch.zeros((), device=device)
        for step, (rows, batch) in enumerate(read_batches(images, mine.ravel(), mine.shape[1], device)):
            at = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = rate_at(plan, at / total)
            shift = round(plan.shift * batch.shape[-1])
            drawn = draw_changes(order.shape[1], augmentation, mirrored=plan.mirrored, shift=shift)
            batch = augment(batch, share.columns(drawn), shift)
            wanted = read_labels(labels, rows, device)

            def closure(batch: Tensor = batch, wanted: Tensor = wanted, weight: float = weight) -> Tensor:
                with autocast(device):
                    logits = parallel(batch)
                loss = functional.cross_entropy(logits.float(), wanted, label_smoothing=plan.label_smoothing)
                return weight * loss

            optimizer.zero_grad(set_to_none=True)
            if plan.optimizer == "sam":
                loss = sam_gradient(model, parameters, closure, plan.rho)
            elif plan.optimizer == "lpf-sgd":
                loss = lpf_gradient(
                    parameters, closure, plan.sigma * (1 - math.cos(math.pi * at / total)) / 2, noise
                )
            else:
                loss = erm_gradient(closure)
            optimizer.step()
            loss_sum += loss
            trained += order.shape[1]
            rate = trained / (time.monotonic() - started)
            left = (total - at - 1) * plan.batch_size / rate
            epoch_done = epoch + (step + 1) / steps
            report(
                Progress(
                    stage, int(epoch_done), plan.epochs, "epoch", float(loss_sum) / (step + 1), rate, left
                )
            )
        if epoch + 1 == plan.epochs and plan.optimizer == "lpf-sgd":
            # So far batch norm has seen activations at displaced weights only.
            batches = (batch for _, batch in read_batches(images, mine.ravel(), mine.shape[1], device))
            with autocast(device):
                update_bn(batches, model)
        if epoch + 1 in snapshot_paths:
            with replacing(snapshot_paths[epoch + 1]) as temporary:
                save_file(
                    {key: value.cpu().contiguous() for key, value in model.state_dict().items()}, temporary
                )
        if checkpoint:
            save_checkpoint(checkpoint, model.state_dict(), optimizer, epoch + 1)
    model.eval()


def steps_an_epoch(plan: TrainingPlan, count: int) -> int:
    """Whole batches only: batch norm cannot train on a last batch of one image."""
    return max(1, count // plan.batch_size)


def snapshots(plan: TrainingPlan, count: int, checkpoint: Path) -> list[Snapshot]:
    """The snapshots that training on `count` images leaves beside its checkpoint, in order."""
    steps = steps_an_epoch(plan, count)
    rates = np.array([rate_at(plan, at / (plan.epochs * steps)) for at in range(plan.epochs * steps)])
    epochs = [
        0,
        *np.unique(
            np.linspace(plan.epochs, 1, min(plan.snapshots, plan.epochs)).round().astype(int)
        ).tolist(),
    ]
    return [
        Snapshot(
            checkpoint.with_name(f"{checkpoint.stem}-epoch{last}.safetensors"),
            last,
            float(rates[first * steps : last * steps].sum()),
        )
        for first, last in itertools.pairwise(epochs)
    ]


def load_snapshot(model: Classifier, snapshot: Snapshot, device: torch.device) -> Classifier:
    """Put a snapshot's parameters into a model of the same kind, in eval mode."""
    model.load_state_dict(load_file(snapshot.path, device=str(device)))
    return model.eval()


def rate_at(plan: TrainingPlan, progress: float) -> float:
    """The learning rate after a share of the training."""
    return plan.learning_rate * (1.0 if plan.constant_rate else one_cycle(progress))


def one_cycle(progress: float) -> float:
    """Learning rate factor: linear up over the first fifth of training, linear down to zero after it."""
    return progress / WARMUP_SHARE if progress < WARMUP_SHARE else (1 - progress) / (1 - WARMUP_SHARE)
