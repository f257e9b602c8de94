"""Influence at a validation minimum with the interface of dattri's attributors, for any network."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from sharpeye.curvature.gradients import with_one
from sharpeye.curvature.kronecker import HeadBatch, KroneckerCurvature
from sharpeye.errors import InputError

# Batches of inputs and class numbers, as a DataLoader gives them; not shuffled.
Batches = Iterable[tuple[Tensor, Tensor]]


class FVMAttributor:
    """gᵀ(H + λI)⁻¹g over the linear head of a network at a (flat) minimum of its validation risk.

    It has the methods of `dattri.algorithm.base.BaseAttributor`, and `self_attribute`. H is the Hessian
    risk of the images given to `cache`, by K-FAC or EK-FAC; g = (p − e_y) ⊗ [φ; 1]
    (arXiv 2505.19097).
    """

    def __init__(
        self,
        model: nn.Module,
        head: str,
        damping: float = 1.0,
        corrected: bool = False,
        device: str = "cpu",
    ):
        """Take a network as it is; nothing is trained.

        Args:
            model: at a minimum of its validation risk.
            head: name of its last layer, an `nn.Linear` whose outputs are the logits, such as `fc`.
            damping: λ relative to the mean eigenvalue of H.
            corrected: EK-FAC.
            device: where to compute.

        Raises:
            InputError: there is no such linear layer.
        """
        layer = dict(model.named_modules()).get(head)
        if not isinstance(layer, nn.Linear):
            known = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)]
            raise InputError(f"head {head!r} is no linear layer of the model; these are: {', '.join(known)}")
        self.model, self.layer = model.to(device).eval(), layer
        self.damping, self.corrected, self.device = damping, corrected, device
        self.curvature: KroneckerCurvature | None = None

    def cache(self, full_train_dataloader: Batches) -> None:
        """Fit the curvature on the images at whose risk the network is a minimum: the validation split."""

        def batches() -> Iterator[HeadBatch]:
            return ((activations, p) for activations, p, _ in self._passes(full_train_dataloader))

        self.curvature = KroneckerCurvature.fit_head(batches, self.damping, self.corrected)

    def self_attribute(self, train_dataloader: Batches) -> Tensor:
        """g_iᵀ(H + λI)⁻¹g_i of each training image, (N,), high for labels that disagree with the minimum."""
        activations, residuals, inverse = self._rotated(train_dataloader)
        return torch.einsum("ns,sr,nr->n", residuals.square(), inverse, activations.square())

    def attribute(self, train_dataloader: Batches, test_dataloader: Batches) -> Tensor:
        """g_iᵀ(H + λI)⁻¹g_j of each training image i and test image j, (N, M)."""
        activations, residuals, inverse = self._rotated(train_dataloader)
        others, other_residuals, _ = self._rotated(test_dataloader)
        influence = torch.zeros(len(activations), len(others), device=self.device, dtype=activations.dtype)
        for direction, weights in enumerate(inverse):
            along = torch.outer(residuals[:, direction], other_residuals[:, direction])
            influence += along * ((activations * weights) @ others.T)
        return influence

    def _rotated(self, batches: Batches) -> tuple[Tensor, Tensor, Tensor]:
        """Activations and residuals p − e_y in the eigenbases of H, and 1 / (Λ + λ) there."""
        if self.curvature is None:
            raise InputError("call cache() with the validation split first")
        layer = self.curvature.layers["head"]
        rows = [
            (activations @ layer.inputs, (p - nn.functional.one_hot(labels, p.shape[1])) @ layer.outputs)
            for activations, p, labels in self._passes(batches)
        ]
        activations, residuals = (torch.cat(part) for part in zip(*rows, strict=True))
        return activations, residuals, layer.inverse

    @torch.no_grad()
    def _passes(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """[φ; 1], probabilities and labels of each batch."""
        kept: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            for images, labels in batches:
                logits = self.model(images.to(self.device))
                yield with_one(kept.pop().flatten(1)), logits.softmax(1), labels.to(self.device)
        finally:
            hook.remove()
