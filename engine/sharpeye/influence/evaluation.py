"""One pass over images at a validation minimum: features, losses and influence of every candidate label."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sharpeye.curvature.base import Curvature
from sharpeye.curvature.gradients import select_layers
from sharpeye.curvature.linearization import HEAD_BATCH, Jacobian, gradient_batch_size, linearize
from sharpeye.data.dataset import Images
from sharpeye.influence.base import Evaluation
from sharpeye.training.batches import mirror, read_batches
from sharpeye.training.devices import in_float64, watched_memory
from sharpeye.training.models import Classifier

MAX_CANDIDATES = 20
# Of the mean Hessian of the validation risk, and of probability beyond the candidates.
NEWTON_WEIGHT = 0.1
SMALLEST_REST = 1e-6
# What an evaluation says of each candidate label or image.
SCORED = ("losses", "influence", "leverage", "newton")


def evaluate(
    model: Classifier,
    curvature: Curvature,
    images: Images,
    labels: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    parameters: str,
    all_candidates: bool,
    mirrored: bool,
    device: torch.device,
    report: Callable[[int, int], None] = lambda done, total: None,
    divisor: int = 1,
    newton_weight: float = NEWTON_WEIGHT,
) -> Evaluation:
    """Score images at θ̃; a pure function of model, curvature and batch, so it may run over any partition of
    the images.

    Args:
        model: at the minimum, in eval mode, on `device`.
        curvature: fitted there, over the same `parameters`.
        images: uint8, (N, S, S, 3).
        labels: given labels, (N,).
        classes: candidate classes, (N, k); None: see `candidate_classes`.
        parameters: what the influence is taken over.
        all_candidates: score every candidate label, not only the given one.
        mirrored: average each quantity over the image and its mirror image.
        device: where to compute.
        report: called with (images done, images in all).
        divisor: batches are this many times smaller than usual, where memory is short.
        newton_weight: w of `newton_step`.
    """
    started = time.monotonic()
    layers = select_layers(model, parameters)
    class_count = model.head.out_features
    kinds = min(class_count, MAX_CANDIDATES) + 1 if all_candidates else 1
    batch_size = (
        max(1, HEAD_BATCH // divisor)
        if parameters == "head"
        else gradient_batch_size(layers, kinds * divisor)
    )
    parts: list[tuple[Tensor, ...]] = []
    with watched_memory(device) as peak_memory:
        for rows, batch in read_batches(images, np.arange(len(images)), batch_size, device):
            views = [batch, mirror(batch)] if mirrored else [batch]
            given = torch.from_numpy(labels[rows]).to(device)
            linearized = [linearize(model, layers, view, parameters) for view in views]
            losses = -torch.stack([log_p for _, log_p, _ in linearized]).mean(0)
            chosen = (
                candidate_classes(losses, given)
                if classes is None
                else torch.from_numpy(classes[rows]).to(device)
            )
            influence, leverage, newton = zip(
                *[
                    view_influence(
                        curvature,
                        jacobian,
                        log_p.exp(),
                        chosen if all_candidates else None,
                        given,
                        newton_weight,
                    )
                    for _, log_p, jacobian in linearized
                ],
                strict=True,
            )
            features = torch.stack([phi for phi, _, _ in linearized]).mean(0)
            columns_of_batch = (
                chosen,
                losses.gather(1, chosen),
                torch.stack(influence).mean(0),
                torch.stack(leverage).mean(0),
                torch.stack(newton).mean(0),
                features.half(),
            )
            parts.append(tuple(t.cpu() for t in columns_of_batch))
            report(int(rows[-1]) + 1, len(images))
        memory_mb = peak_memory()
    columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    return Evaluation(
        classes=columns[0],
        losses=columns[1],
        influence=columns[2],
        leverage=columns[3] if all_candidates else None,
        newton=columns[4] if all_candidates else None,
        features=columns[5],
        seconds=time.monotonic() - started,
        memory_mb=memory_mb,
    )


def mean_evaluation(parts: list[Evaluation], weights: list[float]) -> Evaluation:
    """Weighted mean of what evaluations of the same candidate classes hold.

    The features of the last.
    """

    def mean(arrays: list[np.ndarray]) -> np.ndarray:
        result: np.ndarray = np.average(arrays, axis=0, weights=weights).astype(arrays[0].dtype)
        return result

    return combined(parts, mean, SCORED)


def combined(
    parts: list[Evaluation], combine: Callable[[list[np.ndarray]], np.ndarray], names: tuple[str, ...]
) -> Evaluation:
    """One evaluation of several: arrays of these names by `combine`, the cost in all, the rest of the last.

    Args:
        parts: evaluations that have the same arrays.
        combine: makes one array of an array of each part.
        names: attributes of `Evaluation`; one that the parts do not have stays None.
    """
    arrays = {name: [getattr(part, name) for part in parts] for name in names}
    made = {name: combine(values) for name, values in arrays.items() if values[0] is not None}
    seconds, memory_mb = sum(part.seconds for part in parts), max(part.memory_mb for part in parts)
    return replace(parts[-1], **made, seconds=seconds, memory_mb=memory_mb)


def joined_evaluation(parts: list[Evaluation], order: np.ndarray) -> Evaluation:
    """Evaluations of disjoint images as one: its image i is image order[i] of theirs, one after the other."""

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays)[order]

    return combined(parts, joined, ("classes", *SCORED, "features"))


def candidate_classes(losses: Tensor, given: Tensor) -> Tensor:
    """All C classes; or, of more than MAX_CANDIDATES, the given one and the most probable others, (B, k)."""
    count = losses.shape[1]
    if count <= MAX_CANDIDATES:
        return torch.arange(count, device=losses.device).expand(len(losses), -1)
    first = losses.scatter(1, given[:, None], -1.0)
    return first.topk(MAX_CANDIDATES, largest=False).indices


def view_influence(
    curvature: Curvature,
    jacobian: Jacobian,
    probabilities: Tensor,
    classes: Tensor | None,
    given: Tensor,
    newton_weight: float = NEWTON_WEIGHT,
) -> tuple[Tensor, Tensor, Tensor]:
    """Influence of each candidate label, the leverage tr M(x), and the Newton step of each candidate label,
    from one Gram matrix an image.

    With M = J(H + λI)⁻¹Jᵀ: candidate(c) = r_cᵀMr_c, r_c = p − e_c. The rows of M are those of the candidates;
    where these are not all classes, those of r_c and of p, so that what cancels is the leverage, which is
    large, and not the influence.

    Args:
        curvature: (H + λI), factored.
        jacobian: v (K, B, C) -> Jᵀv.
        probabilities: p, (B, C).
        classes: candidates, (B, k); None for the given label only.
        given: given labels, (B,).
        newton_weight: w of `newton_step`.

    Returns:
        (B, k), (B,) and (B, k); for the given label only, (B, 1) and zeros.
    """
    identity = torch.eye(probabilities.shape[1], dtype=probabilities.dtype, device=probabilities.device)
    if classes is None:
        quadratic = curvature.inverse_quadratic(jacobian((probabilities - identity[given])[None]))
        return quadratic.T, torch.zeros_like(quadratic[0]), torch.zeros_like(quadratic.T)
    chosen = identity[classes].transpose(0, 1)
    if classes.shape[1] == probabilities.shape[1]:
        matrix = curvature.inverse_gram(jacobian(chosen))
        residuals = probabilities[:, None] - identity
        between = residuals @ matrix @ residuals.mT
        influence, leverage = (gram.diagonal(dim1=1, dim2=2) for gram in (between, matrix))
        return influence, leverage.sum(1), newton_step(between, probabilities, newton_weight)
    matrix = curvature.inverse_gram(jacobian(torch.cat([probabilities - chosen, probabilities[None]])))
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    leverage = (diagonal[:, -1:] - 2 * matrix[:, :-1, -1] + diagonal[:, :-1]).sum(1)
    newton = newton_step(matrix[:, :-1, :-1], probabilities.gather(1, classes), newton_weight)
    return diagonal[:, :-1], leverage, newton


def newton_step(between: Tensor, probabilities: Tensor, weight: float = NEWTON_WEIGHT) -> Tensor:
    """gᵀ(H + λI + wH_z)⁻¹g for each candidate label, H_z = JᵀFJ the Hessian of the image's own loss: how far
    one Newton step moves the minimum where the image joins the risk with weight w. (B, k).

    As r_cᵀ(M⁻¹ + wF)⁻¹r_c with M = J(H + λI)⁻¹Jᵀ and F = diag p − ppᵀ, which needs no more than the Gram
    matrix of the residuals r_c = p − e_c, since F = Σ_c p_c r_c r_cᵀ. w = 0 is the influence; for w → ∞, w
    times it becomes r_cᵀF⁺r_c = 1/p_c − 1, which ranks as the loss does. Classes that are not candidates
    count as one, of their mean residual.

    Args:
        between: r_aᵀMr_b of the candidates, (B, k, k).
        probabilities: of the candidates, (B, k).
        weight: w, relative to the mean over the validation risk.
    """
    gram, p = in_float64(between), in_float64(probabilities)
    rest = (1 - p.sum(1)).clamp_min(0.0)
    # Σ_c p_c r_c over all classes is 0, so what the others contribute is known from the candidates.
    shared = torch.where(rest > SMALLEST_REST, 1 / rest.clamp_min(SMALLEST_REST), 0.0)
    fisher = torch.diag_embed(p) + shared[:, None, None] * p[:, :, None] * p[:, None]
    identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    solved = torch.linalg.solve(identity + weight * gram @ fisher, gram)
    return solved.diagonal(dim1=1, dim2=2).clamp_min(0.0).to(between)
