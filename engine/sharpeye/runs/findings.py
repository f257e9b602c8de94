"""What is wrong with the images of a run apart from their labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from sharpeye.data.dataset import LabeledImages, measures_of
from sharpeye.data.findings import (
    CONFLICT,
    OUTLIER,
    UNUSUAL,
    duplicate_findings,
    names_of,
    picture_findings,
    unusual,
)
from sharpeye.data.near_duplicates import groups_of, near_duplicate_pairs
from sharpeye.diagnostics.embedding import Neighbours, neighbours
from sharpeye.runs.artifacts import cached, load_array, save_array
from sharpeye.runs.context import Execution, RunContext
from sharpeye.runs.stages import NEIGHBOURS

# Cosine of the features of a frozen network. On CIFAR-10, pairs above it show the same picture.
SAME_PICTURE = 0.95


@dataclass(frozen=True)
class NeighbourInputs:
    """All that decides which images are most like each image."""

    features: np.ndarray


@dataclass(frozen=True)
class DuplicateInputs:
    """All that decides which images show the same."""

    images: LabeledImages


@dataclass(frozen=True)
class ImageFindings:
    """What is wrong with images apart from their labels, N each.

    Attributes:
        findings: names among `sharpeye.data.findings.FINDINGS`, joined by commas.
        duplicate_group: number of the group of pictures that show the same; −1 for none.
        outlier_distance: 1 − mean cosine of the features to those of the images most like it.
        measures: of the pictures.
    """

    findings: "pd.Categorical[str]"
    duplicate_group: np.ndarray
    outlier_distance: np.ndarray
    measures: pd.DataFrame


def image_findings(context: RunContext, training: LabeledImages, features: np.ndarray) -> ImageFindings:
    """What is wrong with the training images apart from their labels.

    Args:
        context: of the run.
        training: the images.
        features: that tell them apart, (N, d).
    """
    inputs = NeighbourInputs(features)
    most_alike = cached(context, NEIGHBOURS, inputs, _neighbours, _save_neighbours, _load_neighbours)
    pairs = cached(
        context, "near-duplicates", DuplicateInputs(training), _near_duplicates, save_array, load_array
    )
    distance = 1 - most_alike.similarity.mean(1) if most_alike.similarity.size else np.zeros(len(training))
    outliers = np.zeros(len(training), dtype=bool)
    if context.config.on_features:
        # A network trained on these classes draws images of a class together: alike is no more the same.
        at, which = np.nonzero(most_alike.similarity > SAME_PICTURE)
        pairs = np.concatenate([pairs, np.column_stack([at, most_alike.rows[at, which]])])
        outliers = unusual(distance) > UNUSUAL
    groups, measures = groups_of(pairs, len(training)), measures_of(training)
    found = duplicate_findings(groups, training.labels) | picture_findings(measures) | {OUTLIER: outliers}
    found[CONFLICT] |= training.trusted >= 0
    return ImageFindings(names_of(found), groups, distance.astype(np.float32), measures)


def _near_duplicates(inputs: DuplicateInputs, execution: Execution) -> np.ndarray:
    execution.start(NEIGHBOURS)
    return near_duplicate_pairs(inputs.images)


def _neighbours(inputs: NeighbourInputs, execution: Execution) -> Neighbours:
    execution.start(NEIGHBOURS)
    return neighbours(inputs.features, execution.device)


def _save_neighbours(found: Neighbours, path: Path) -> None:
    save_file({"rows": found.rows, "similarity": found.similarity}, path)


def _load_neighbours(path: Path) -> Neighbours:
    return Neighbours(**load_file(path))
