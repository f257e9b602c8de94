"""Linear softmax heads on frozen features: the minimum of a regularised risk, which is convex."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpeye.data.dataset import Images
from sharpeye.training.batches import Labels, read_batches, read_labels
from sharpeye.training.models import Classifier

CHUNK = 8192
STANDARDIZED_BYTES = 1e9
MAX_ITERATIONS = 200
# Of the change of the risk, in nats an image, in one iteration.
TOLERANCE = 1e-6
# Candidates for the ridge, from the strongest, so that each starts where the one before it ended.
RIDGES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
SMALLEST = 1e-12


@dataclass(frozen=True)
class Head:
    """A linear softmax head on standardised features: logits W(φ − c)/s + b.

    Attributes:
        weight: W, (C, d).
        bias: b, (C,).
        centre: c, (d,).
        scale: s, so that the mean squared length of (φ − c)/s is 1.
    """

    weight: Tensor
    bias: Tensor
    centre: Tensor
    scale: float

    def classifier(self) -> Classifier:
        """The same as a network from features to logits, in eval mode."""
        linear = nn.Linear(self.weight.shape[1], len(self.weight), device=self.weight.device)
        with torch.no_grad():
            linear.weight.copy_(self.weight)
            linear.bias.copy_(self.bias)
        return Classifier(Standardize(self.centre, self.scale), linear).eval()


class Standardize(nn.Module):
    """φ -> (φ − c)/s."""

    def __init__(self, centre: Tensor, scale: float):
        super().__init__()
        self.register_buffer("centre", centre)
        self.centre: Tensor
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.centre) / self.scale


def standardization(features: Images, rows: np.ndarray, device: torch.device) -> tuple[Tensor, float]:
    """Centre c (d,) of some features, and their root mean squared distance from it."""
    total, squares = torch.zeros(features.shape[1], dtype=torch.float64), 0.0
    for _, batch in read_batches(features, rows, CHUNK, torch.device("cpu")):
        values = batch.double()
        total += values.sum(0)
        squares += float(values.square().sum())
    centre = total / len(rows)
    variance = max(squares / len(rows) - float(centre.square().sum()), 0.0)
    return centre.float().to(device), max(variance**0.5, SMALLEST)


def fit_head(
    features: Images,
    rows: np.ndarray,
    labels: Labels,
    start: Head,
    ridge: float,
    device: torch.device,
    iterations: int = MAX_ITERATIONS,
) -> Head:
    """The head of least regularised risk over some rows, (1/N) Σ_i CE(y_i, softmax f(x_i)) + ridge/2 ‖W‖², by
    L-BFGS.

    Args:
        features: (N, d).
        rows: to train on.
        labels: of all N, or beliefs.
        start: where to begin, and how features are standardised.
        ridge: ℓ2 penalty on W, not on b.
        device: where to compute.
        iterations: at most.
    """
    weight, bias = (values.clone().requires_grad_(True) for values in (start.weight, start.bias))

    def standardized(values: Tensor) -> Tensor:
        return (values.float() - start.centre) / start.scale

    # They stay in memory, in half precision where they are many.
    few = 4 * len(rows) * features.shape[1] <= STANDARDIZED_BYTES
    chunks: list[tuple[Tensor, Tensor]] = []
    for chunk in (rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)):
        values = torch.from_numpy(np.asarray(features[chunk])).to(device)
        chunks.append((standardized(values) if few else values, read_labels(labels, chunk, device)))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=0.0,
        tolerance_change=TOLERANCE,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def risk() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=device)
        for values, wanted in chunks:
            inputs = values if few else standardized(values)
            loss = functional.cross_entropy(inputs @ weight.T + bias, wanted, reduction="sum") / len(rows)
            loss.backward()
            total += loss.detach()
        penalty = ridge / 2 * weight.square().sum()
        penalty.backward()
        return total + penalty.detach()

    optimizer.step(risk)
    return Head(weight.detach(), bias.detach(), start.centre, start.scale)


def zero_head(features: Images, rows: np.ndarray, class_count: int, device: torch.device) -> Head:
    """A head that knows nothing, for features standardised over some rows."""
    centre, scale = standardization(features, rows, device)
    weight = torch.zeros(class_count, features.shape[1], device=device)
    return Head(weight, torch.zeros(class_count, device=device), centre, scale)


@torch.inference_mode()
def log_probabilities(head: Head, features: Images, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """log p of every class for some rows, float32, (B, C)."""
    model = head.classifier()
    batches = read_batches(features, rows, CHUNK, device)
    return np.concatenate([model(batch).log_softmax(1).cpu().numpy() for _, batch in batches])


def choose_ridge(
    features: Images,
    labels: np.ndarray,
    learned: np.ndarray,
    held: np.ndarray,
    start: Head,
    device: torch.device,
    ridges: Sequence[float] = RIDGES,
) -> tuple[float, Head]:
    """The ridge under which labels that were held out are most likely, and the head there.

    No true label is read.

    Args:
        features: (N, d).
        labels: given labels, (N,).
        learned: rows to train on.
        held: rows held out.
        start: a head that knows nothing.
        device: where to compute.
        ridges: to choose from, in descending order.
    """
    best, best_likelihood, head = (ridges[0], start), -np.inf, start
    for ridge in ridges:
        head = fit_head(features, learned, labels, head, ridge, device)
        logs = log_probabilities(head, features, held, device)
        likelihood = float(np.take_along_axis(logs, labels[held][:, None], 1).mean())
        # The likelihood has one peak along the path.
        if likelihood < best_likelihood:
            break
        best, best_likelihood = (ridge, head), likelihood
    return best
