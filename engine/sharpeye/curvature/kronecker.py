"""K-FAC and EK-FAC: a Kronecker-factored eigenbasis a layer, with the damping added to the eigenvalues
exactly."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import scipy.linalg
import torch
from torch import Tensor

from sharpeye.curvature.base import GradientBatches, State, absolute_damping, gram, squared_norms
from sharpeye.curvature.gradients import Gradients, LayerGradients, Vector
from sharpeye.training.devices import bf16_products, in_float64

# Eigenvectors are left out, and their eigenvalues taken for 0, as long as the mean score of images like those
# of the fit changes by less than this share under K-FAC: nothing then needs to be rotated onto them.
NEGLIGIBLE = 0.02
# With less damping than this, what is left of a gradient after the rest is taken off would drown in rounding.
TRUNCATED_FROM = 0.05
BLOCK = 256

# Activations with a one for the bias, (B, d + 1), and probabilities, (B, C).
HeadBatch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class KroneckerLayer:
    """H + λI ≈ (Q_B ⊗ Q_A)(Λ + λ)(Q_B ⊗ Q_A)ᵀ of one layer, on r of I input and s of O output eigenvectors.

    Λ on all others.

    Attributes:
        inputs: Q_A, (I, r).
        outputs: Q_B, (O, s).
        inverse: 1 / (Λ + λ), (s, r).
        rest: 1 / λ, ().
    """

    inputs: Tensor
    outputs: Tensor
    inverse: Tensor
    rest: Tensor

    @property
    def complete(self) -> bool:
        """Whether no eigenvector is left out."""
        return self.inputs.shape[0] == self.inputs.shape[1] and self.outputs.shape[0] == self.outputs.shape[1]

    def rotated(self, layer: LayerGradients) -> tuple[Tensor, Callable[[], Tensor]]:
        """Q_Bᵀ G Q_A for every gradient, (K, B, s, r), by the cheaper of rotating its factors or the sum.

        And what gives the inner products between the gradients themselves, (B, K, K).
        """
        kinds, _, positions, width = layer.output_gradients.shape
        # Rounding an eigenvector's entries to bf16 lets 10⁻⁶ of the mean eigenvalue leak into it, far less
        # than any damping.
        with bf16_products(layer.output_gradients.device):
            if positions <= kinds * width:
                factors = LayerGradients(
                    layer.activations @ self.inputs, layer.output_gradients @ self.outputs
                )
                return factors.dense(), layer.gram
            dense = layer.dense()
            return self.outputs.T @ dense @ self.inputs, lambda: gram(dense)

    def inverse_quadratic(self, layer: LayerGradients) -> Tensor:
        if layer.activations.shape[1] == 1:
            weights = (layer.activations[:, 0] @ self.inputs).square() @ self.inverse.T
            return (layer.output_gradients[:, :, 0] @ self.outputs).square().mul(weights).sum(2)
        rotated, whole = self.rotated(layer)
        if self.complete:
            return squared_norms(rotated, self.inverse)
        return (
            squared_norms(rotated, self.inverse - self.rest) + whole().diagonal(dim1=1, dim2=2).T * self.rest
        )

    def inverse_product(self, vectors: Tensor) -> Tensor:
        """(H + λI)⁻¹v of vectors (…, O, I)."""
        scale = self.inverse if self.complete else self.inverse - self.rest
        known = self.outputs @ (self.outputs.T @ vectors @ self.inputs * scale) @ self.inputs.T
        return known if self.complete else known + vectors * self.rest

    def inverse_gram(self, layer: LayerGradients) -> Tensor:
        if layer.activations.shape[1] == 1:
            weights = (layer.activations[:, 0] @ self.inputs).square() @ self.inverse.T
            return gram((layer.output_gradients[:, :, 0] @ self.outputs) * weights.sqrt())
        rotated, whole = self.rotated(layer)
        if self.complete:
            return gram(rotated, self.inverse)
        return gram(rotated, self.inverse - self.rest) + whole() * self.rest


class KroneckerCurvature:
    """K-FAC, or with `corrected` EK-FAC, of the validation risk; layers independent of each other.

    K-FAC: A = E[Σ_p a aᵀ], B = E[Σ_p b bᵀ] / P, Λ = λ_B λ_Aᵀ (Martens & Grosse 2015; Grosse & Martens 2016,
    eq. 24). EK-FAC: the same eigenbasis with Λ = E[(Q_Bᵀ G Q_A)²] (George et al. 2018, eq. 12). λ = damping ·
    mean of a layer's Λ.

    In layers that share weights over positions, eigenvectors on which no score depends are left out, see
    NEGLIGIBLE.
    """

    def __init__(self, layers: dict[str, KroneckerLayer]):
        self.layers = layers

    @classmethod
    def fit(
        cls, batches: Callable[[], GradientBatches], damping: float, corrected: bool
    ) -> "KroneckerCurvature":
        """Fit it.

        Args:
            batches: called once for K-FAC and twice for EK-FAC; each call yields the same gradient batches.
            damping: relative to the mean eigenvalue of each layer.
            corrected: EK-FAC.
        """
        bases = {name: basis.truncated(damping) for name, basis in _eigenbases(batches()).items()}
        spectra = (
            _corrected(batches(), bases)
            if corrected
            else {name: basis.spectrum() for name, basis in bases.items()}
        )
        layers = {}
        for name, (values, mean) in spectra.items():
            shift = absolute_damping(damping, mean)
            layers[name] = KroneckerLayer(
                bases[name].inputs, bases[name].outputs, 1 / (values + shift), 1 / shift
            )
        return cls(layers)

    @classmethod
    def fit_head(
        cls, batches: Callable[[], Iterable[HeadBatch]], damping: float, corrected: bool
    ) -> "KroneckerCurvature":
        """The same of the softmax head alone, in closed form, in O(N(C² + d²)): no gradient for each class.

        There Σ_k v_k v_kᵀ = diag p − ppᵀ. So A = E[aaᵀ] and B = diag E[p] − E[ppᵀ]; and with EK-FAC Λ_sr =
        E[w_s u_r], w_s = Σ_c p_c Q_cs² − (Σ_c p_c Q_cs)² of Q_B and u_r = (Q_Aᵀa)_r².

        Args:
            batches: called once for K-FAC and twice for EK-FAC; activations a with a one for the bias, (B,
                d + 1), and probabilities p, (B, C).
            damping: relative to the mean eigenvalue.
            corrected: EK-FAC.
        """
        inputs, outputs, count = _head_factors(batches())
        input_values, input_vectors = _eigen(inputs)
        output_values, output_vectors = (part.to(inputs) for part in _eigen(outputs))
        values = torch.outer(output_values, input_values)
        if corrected:
            values = torch.zeros_like(values)
            wide = in_float64(output_vectors)
            for activations, p in batches():
                known = in_float64(p)
                variances = (known @ wide.square() - (known @ wide).square()).clamp_min(0).to(inputs)
                values += variances.T @ (activations @ input_vectors).square() / count
        shift = absolute_damping(damping, values.mean())
        head = KroneckerLayer(input_vectors, output_vectors, 1 / (values + shift), 1 / shift)
        return cls({"head": head})

    def state(self) -> State:
        return {
            f"{name}:{part}": value
            for name, layer in self.layers.items()
            for part, value in vars(layer).items()
        }

    @classmethod
    def from_state(cls, state: State) -> "KroneckerCurvature":
        names = dict.fromkeys(key.rpartition(":")[0] for key in state)
        return cls({name: KroneckerLayer(*(state[f"{name}:{part}"] for part in PARTS)) for name in names})

    def inverse_quadratic(self, gradients: Gradients) -> Tensor:
        return torch.stack(
            [self.layers[name].inverse_quadratic(layer) for name, layer in gradients.items()]
        ).sum(0)

    def inverse_product(self, vectors: Vector) -> Vector:
        """(H + λI)⁻¹v of vectors, layer by layer, (…, O, I)."""
        return {name: self.layers[name].inverse_product(part) for name, part in vectors.items()}

    def inverse_gram(self, gradients: Gradients) -> Tensor:
        return torch.stack([self.layers[name].inverse_gram(layer) for name, layer in gradients.items()]).sum(
            0
        )


def _head_factors(batches: Iterable[HeadBatch]) -> tuple[Tensor, Tensor, int]:
    """A and B of the head, see `KroneckerCurvature.fit_head`, and the number of images.

    B in float64: where the network is sure, little is left of its difference.
    """
    sums: list[Tensor] = []
    count = 0
    for activations, p in batches:
        known = in_float64(p)
        parts = [activations.T @ activations, known.T @ known, known.sum(0)]
        sums = [total + part for total, part in zip(sums, parts, strict=True)] if sums else parts
        count += len(p)
    inputs, outputs, mean = sums
    return inputs / count, (torch.diag(mean) - outputs) / count, count


PARTS = tuple(field.name for field in fields(KroneckerLayer))


@dataclass(frozen=True)
class Basis:
    """Eigenvalues λ_A (r,), λ_B (s,) and eigenvectors Q_A (I, r), Q_B (O, s) of a layer's factors.

    The mean of all λ_B λ_Aᵀ.
    """

    input_values: Tensor
    inputs: Tensor
    output_values: Tensor
    outputs: Tensor
    mean: Tensor
    shared: bool

    def truncated(self, damping: float) -> "Basis":
        """Without the eigenvectors on which scores hardly depend, where weights are shared over positions.

        A gradient's square along an eigenvector is Λ on average, so the mean score is Σ Λ/(Λ + λ), and taking
        Λ for 0 there adds Λ/λ − Λ/(Λ + λ) to it.
        """
        if not self.shared or damping < TRUNCATED_FROM:
            return self
        values, shift = self.spectrum()[0], absolute_damping(damping, self.mean)
        scores = values / (values + shift)
        changes, bearable = values / shift - scores, NEGLIGIBLE * scores.sum() / 2
        a, b = _needed(changes.sum(0), bearable), _needed(changes.sum(1), bearable)
        return replace(
            self,
            input_values=self.input_values[a],
            inputs=self.inputs[:, a],
            output_values=self.output_values[b],
            outputs=self.outputs[:, b],
        )

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """K-FAC's Λ, (s, r), and the mean over all of the layer."""
        return torch.outer(self.output_values, self.input_values), self.mean


def _needed(changes: Tensor, bearable: Tensor) -> Tensor:
    """Whatever is left when the smallest changes, as many as add up to less than what is bearable, are
    dropped."""
    ordered = changes.sort()
    needed = torch.ones_like(changes, dtype=torch.bool)
    needed[ordered.indices[ordered.values.cumsum(0) < bearable]] = False
    return needed


def _eigenbases(batches: GradientBatches) -> dict[str, Basis]:
    factors: dict[str, list[Tensor]] = {}
    # Over all images; their number may differ from batch to batch, as that of tokens does.
    positions: dict[str, int] = {}
    count = 0
    for gradients, images in batches:
        for name, layer in gradients.items():
            sides = [layer.activations.flatten(0, 1), layer.output_gradients.flatten(0, 2)]
            if name not in factors:
                factors[name] = [rows.new_zeros(rows.shape[1], rows.shape[1]) for rows in sides]
                positions[name] = 0
            for total, rows in zip(factors[name], sides, strict=True):
                _add_moment(total, rows)
            positions[name] += images * layer.activations.shape[1]
        count += images
    bases = {}
    for name, (a, b) in factors.items():
        (input_values, inputs), (output_values, outputs) = _eigen(a / count), _eigen(b / positions[name])
        bases[name] = Basis(
            input_values,
            inputs,
            output_values,
            outputs,
            input_values.mean() * output_values.mean(),
            positions[name] > count,
        )
    return bases


def _add_moment(total: Tensor, rows: Tensor) -> None:
    """Add rowsᵀ rows to the blocks of a symmetric matrix on and above its diagonal."""
    with bf16_products(rows.device):
        for start in range(0, len(total), BLOCK):
            total[start : start + BLOCK, start:] += rows[:, start : start + BLOCK].T @ rows[:, start:]


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix, given on and above its diagonal."""
    # In float32 the eigensolver fails to converge on factors with many nearly equal eigenvalues.
    wide = in_float64(matrix)
    try:
        values, vectors = torch.linalg.eigh(wide, UPLO="U")
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # On some processors it does in float64 too, where many rows are zero; another algorithm does not.
        pair = scipy.linalg.eigh(wide.cpu().numpy(), lower=False, driver="evr")
        values, vectors = (torch.from_numpy(part) for part in pair)
    return values.clamp_min(0).to(matrix), vectors.to(matrix)


def _corrected(batches: GradientBatches, bases: dict[str, Basis]) -> dict[str, tuple[Tensor, Tensor]]:
    """EK-FAC's Λ, (s, r), and the mean over all of the layer, for every layer."""
    sums: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    count = 0
    for gradients, images in batches:
        for name, layer in gradients.items():
            basis = KroneckerLayer(bases[name].inputs, bases[name].outputs, torch.ones(()), torch.ones(()))
            rotated, whole = basis.rotated(layer)
            squares = rotated.square().sum((0, 1))
            norm = squares.sum() if basis.complete else whole().diagonal(dim1=1, dim2=2).sum()
            sums[name] = squares if name not in sums else sums[name] + squares
            norms[name] = norm if name not in norms else norms[name] + norm
        count += images
    return {
        name: (
            total / count,
            norms[name] / count / (bases[name].inputs.shape[0] * bases[name].outputs.shape[0]),
        )
        for name, total in sums.items()
    }
