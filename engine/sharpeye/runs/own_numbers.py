"""Features or out-of-sample probabilities that people have already, with labels beside them: no images, no
workspace."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.config import SourceOptions
from sharpeye.data.dataset import LabeledImages
from sharpeye.data.records import label_problem, label_text, ordered_names
from sharpeye.data.tables import found, label_column_of, read_table
from sharpeye.errors import InputError
from sharpeye.influence.base import ScoringContext
from sharpeye.influence.features import every_class
from sharpeye.influence.noise_posterior import RELIANCE, NoisePosterior, noise_posterior
from sharpeye.progress import ignore
from sharpeye.runs.context import Execution
from sharpeye.runs.folds import HeadEvaluationInputs, HeadInputs, evaluated_folds, fit_heads
from sharpeye.runs.scores import ranks_of

# Usual names of a column that holds a vector.
VECTOR_COLUMNS = ("features", "embedding", "embeddings", "feature", "probabilities", "pred_probs", "probs")
LARGEST_ERROR = 1e-2


def read_labels(path: Path, label_column: str | None) -> pd.DataFrame:
    """The labels of a table: columns id (its row number where it has none) and label.

    Raises:
        InputError: it cannot be read, or a row has no label; names the row.
    """
    table, _ = read_table(path)
    columns = [str(name) for name in table.columns]
    column = label_column_of(path, columns, SourceOptions(label_column=label_column))
    problems = [label_problem(label) for label in table[column]]
    for row, problem in enumerate(problems):
        if problem:
            raise InputError(f"{path}, row {row + 1}: {problem}")
    own = found("id", columns) or found("path", columns)
    ids = table[own].astype(str) if own else pd.Series(np.arange(len(table)).astype(str))
    return pd.DataFrame({"id": ids, "label": table[column].map(label_text)}).reset_index(drop=True)


def read_matrix(path: Path, rows: int) -> np.ndarray:
    """A matrix of a .npy or .npz file or of Parquet (a column of vectors, or columns of numbers),
    float32, (N, d).

    Raises:
        InputError: it cannot be read, has another number of rows, or holds numbers that are none.
    """
    try:
        if path.suffix.lower() == ".parquet":
            values = _parquet_matrix(path)
        else:
            loaded = np.load(path, allow_pickle=False)
            values = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
        matrix = np.asarray(values, dtype=np.float32)
    except (OSError, ValueError, EOFError, IndexError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable matrix (.npy, .npz or .parquet): {error}") from error
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise InputError(f"{path}: expected two axes, not the shape {matrix.shape}")
    if len(matrix) != rows:
        raise InputError(f"{path}: {len(matrix):,} rows for {rows:,} labels")
    finite = np.isfinite(matrix).all(1)
    if not finite.all():
        raise InputError(f"{path}, row {int((~finite).argmax()) + 1}: a number is missing or infinite")
    return matrix


def _parquet_matrix(path: Path) -> np.ndarray:
    names = pq.read_schema(path).names
    column = next((known for name in VECTOR_COLUMNS if (known := found(name, names))), None)
    if column is not None:
        return np.stack(pq.read_table(path, columns=[column]).column(0).to_numpy())
    return pd.read_parquet(path).select_dtypes("number").to_numpy()


def judge_features(
    features: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[pd.DataFrame, NoisePosterior]:
    """Images by their features alone, each by a head that did not see its label; see `sharpeye.runs.folds`.

    Args:
        features: (N, d).
        labels: given labels, numbers or names, (N,).
        seed: of the folds and of flat training.

    Returns:
        See `judged`; and `fvm`, the influence.
    """
    import torch

    from sharpeye.influence.methods import MINIMUM_METHODS, loss_posterior

    names, codes = np.unique(labels.astype(str), return_inverse=True)
    if len(names) < 2:
        raise InputError("labels of one class only: there is nothing to tell apart")
    images = images_of(features, codes, tuple(names.tolist()))
    execution = Execution(torch.device("cpu"), ignore, lambda note: None)
    nobody = images.subset(np.zeros(len(codes), dtype=bool))
    inputs = HeadInputs(images, nobody, False, "given", "lpf-sgd", seed, "cpu")
    evaluation = evaluated_folds(
        fit_heads(inputs, execution), HeadEvaluationInputs(inputs, "kfac", 1.0, True), "flat", execution
    )
    scoring = ScoringContext(images.labels, len(names), evaluation, RELIANCE)
    beliefs = loss_posterior(scoring)
    table = judged(labels, names, beliefs)
    return table.assign(fvm=MINIMUM_METHODS["fvm"].score(scoring).influence), beliefs


def images_of(features: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> LabeledImages:
    """Features as images, which nothing but the labels is known of."""
    ids = np.arange(len(labels)).astype(str).astype(object)
    return LabeledImages(
        name="features",
        ids=ids,
        images=features,
        labels=labels.astype(np.int64),
        true_labels=None,
        class_names=class_names,
        splits=np.full(len(labels), "", dtype=object),
        hashes=ids,
        skipped=pd.DataFrame(columns=["id", "reason"]),
        folder=Path(),
        rows=np.arange(len(labels)),
        trusted=np.full(len(labels), -1, dtype=np.int64),
    )


def judge_probabilities(
    probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...] | None
) -> tuple[pd.DataFrame, NoisePosterior]:
    """Images by predictions that were made without having seen their labels; see `judged`.

    Args:
        probabilities: p(class | image), (N, C).
        labels: given labels, (N,).
        class_names: of the columns; None: the sorted labels, numbers as numbers.

    Raises:
        InputError: a row is no distribution, or the columns do not fit the labels.
    """
    texts = labels.astype(str)
    names = np.array(class_names or ordered_names(texts), dtype=object)
    if len(names) != probabilities.shape[1]:
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        raise InputError(
            f"{probabilities.shape[1]} columns of probabilities for {len(names)} classes ({listed}): name "
            "them with --classes A,B,…"
        )
    broken = (probabilities < 0).any(1) | (np.abs(probabilities.sum(1) - 1) > LARGEST_ERROR)
    if broken.any():
        raise InputError(f"probabilities, row {int(broken.argmax()) + 1}: is no distribution")
    codes = pd.Index(names).get_indexer(pd.Index(texts))
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        raise InputError(f"labels, row {row + 1}: {texts[row]!r} is none of {', '.join(names[:20])}")
    beliefs = noise_posterior(every_class(probabilities), codes.astype(np.int64), len(names))
    return judged(labels, names, beliefs), beliefs


def judged(labels: np.ndarray, names: np.ndarray, beliefs: NoisePosterior) -> pd.DataFrame:
    """One row an image, in order: given_label, rank, suggested_label, confidence and wrong_probability."""
    return pd.DataFrame(
        {
            "given_label": labels,
            "rank": ranks_of(beliefs.wrong, np.zeros(len(labels), dtype=bool)),
            "suggested_label": names[beliefs.suggestion],
            "confidence": beliefs.confidence,
            "wrong_probability": beliefs.wrong,
        }
    )
