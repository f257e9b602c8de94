"""From a run's configuration to a training set and a disjoint, trusted validation split."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from sharpeye.config import PHOTOGRAPHS, DataConfig, RunConfig, is_pretrained_backbone
from sharpeye.data.dataset import LabeledImages
from sharpeye.data.records import Source
from sharpeye.data.sources import has_splits, open_source
from sharpeye.data.splits import by_column, by_list, by_share, reconcile, with_confirmed
from sharpeye.errors import InputError
from sharpeye.specs import (
    DemoSource,
    FileSource,
    NoValidation,
    OwnSplit,
    RemoteSource,
    TorchvisionSource,
    TrustedList,
    TrustedShare,
)

# How a source becomes images: the source, and at most how many of its rows.
Reader = Callable[[Source, int | None], LabeledImages]


def open_sources(data: DataConfig) -> tuple[Source, Source | None]:
    """The training source, and the validation split's own where it has one. Cheap: nothing is decoded.

    Raises:
        InputError: one of them is not there or cannot be read.
    """
    training = open_training(data)
    return training, open_validation(data, training)


def open_training(data: DataConfig) -> Source:
    """The training source alone; raises InputError as `open_sources` does."""
    return open_source(data.train, data.options)


def open_validation(data: DataConfig, training: Source) -> Source | None:
    """The validation split's own source, or None where it is drawn from the training source.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if lacks_validation(data, training):
        raise InputError(
            f"{data.train}: no validation split; give --validation SPEC, add a split column or train/ and "
            "validation/ "
            "folders, or --validation share:0.1 if a tenth of its labels can be trusted"
        )
    spec = data.validation
    if isinstance(spec, OwnSplit | TrustedShare | TrustedList | NoValidation) or (
        spec is None and has_splits(training)
    ):
        return None
    spec = spec or data.train
    own = spec == data.train or isinstance(spec, TorchvisionSource)
    options = replace(data.options, human_labels=None)
    if not own or isinstance(spec, DemoSource):
        # Trusted labels, and no true ones beside them.
        options = replace(options, label_column=data.options.validation_label_column, true_label_column=None)
    return open_source(spec, options, default_split="validation")


def fitted(config: RunConfig, training: Source, natural: int) -> RunConfig:
    """A configuration whose model, tuning and methods fit its images.

    Where there is no clean split, images are judged by what was learned from the others.

    Args:
        config: as users give it.
        training: its training source.
        natural: the images' own largest side, see `natural_size`.

    Raises:
        InputError: an option does not fit the tuning.
    """
    lacking = lacks_validation(config.data, training)
    clean = not (lacking or isinstance(config.data.validation, NoValidation))
    config = config.resolved(natural, clean)
    if lacking:
        config = replace(config, data=replace(config.data, validation=NoValidation()))
    if not config.on_features:
        return config
    if not is_pretrained_backbone(config.model) or config.weights == "random":
        raise InputError(
            f"--tune head needs a pre-trained backbone, not {config.model} with {config.weights} weights: "
            f"use --model {PHOTOGRAPHS} or --tune all"
        )
    if config.parameters != "head":
        raise InputError(f"--parameters {config.parameters} needs --tune all: only a head is trained here")
    return config


def load_splits(
    config: RunConfig, sources: tuple[Source, Source | None], read: Reader
) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split of a run, reconciled (see `reconcile`).

    Args:
        config: resolved, see `fitted`.
        sources: from `open_sources`.
        read: makes images of a source.

    Raises:
        InputError: whatever is wrong with the sources.
    """
    data = config.data
    training, validation = _splits(config, sources, read)
    if data.confirmed is None:
        return training, validation
    if len(validation) == 0:
        raise InputError("--confirmed needs a clean split to join: give --validation ids:FILE instead")
    return with_confirmed(training, validation, Path(data.confirmed).expanduser())


def _splits(
    config: RunConfig, sources: tuple[Source, Source | None], read: Reader
) -> tuple[LabeledImages, LabeledImages]:
    data, (source, validation) = config.data, sources
    # Cross-fitted heads judge every class by the training images of the other folds.
    every_class = not config.on_features
    training = read(source, data.limit)
    if isinstance(data.validation, NoValidation):
        return training, training.subset(np.zeros(len(training), dtype=bool))
    if validation is not None:
        return reconcile(training, read(validation, None), every_class)
    if isinstance(data.validation, TrustedShare):
        return reconcile(*by_share(training, data.validation.share, config.seed), every_class)
    if isinstance(data.validation, TrustedList):
        return reconcile(*by_list(training, Path(data.validation.path).expanduser()), every_class)
    return reconcile(*by_column(training), every_class)


def lacks_validation(data: DataConfig, training: Source) -> bool:
    """Whether neither the configuration nor the source itself says which images can be trusted."""
    own = has_splits(training) or not isinstance(data.train, FileSource | RemoteSource)
    return data.validation is None and not own
