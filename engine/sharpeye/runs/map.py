"""The map of the images, and trusted images like each of them, as evidence on its label."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpeye.data.dataset import LabeledImages
from sharpeye.diagnostics.embedding import embed, nearest, rows_on_map
from sharpeye.files import replacing
from sharpeye.influence.noise_posterior import NoisePosterior, surest
from sharpeye.runs.artifacts import cached, load_array, save_array
from sharpeye.runs.context import Execution, RunContext
from sharpeye.runs.diagnosis import ScoredRun
from sharpeye.runs.embedding import feature_rows
from sharpeye.runs.networks import Minimum
from sharpeye.runs.scores import ROW_GROUP
from sharpeye.runs.scoring import network_features
from sharpeye.runs.stages import MAP

EVIDENCE_IMAGES = 4
# Whose labels are counted.
COUNTED_IMAGES = 20
# Of a class, where there is no clean split.
SUREST_IMAGES = 200


@dataclass(frozen=True)
class References:
    """Images of labels that can be trusted, shown as evidence, and their features, (M, d)."""

    images: LabeledImages
    features: np.ndarray


@dataclass(frozen=True)
class MapInputs:
    """All that decides where the images lie on the map."""

    features: np.ndarray
    placed: np.ndarray


def references_of(
    context: RunContext,
    network: Minimum | None,
    beliefs: NoisePosterior,
    training: LabeledImages,
    validation: LabeledImages,
) -> References:
    """The validation split; without one, the images whose given labels are the surest, class by class.

    Args:
        context: of the run.
        network: whose features are taken; None where these stand in the place of images.
        beliefs: of the training labels.
        training: the images that are scored.
        validation: the trusted images; may be empty.
    """
    if len(validation) == 0:
        validation = training.subset(surest(training.labels, beliefs.wrong, SUREST_IMAGES))
    # Pictures are shown from one folder.
    validation = validation.subset(validation.rows >= 0)
    if network is None:
        return References(validation, feature_rows(validation))
    context.execution.start(MAP)
    return References(validation, network_features(context, network, validation))


def write_map(context: RunContext, scored: ScoredRun, features: np.ndarray, references: References) -> None:
    """Write embedding.parquet, row for row beside scores.parquet.

    Its columns are `x` and `y` on the map, and the trusted images most like the image: `near_given` of its
    given label and `near_suggested` of the suggested one (rows of the decoded data set); `near_labels`, the
    names of the labels of the COUNTED_IMAGES most like it, of any class.
    """
    beliefs, training = scored.beliefs, scored.training
    device = context.execution.device
    suspicion = np.argsort(np.argsort(-beliefs.wrong, kind="stable"))
    inputs = MapInputs(features, rows_on_map(suspicion))
    coordinates = cached(context, MAP, inputs, _draw_map, save_array, load_array)
    table = pd.DataFrame(coordinates, columns=["x", "y"])
    trusted = references.images
    for name, labels in (("near_given", training.labels), ("near_suggested", beliefs.candidates.best())):
        neighbours = nearest(features, labels, references.features, trusted.labels, EVIDENCE_IMAGES, device)
        table[name] = list(np.where(neighbours < 0, -1, trusted.rows[neighbours]))
    alike = nearest(
        features,
        np.zeros(len(training), dtype=np.int64),
        references.features,
        np.zeros(len(trusted), dtype=np.int64),
        COUNTED_IMAGES,
        device,
    )
    names = np.array(training.class_names, dtype=object)
    table["near_labels"] = [list(names[trusted.labels[rows[rows >= 0]]]) for rows in alike]
    with replacing(scored.folder.embedding) as temporary:
        table.to_parquet(temporary, index=False, row_group_size=ROW_GROUP)


def _draw_map(inputs: MapInputs, execution: Execution) -> np.ndarray:
    execution.start(MAP)
    return embed(inputs.features, inputs.placed)
