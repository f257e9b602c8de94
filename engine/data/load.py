"""From a run's configuration to a training set and a disjoint, trusted validation split."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.config import RunConfig
from engine.data.dataset import LabeledImages, ingest, natural_size
from engine.data.sources import Source, SourceOptions, open_source
from engine.data.splits import by_column, by_share, reconcile
from engine.errors import InputError

SHARE = "share:"


def load_splits(
    config: RunConfig, cache: Path, input_size: Callable[[int], int], report: Callable[[int, int], None]
) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split of a run, reconciled (see `reconcile`).

    Args:
        config: names the sources.
        cache: folder of decoded datasets.
        input_size: the images' own largest side -> pixels per side to decode to.
        report: called with (images decoded, images in all).

    Raises:
        InputError: whatever is wrong with the sources.
    """
    options = SourceOptions(config.label_column, config.true_label_column, config.human_labels, config.torchvision_root)
    source = open_source(config.train, options)
    size = config.image_size or input_size(natural_size(source))
    training = ingest(source, cache, size, config.limit, report)
    share = (config.validation or "").removeprefix(SHARE)
    if config.validation and config.validation.startswith(SHARE):
        try:
            return reconcile(*by_share(training, float(share), config.seed))
        except ValueError as error:
            raise InputError(f"--validation {config.validation}: expected a number, such as share:0.1") from error
    if config.validation == "split" or (config.validation is None and (training.splits == "validation").any()):
        return reconcile(*by_column(training))
    validation = config.validation or _own_validation(config.train)
    own = validation == config.train or validation == "demo" or validation.startswith("torchvision:")
    columns = options if own and validation != "demo" else SourceOptions(torchvision_root=config.torchvision_root)
    opened: Source = open_source(validation, replace(columns, human_labels=None), default_split="validation")
    return reconcile(training, ingest(opened, cache, size, None, report))


def _own_validation(train: str) -> str:
    if train == "demo" or train.startswith("torchvision:"):
        return train
    raise InputError(
        f"{train}: no validation split; give --validation SPEC, add a split column or train/ and validation/ folders, "
        "or --validation share:0.1 if a tenth of its labels can be trusted"
    )
