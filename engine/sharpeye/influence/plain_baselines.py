"""What people do without Sharpeye, on the same features: cross-fitted logistic regression with confident
learning, and nearest neighbours."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from sharpeye.training.heads import fit_head, log_probabilities, zero_head

# Of logistic regression, see `sharpeye.training.heads`.
RIDGES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
FOLDS = 5
NEIGHBOURS = 20
CHUNK = 2048
# cleanlab's names of its scores.
SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


@dataclass(frozen=True)
class BaselineScores:
    """Scores of one baseline under one regularisation.

    Attributes:
        name: of the baseline.
        suspicion: higher = more suspicious, (N,).
        suggestion: class, (N,).
        expected_wrong: how many labels it says are wrong; None where it says nothing.
        seconds: what it took.
    """

    name: str
    suspicion: np.ndarray
    suggestion: np.ndarray
    expected_wrong: float | None
    seconds: float


def confident_learning_on_features(
    features: np.ndarray,
    labels: np.ndarray,
    trusted: tuple[np.ndarray, np.ndarray],
    class_count: int,
    seed: int,
) -> list[BaselineScores]:
    """Confident learning (Northcutt et al. 2021, arXiv 1911.00068) on FOLDS-fold logistic regression.

    Every score under every ridge.

    Args:
        features: (N, d).
        labels: given labels, (N,).
        trusted: features and labels that join the training of every fold; may be empty.
        class_count: C.
        seed: of the folds.
    """
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores

    device = torch.device("cpu")
    everything = np.concatenate([features, trusted[0]])
    everyone = np.concatenate([labels, trusted[1]])
    extra = np.arange(len(features), len(everything))
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    learned = [np.concatenate([np.flatnonzero(fold != number), extra]) for number in range(FOLDS)]
    heads = [zero_head(everything, rows, class_count, device) for rows in learned]
    results = []
    for ridge in RIDGES:
        started = time.monotonic()
        p = np.zeros((len(labels), class_count))
        for number, rows in enumerate(learned):
            heads[number] = fit_head(everything, rows, everyone, heads[number], ridge, device)
            held = np.flatnonzero(fold == number)
            p[held] = np.exp(log_probabilities(heads[number], everything, held, device), dtype=np.float64)
        p /= p.sum(1, keepdims=True)
        seconds, count = time.monotonic() - started, float(num_label_issues(labels, p))
        for score in SCORES:
            quality = get_label_quality_scores(labels, p, method=score)
            name = f"cleanlab {score.replace('_', ' ')}"
            results.append(BaselineScores(name, 1 - np.asarray(quality), p.argmax(1), count, seconds))
    return results


def nearest_neighbours(features: np.ndarray, labels: np.ndarray, class_count: int) -> BaselineScores:
    """The share of an image's NEIGHBOURS most alike that have another label, weighted by their cosine."""
    started = time.monotonic()
    points = torch.nn.functional.normalize(torch.from_numpy(features.astype(np.float32)), dim=1)
    votes = np.zeros((len(labels), class_count))
    count = min(NEIGHBOURS, len(labels) - 1)
    for start in range(0, len(points), CHUNK):
        likeness = points[start : start + CHUNK] @ points.T
        rows = torch.arange(start, start + len(likeness))
        likeness[rows - start, rows] = -1.0
        values, near = likeness.topk(count, dim=1)
        weights, near_labels = values.clamp_min(0).double().numpy(), labels[near.numpy()]
        for one in range(count):
            np.add.at(votes, (rows.numpy(), near_labels[:, one]), weights[:, one])
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-12)
    suspicion = 1 - votes[np.arange(len(labels)), labels]
    return BaselineScores("kNN", suspicion, votes.argmax(1), None, time.monotonic() - started)
