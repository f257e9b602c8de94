"""Influence of training examples on validation examples, and on themselves, from stored gradients."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sharpeye.curvature.base import LEAST_MEAN
from sharpeye.curvature.gradients import Vector
from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.text.stored_gradients import StoredGradients

# λ of a matrix as a share of its gradients' mean squared entry, for DataInf and LiSSA (DataInf's choice).
DAMPING = 0.1
LISSA_STEPS = 10


def dot_products(training: StoredGradients, directions: Tensor) -> np.ndarray:
    """⟨g_i, d_v⟩ of every training example i and direction v, (N, V); directions (V, D)."""
    result = np.empty((len(training), len(directions)), np.float32)
    for part, block in training.rows(directions.device):
        result[part] = (block @ directions.T).cpu().numpy()
    return result


def preconditioned(curvature: KroneckerCurvature, gradients: StoredGradients, device: torch.device) -> Tensor:
    """(H + λ)⁻¹g of each gradient, (V, D)."""
    width = sum(out * inside for out, inside in gradients.shapes.values())
    result = torch.empty(len(gradients), width, device=device)
    for part, block in gradients.rows(device):
        solved = curvature.inverse_product(split(block, gradients.shapes))
        result[part] = torch.cat([matrix.flatten(1) for matrix in solved.values()], 1)
    return result


def signed_influence(
    curvature: KroneckerCurvature,
    training: StoredGradients,
    validation: StoredGradients,
    device: torch.device,
) -> np.ndarray:
    """a(i, v) = g_vᵀ(H_val + λ)⁻¹g_i, (N, V): how far a Newton step on example i lowers the loss of v.

    Above 0 the training example helps, below it harms. With the validation example's own Fisher g_v g_vᵀ for
    its Hessian, the paper's influence I(i, v) = ½ Δθᵀ∇²ℓ_vΔθ, Δθ = (H_val + λ)⁻¹g_i, is ½ a².
    """
    return dot_products(training, preconditioned(curvature, validation, device))


def squared_lengths(
    curvature: KroneckerCurvature, training: StoredGradients, device: torch.device
) -> np.ndarray:
    """g_iᵀ(H_val + λ)⁻¹g_i of each training example i and each of LoRA's L matrices alone, (N, L).

    Their sum is self-influence, g_iᵀ(H_val + λ)⁻¹g_i of all matrices: higher = more suspicious.
    """
    result = np.empty((len(training), len(training.shapes)), np.float32)
    for part, block in training.rows(device):
        vectors = split(block, training.shapes)
        solved = curvature.inverse_product(vectors)
        own = [(vectors[name] * solved[name]).flatten(1).sum(1) for name in training.shapes]
        result[part] = torch.stack(own, 1).cpu().numpy()
    return result


def normalized_influence(
    curvature: KroneckerCurvature,
    training: StoredGradients,
    validation: StoredGradients,
    lengths: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """r(i, v), with |r|² = 1/L Σ_l c_l² over the L matrices of LoRA and the sign of Σ_l c_l, (N, V):
    c_l = g_vᵀ(H_val + λ)⁻¹g_i / √(g_iᵀ(H_val + λ)⁻¹g_i · g_vᵀ(H_val + λ)⁻¹g_v), all of matrix l alone.

    It is the paper's I(i, v) = ½ Δθᵀ∇²ℓ_vΔθ with the validation example's own Fisher taken matrix by matrix,
    as H_val is: ½ Σ_l a_l² in place of ½ (Σ_l a_l)². What two matrices say with different signs then adds up,
    and does not cancel. And of both examples only the direction counts: one that the model has not learned
    has a long gradient, and would influence everything.

    Args:
        curvature: of the validation risk.
        training: g_i.
        validation: g_v.
        lengths: `squared_lengths` of the former.
        device: where to compute.
    """
    squares = torch.zeros(len(training), len(validation), device=device)
    total = torch.zeros_like(squares)
    columns = torch.from_numpy(lengths).to(device).T
    pairs = zip(columns, training.matrices(device), validation.matrices(device), strict=True)
    for own, (name, g), (_, v) in pairs:
        solved = curvature.inverse_product({name: v.reshape(-1, *training.shapes[name])})[name].flatten(1)
        scale = torch.outer(own, (v * solved).sum(1)).clamp_min(1e-30).sqrt()
        cosines = g @ solved.T / scale
        squares += cosines.square()
        total += cosines
    return ((squares / len(columns)).sqrt() * total.sign()).cpu().numpy()


def token_influence(
    curvature: KroneckerCurvature,
    training: StoredGradients,
    samples: list[StoredGradients],
    device: torch.device,
) -> np.ndarray:
    """I(i, v) = ½ Δθ_iᵀ∇²ℓ_vΔθ_i with the generalised Gauss–Newton matrix of v's tokens, (N, V).

    Args:
        curvature: of the validation risk.
        training: g_i.
        samples: K draws of vectors u_v with E[u uᵀ] = ∇²ℓ_v; the mean over them of ½ (uᵀΔθ)² stands for I.
        device: where to compute.
    """
    total = 0.0
    for sample in samples:
        total = total + np.square(signed_influence(curvature, training, sample, device))
    return total / (2 * len(samples))  # type: ignore[return-value]


def newton_influence(
    curvature: KroneckerCurvature,
    training: StoredGradients,
    samples: list[StoredGradients],
    weight: float,
    device: torch.device,
) -> np.ndarray:
    """g_iᵀ(H_val + λ + w H_i)⁻¹g_i, the exact Newton step where example i joins the risk with weight w, (N,).

    H_i ≈ 1/K Σ_k u_k u_kᵀ from K draws of vectors, so that by Woodbury it is s − w bᵀ(K + w G)⁻¹b with
    C = H_val + λ, s = gᵀC⁻¹g, b_k = u_kᵀC⁻¹g and G_kl = u_kᵀC⁻¹u_l.
    """
    grams = torch.from_numpy(_grams(curvature, [training, *samples], device)).double()
    own, with_samples, among = grams[:, 0, 0], grams[:, 1:, 0], grams[:, 1:, 1:]
    inner = len(samples) * torch.eye(len(samples)).double() + weight * among
    solved = torch.linalg.solve(inner, with_samples)
    return (own - weight * (with_samples * solved).sum(1)).numpy()


def _grams(
    curvature: KroneckerCurvature, gradients: list[StoredGradients], device: torch.device
) -> np.ndarray:
    """G(H_val + λ)⁻¹Gᵀ of each example, G the K gradients that are stored of it, (N, K, K)."""
    first = gradients[0]
    result = np.empty((len(first), len(gradients), len(gradients)), np.float32)
    for blocks in zip(*(one.rows(device) for one in gradients), strict=True):
        rows = torch.stack([block for _, block in blocks])
        vectors = split(rows, first.shapes)
        solved = curvature.inverse_product(vectors)
        total = sum(torch.einsum("kboi,lboi->bkl", vectors[name], solved[name]) for name in vectors)
        result[blocks[0][0]] = total.cpu().numpy()  # type: ignore[union-attr]
    return result


def split(rows: Tensor, shapes: dict[str, tuple[int, int]]) -> Vector:
    """Rows (…, D) of a gradient as matrices, (…, O, I), by name."""
    sizes = [out * inside for out, inside in shapes.values()]
    parts = rows.split(sizes, dim=-1)
    return {
        name: part.reshape(*rows.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def tracin(training: StoredGradients, validation: StoredGradients, device: torch.device) -> np.ndarray:
    """⟨g_i, g_v⟩ at the trained model, (N, V): TracIn at its last checkpoint (arXiv 2002.08484)."""
    return dot_products(training, validation.whole(device))


def cosine(training: StoredGradients, validation: StoredGradients, device: torch.device) -> np.ndarray:
    """The cosine of the angle between g_i and g_v, (N, V)."""
    products = tracin(training, validation, device)
    return products / np.outer(training.column("norm"), validation.column("norm"))


def datainf(training: StoredGradients, validation: StoredGradients, device: torch.device) -> np.ndarray:
    """Σ_l g_vᵀ [1/n Σ_j (g_j g_jᵀ + λ_l)⁻¹] g_i over the matrices l, (N, V) (arXiv 2310.00902, equation 5).

    λ_l = DAMPING · the mean squared entry of g_j there. Signed so that what helps is above 0.
    """
    return _by_matrix(training, validation, device, _swapped)


def _swapped(g: Tensor, v: Tensor, damping: Tensor) -> Tensor:
    own = g @ g.T
    with_v = g @ v.T
    weights = with_v / (damping + own.diagonal())[:, None]
    return (with_v - own @ weights / len(g)) / damping


def lissa(training: StoredGradients, validation: StoredGradients, device: torch.device) -> np.ndarray:
    """g_vᵀ(H_train + λ)⁻¹g_i with H_train = 1/n Σ_j g_j g_jᵀ by LISSA_STEPS steps of the recursion
    h ← v + h − (H + λ)h / s, matrix by matrix, (N, V) (arXiv 1602.03943).

    All steps are whole sums, computed from inner products: after k steps h = Σ_j c_j g_j + c v.
    """
    return _by_matrix(training, validation, device, _recursion)


def _recursion(g: Tensor, v: Tensor, damping: Tensor) -> Tensor:
    own, with_v, count = g @ g.T, g @ v.T, len(g)
    scale = torch.linalg.eigvalsh(own / count)[-1] + damping
    # h = own_part of the training gradients and a multiple of v; both in the scale of 1 / s.
    among, alone = torch.zeros_like(with_v), torch.ones((), device=g.device)
    for _ in range(LISSA_STEPS):
        curved = (own @ among + alone * with_v) / count
        among = among - (curved + damping * among) / scale
        alone = 1 + alone - damping * alone / scale
    return (own @ among + alone * with_v) / scale


Solve = Callable[[Tensor, Tensor, Tensor], Tensor]


def _by_matrix(
    training: StoredGradients, validation: StoredGradients, device: torch.device, solve: Solve
) -> np.ndarray:
    total: Tensor | None = None
    pairs = zip(training.matrices(device), validation.matrices(device), strict=True)
    for (_, g), (_, v) in pairs:
        part = solve(g, v, DAMPING * g.square().mean().clamp_min(LEAST_MEAN))
        total = part if total is None else total + part
    assert total is not None
    return total.cpu().numpy()
