"""Gradients of examples in half precision, in tables of some examples each, in memory or on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharpeye.curvature.gradients import Gradients

BLOCK = 32


@dataclass(frozen=True)
class StoredGradients:
    """Gradients of examples, one row each.

    Attributes:
        tables: of `gradient_table`, one after the other, in memory or in files. A file is open only while it
            is read, since there may be many, and so that its pages leave memory.
        shapes: of the matrices that a gradient holds one after the other, by name, (O, I) each.
    """

    tables: tuple[np.ndarray | Path, ...]
    shapes: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return sum(len(table) for table in self._opened())

    def column(self, name: str) -> np.ndarray:
        """A number of each example: `norm`, ‖g_i‖, or `loss`, (N,)."""
        return np.concatenate([table[name] for table in self._opened()])

    def rows(self, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of gradients, (at most BLOCK, D), with their places."""
        first = 0
        for table in self._opened():
            for start in range(0, len(table), BLOCK):
                gradients = _gradients(table, slice(start, start + BLOCK), slice(None), device)
                yield slice(first + start, first + start + len(gradients)), gradients
            first += len(table)

    def matrices(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """The gradients with respect to one matrix after the other, (N, O · I)."""
        start = 0
        for name, (out, inside) in self.shapes.items():
            columns = slice(start, start + out * inside)
            yield (
                name,
                torch.cat([_gradients(table, slice(None), columns, device) for table in self._opened()]),
            )
            start += out * inside

    def whole(self, device: torch.device) -> Tensor:
        """All gradients, (N, D), where they are few."""
        return torch.cat([block for _, block in self.rows(device)])

    def _opened(self) -> Iterator[np.ndarray]:
        for table in self.tables:
            yield np.load(table, mmap_mode="r") if isinstance(table, Path) else table


def gradient_table(gradients: Gradients, losses: Tensor) -> np.ndarray:
    """A table of a batch's gradients: `norm` and `loss` of each, and `unit`, the gradient over its root mean
    square, (D,) in float16."""
    flat = torch.cat([layer.dense()[0].flatten(1) for layer in gradients.values()], 1)
    width = flat.shape[1]
    norms = flat.norm(dim=1).clamp_min(1e-30)
    table = np.empty(len(flat), [("norm", "<f4"), ("loss", "<f4"), ("unit", "<f2", (width,))])
    table["norm"], table["loss"] = norms.cpu().numpy(), losses.cpu().numpy()
    table["unit"] = (flat * (width**0.5 / norms)[:, None]).half().cpu().numpy()
    return table


def _gradients(table: np.ndarray, rows: slice, columns: slice, device: torch.device) -> Tensor:
    part = table[rows]
    unit = torch.from_numpy(np.array(part["unit"][:, columns])).to(device).float()
    width = table.dtype["unit"].shape[0]
    return unit * torch.from_numpy(part["norm"] / width**0.5).to(device)[:, None]
