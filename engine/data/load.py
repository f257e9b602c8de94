"""From a run's configuration to a training set and a disjoint, trusted validation split."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.config import RunConfig
from engine.data.dataset import LabeledImages, ingest, natural_size
from engine.data.sources import Source, SourceOptions, open_source
from engine.data.splits import by_column, by_list, by_share, reconcile
from engine.errors import InputError

SHARE = "share:"
LIST = "ids:"


def open_sources(config: RunConfig) -> tuple[Source, Source | None]:
    """The training source, and the validation split's own where it has one. Cheap: nothing is decoded.

    Raises:
        InputError: one of them is not there or cannot be read.
    """
    training = open_training(config)
    return training, open_validation(config, training)


def open_training(config: RunConfig) -> Source:
    """The training source alone; raises InputError as `open_sources` does."""
    return open_source(config.train, _options(config))


def open_validation(config: RunConfig, training: Source) -> Source | None:
    """The validation split's own source, or None where it is drawn from the training source.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if config.validation == "split" or (config.validation or "").startswith((SHARE, LIST)):
        return None
    if config.validation is None and training.has_splits:
        return None
    if lacks_validation(config, training):
        raise InputError(
            f"{config.train}: no validation split; give --validation SPEC, add a split column or train/ and validation/ folders, "
            "or --validation share:0.1 if a tenth of its labels can be trusted"
        )
    validation = config.validation or config.train
    own = validation == config.train or validation.startswith("torchvision:")
    columns = _options(config) if own and validation != "demo" else SourceOptions(torchvision_root=config.torchvision_root)
    return open_source(validation, replace(columns, human_labels=None), default_split="validation")


def load_splits(
    config: RunConfig,
    sources: tuple[Source, Source | None],
    cache: Path,
    input_size: Callable[[int], int],
    report: Callable[[int, int], None],
) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split of a run, reconciled (see `reconcile`).

    Args:
        config: of the run.
        sources: from `open_sources`.
        cache: folder of decoded datasets.
        input_size: the images' own largest side -> pixels per side to decode to.
        report: called with (images decoded, images in all).

    Raises:
        InputError: whatever is wrong with the sources.
    """
    source, validation = sources
    training = load_training(config, source, cache, input_size, report)
    if validation is not None:
        return reconcile(training, ingest(validation, cache, training.images.shape[1], None, report))
    if config.validation and config.validation.startswith(SHARE):
        return reconcile(*by_share(training, _share(config.validation), config.seed))
    if trusted := trusted_list(config):
        return reconcile(*by_list(training, trusted))
    return reconcile(*by_column(training))


def _share(validation: str) -> float:
    try:
        return float(validation.removeprefix(SHARE))
    except ValueError as error:
        raise InputError(f"--validation {validation}: expected a number, such as share:0.1") from error


def lacks_validation(config: RunConfig, training: Source) -> bool:
    """Whether neither the configuration nor the source itself says which images can be trusted."""
    own = training.has_splits or config.train == "demo" or config.train.startswith("torchvision:")
    return config.validation is None and not own


def load_training(
    config: RunConfig,
    source: Source,
    cache: Path,
    input_size: Callable[[int], int],
    report: Callable[[int, int], None],
) -> LabeledImages:
    """Every image of the training source, decoded; arguments and errors as of `load_splits`."""
    return ingest(source, cache, config.image_size or input_size(natural_size(source)), config.limit, report)


def trusted_list(config: RunConfig) -> Path | None:
    """The file that `ids:FILE` names; None for another kind of validation split."""
    validation = config.validation or ""
    return Path(validation.removeprefix(LIST)).expanduser() if validation.startswith(LIST) else None


def _options(config: RunConfig) -> SourceOptions:
    return SourceOptions(config.label_column, config.true_label_column, config.human_labels, config.torchvision_root)
