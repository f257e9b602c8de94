"""What the classical methods see: the noisily trained network along its training, and a pass that scores
against a direction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpeye.curvature.gradients import Vector, select_layers, weighted_sum
from sharpeye.curvature.linearization import HEAD_BATCH, gradient_batch_size, linearize, logit_change
from sharpeye.data.dataset import Images, LabeledImages
from sharpeye.influence.base import Candidates, Scores
from sharpeye.training.batches import mirror, read_batches
from sharpeye.training.budgets import ENSEMBLES, EnsemblePlan
from sharpeye.training.models import Classifier
from sharpeye.training.trainer import Snapshot, load_snapshot


@dataclass(frozen=True)
class TrajectoryContext:
    """All that a method may see that works on the trained network itself. True labels are not in it.

    Attributes:
        model: of the right kind; its weights are replaced.
        snapshots: of the training on the given labels, in order; the last one is the trained network.
        images: of the training set, uint8 (N, S, S, 3).
        labels: given labels, (N,).
        validation_images: (M, S, S, 3).
        validation_labels: trusted, (M,).
        parameters: what the influence is taken over.
        damping: relative to the mean eigenvalue.
        mirrored: average over each image and its mirror image.
        device: where to compute.
        seed: of what is drawn at random.
        report: called with (images done, images in all) of each pass.
        trained_on: images and given labels that the network was trained on; None where these are the images
            to score.
        ensemble: of `gex`.
    """

    model: Classifier
    snapshots: tuple[Snapshot, ...]
    images: Images
    labels: np.ndarray
    validation_images: Images
    validation_labels: np.ndarray
    parameters: str
    damping: float
    mirrored: bool
    device: torch.device
    seed: int
    report: Callable[[int, int], None] = lambda done, total: None
    trained_on: tuple[Images, np.ndarray] | None = None
    ensemble: EnsemblePlan = ENSEMBLES["fast"]

    @classmethod
    def of(
        cls,
        model: Classifier,
        snapshots: tuple[Snapshot, ...],
        splits: tuple[LabeledImages, LabeledImages],
        parameters: str,
        damping: float,
        mirrored: bool,
        device: torch.device,
        seed: int,
    ) -> "TrajectoryContext":
        """The context in which a training set is scored by a validation split, given as `splits`."""
        training, validation = splits
        scored, trusted = (training.images, training.labels), (validation.images, validation.labels)
        return cls(model, snapshots, *scored, *trusted, parameters, damping, mirrored, device, seed)

    @property
    def learned(self) -> tuple[Images, np.ndarray]:
        """Images and given labels that the network was trained on."""
        return self.trained_on or (self.images, self.labels)

    def at(self, snapshot: Snapshot) -> Classifier:
        """The network as it was then."""
        return load_snapshot(self.model, snapshot, self.device)

    def trained(self) -> Classifier:
        """The network at the end of its training on the given labels."""
        return self.at(self.snapshots[-1])


def validation_gradient(context: TrajectoryContext, model: Classifier) -> Vector:
    """∇R_val of a network."""
    return mean_gradient(
        model, context.parameters, context.validation_images, context.validation_labels, context.device
    )


def influence_along(context: TrajectoryContext, model: Classifier, direction: Vector) -> np.ndarray:
    """−⟨v, g(x, c)⟩ of the training images (see `against`), (N, C)."""
    return against(
        model,
        context.parameters,
        direction,
        context.images,
        mirrored=context.mirrored,
        device=context.device,
        report=context.report,
    )


def batch_size(model: Classifier, parameters: str) -> int:
    """Images whose gradients under one label each fit into memory."""
    return HEAD_BATCH if parameters == "head" else gradient_batch_size(select_layers(model, parameters), 1)


def mean_gradient(
    model: Classifier, parameters: str, images: Images, labels: np.ndarray, device: torch.device
) -> Vector:
    """∇ of the mean loss over some images."""
    total: Vector = {}
    for rows, batch in read_batches(images, np.arange(len(images)), batch_size(model, parameters), device):
        _, log_p, jacobian = linearize(model, select_layers(model, parameters), batch, parameters)
        p = log_p.exp()
        gradients = jacobian(residuals(p, labels[rows])[None])
        part = weighted_sum(
            gradients, torch.full((1, len(batch)), 1 / len(images), dtype=p.dtype, device=device)
        )
        total = {name: total.get(name, 0) + value for name, value in part.items()}
    return total


def residuals(probabilities: Tensor, labels: np.ndarray) -> Tensor:
    """p − e_y, (B, C)."""
    given = torch.from_numpy(labels).to(probabilities.device)
    return probabilities - torch.nn.functional.one_hot(given, probabilities.shape[1]).to(probabilities)


def against(
    model: Classifier,
    parameters: str,
    direction: Vector,
    images: Images,
    *,
    mirrored: bool,
    device: torch.device,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """−⟨v, g(x, c)⟩ for every class c, (N, C): how much a step along −g(x, c) works against a direction v.

    With g(x, c) = Jᵀ(p − e_c) all classes come from one directional derivative u = Jv: (e_c − p)·u.

    Args:
        model: at θ, in eval mode, on `device`.
        parameters: those that v moves.
        direction: v, for instance (H + λI)⁻¹∇R_val: then this is the change of R_val when an image gains
            weight, higher = more harmful.
        images: uint8, (N, S, S, 3).
        mirrored: mean over the image and its mirror image.
        device: where to compute.
        report: called with (images done, images in all).
    """
    parts = []
    for rows, batch in read_batches(images, np.arange(len(images)), HEAD_BATCH, device):
        scores = [
            _against(model, parameters, direction, view)
            for view in ([batch, mirror(batch)] if mirrored else [batch])
        ]
        parts.append(torch.stack(scores).mean(0).cpu())
        report(int(rows[-1]) + 1, len(images))
    return torch.cat(parts).numpy()


def _against(model: Classifier, parameters: str, direction: Vector, batch: Tensor) -> Tensor:
    p, change = logit_change(model, select_layers(model, parameters), batch, direction, parameters)
    return change - (p * change).sum(1, keepdim=True)


def as_scores(candidates: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of every class, (N, C), as a method's result."""
    classes = np.broadcast_to(np.arange(candidates.shape[1]), candidates.shape)
    result = Candidates(classes, candidates)
    return Scores(result.of(labels), result)


def losses_of(
    model: Classifier, images: Images, *, mirrored: bool, device: torch.device
) -> Iterator[np.ndarray]:
    """−log p_c for every class, mean over views, batch by batch, (B, C)."""
    layers = select_layers(model, "head")
    for _, batch in read_batches(images, np.arange(len(images)), HEAD_BATCH, device):
        views = [batch, mirror(batch)] if mirrored else [batch]
        logs = [linearize(model, layers, view, "head")[1] for view in views]
        yield -torch.stack(logs).mean(0).cpu().numpy()
