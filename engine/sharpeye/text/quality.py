"""How well influence finds the training examples of a validation example's class."""

from collections.abc import Sequence

import numpy as np


def importance(method: str, matrix: np.ndarray) -> np.ndarray:
    """What a method ranks by: ½ a² of a signed influence a of `fvm`, `vm` and their normalized forms; of
    others their own values."""
    signed = method.removesuffix("_normalized") in ("fvm", "vm")
    return np.square(matrix) / 2 if signed else matrix


def class_auc(influence: np.ndarray, training: Sequence[str], validation: Sequence[str]) -> float | None:
    """AUC of influence as a detector of the validation example's class, the mean over those examples.

    Args:
        influence: (N, V), higher = more influential.
        training: class of each training example, (N,).
        validation: class of each validation example, (V,).

    Returns:
        None where no validation example has training examples both of its class and of others.
    """
    from sklearn.metrics import roc_auc_score

    values = []
    for column, same in _same_class(training, validation):
        if same.any() and not same.all():
            values.append(float(roc_auc_score(same, influence[:, column])))
    return float(np.mean(values)) if values else None


def class_recall(influence: np.ndarray, training: Sequence[str], validation: Sequence[str]) -> float | None:
    """Share of the class among as many of the most influential training examples as it has, the mean over
    validation examples. Arguments as of `class_auc`."""
    values = []
    for column, same in _same_class(training, validation):
        if same.any() and not same.all():
            most = np.argsort(-influence[:, column], kind="stable")[: int(same.sum())]
            values.append(float(same[most].mean()))
    return float(np.mean(values)) if values else None


def _same_class(training: Sequence[str], validation: Sequence[str]) -> list[tuple[int, np.ndarray]]:
    known = np.asarray(training, dtype=object)
    return [(column, known == name) for column, name in enumerate(validation)]
