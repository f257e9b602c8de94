"""K-FAC and EK-FAC: a Kronecker-factored eigenbasis a layer, with the damping added to the eigenvalues exactly."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.curvature.base import GradientBatches, State, gram, squared_norms
from engine.curvature.gradients import Gradients, LayerGradients


@dataclass(frozen=True)
class KroneckerLayer:
    """H + λI ≈ (Q_B ⊗ Q_A)(Λ + λ)(Q_B ⊗ Q_A)ᵀ of one layer.

    Attributes:
        inputs: Q_A, (I, I).
        outputs: Q_B, (O, O).
        inverse: 1 / (Λ + λ), (O, I).
    """

    inputs: Tensor
    outputs: Tensor
    inverse: Tensor

    def rotated(self, layer: LayerGradients) -> Tensor:
        """Q_Bᵀ G Q_A for every gradient, (K, B, O, I), by the cheaper of rotating its factors or the sum."""
        kinds, _, positions, width = layer.output_gradients.shape
        if positions <= kinds * width:
            factors = LayerGradients(layer.activations @ self.inputs, layer.output_gradients @ self.outputs)
            return factors.dense()
        return self.outputs.T @ layer.dense() @ self.inputs

    def inverse_quadratic(self, layer: LayerGradients) -> Tensor:
        if layer.activations.shape[1] == 1:
            weights = (layer.activations[:, 0] @ self.inputs).square() @ self.inverse.T
            return (layer.output_gradients[:, :, 0] @ self.outputs).square().mul(weights).sum(2)
        return squared_norms(self.rotated(layer) * self.inverse.sqrt())

    def inverse_gram(self, layer: LayerGradients) -> Tensor:
        if layer.activations.shape[1] == 1:
            weights = (layer.activations[:, 0] @ self.inputs).square() @ self.inverse.T
            return gram((layer.output_gradients[:, :, 0] @ self.outputs) * weights.sqrt())
        return gram(self.rotated(layer) * self.inverse.sqrt())


class KroneckerCurvature:
    """K-FAC, or with `corrected` EK-FAC, of the validation risk; layers independent of each other.

    K-FAC: A = E[Σ_p a aᵀ], B = E[Σ_p b bᵀ] / P, Λ = λ_B λ_Aᵀ (Martens & Grosse 2015; Grosse & Martens 2016, eq. 24).
    EK-FAC: the same eigenbasis with Λ = E[(Q_Bᵀ G Q_A)²] (George et al. 2018, eq. 12). λ = damping · mean of a layer's Λ.
    """

    def __init__(self, layers: dict[str, KroneckerLayer]):
        self.layers = layers

    @classmethod
    def fit(cls, batches: Callable[[], GradientBatches], damping: float, corrected: bool) -> "KroneckerCurvature":
        """Fit it.

        Args:
            batches: called once for K-FAC and twice for EK-FAC; each call yields the same gradient batches.
            damping: relative to the mean eigenvalue of each layer.
            corrected: EK-FAC.
        """
        bases = _eigenbases(batches())
        values = _corrected(batches(), bases) if corrected else {n: torch.outer(b, a) for n, (a, _, b, _) in bases.items()}
        damped = {name: value + damping * value.mean() for name, value in values.items()}
        return cls({name: KroneckerLayer(q_a, q_b, 1 / damped[name]) for name, (_, q_a, _, q_b) in bases.items()})

    def state(self) -> State:
        return {f"{name}:{part}": value for name, layer in self.layers.items() for part, value in vars(layer).items()}

    @classmethod
    def from_state(cls, state: State) -> "KroneckerCurvature":
        names = dict.fromkeys(key.rpartition(":")[0] for key in state)
        return cls({n: KroneckerLayer(state[f"{n}:inputs"], state[f"{n}:outputs"], state[f"{n}:inverse"]) for n in names})

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        return torch.stack([self.layers[name].inverse_quadratic(layer) for name, layer in gradients.items()]).sum(0)

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        return torch.stack([self.layers[name].inverse_gram(layer) for name, layer in gradients.items()]).sum(0)


Basis = tuple[Tensor, Tensor, Tensor, Tensor]


def _eigenbases(batches: GradientBatches) -> dict[str, Basis]:
    """λ_A, Q_A, λ_B, Q_B of every layer."""
    factors: dict[str, list[Tensor]] = {}
    count = 0
    for gradients, images in batches:
        for name, layer in gradients.items():
            a = layer.activations.flatten(0, 1)
            b = layer.output_gradients.flatten(0, 2)
            sums = [a.T @ a, b.T @ b / layer.activations.shape[1]]
            factors[name] = [old + new for old, new in zip(factors[name], sums, strict=True)] if name in factors else sums
        count += images
    return {name: (*_eigen(a / count), *_eigen(b / count)) for name, (a, b) in factors.items()}


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    # In float32 the eigensolver fails to converge on factors with many nearly equal eigenvalues.
    wide = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()
    values, vectors = torch.linalg.eigh(wide)
    return values.clamp_min(0).to(matrix), vectors.to(matrix)


def _corrected(batches: GradientBatches, bases: dict[str, Basis]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    count = 0
    for gradients, images in batches:
        for name, layer in gradients.items():
            basis = KroneckerLayer(bases[name][1], bases[name][3], torch.ones(()))
            squares = basis.rotated(layer).square().sum((0, 1))
            sums[name] = squares if name not in sums else sums[name] + squares
        count += images
    return {name: total / count for name, total in sums.items()}
