"""Make the packaged demo: a stratified part of Fashion-MNIST with seeded, class-dependent label noise.

    python -m sharpeye.data.demo.make DIRECTORY

DIRECTORY holds the four original `*-ubyte.gz` files (Debian: package `dataset-fashion-mnist`,
/usr/share/datasets/fashion-mnist). Fashion-MNIST is (c) 2017 Zalando SE, MIT licence, arXiv 1708.07747.
"""

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sharpeye.data.noise import flip_labels

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
TRAINING_PER_CLASS = 600
VALIDATION_PER_CLASS = 150
SEED = 2505

# Share of a class that is given another label, and what it is mistaken for (weights).
CONFUSIONS: dict[str, tuple[float, dict[str, float]]] = {
    "T-shirt/top": (0.22, {"Shirt": 6, "Dress": 2, "Pullover": 2}),
    "Trouser": (0.08, {"Dress": 5, "Bag": 1}),
    "Pullover": (0.24, {"Coat": 5, "Shirt": 4, "T-shirt/top": 1}),
    "Dress": (0.16, {"Coat": 3, "T-shirt/top": 3, "Trouser": 2, "Shirt": 2}),
    "Coat": (0.24, {"Pullover": 5, "Shirt": 4, "Dress": 1}),
    "Sandal": (0.20, {"Sneaker": 6, "Ankle boot": 3, "Bag": 1}),
    "Shirt": (0.36, {"T-shirt/top": 5, "Coat": 3, "Pullover": 3, "Dress": 1}),
    "Sneaker": (0.20, {"Ankle boot": 5, "Sandal": 5}),
    "Bag": (0.06, {"Sandal": 1, "Coat": 1, "Pullover": 1}),
    "Ankle boot": (0.16, {"Sneaker": 7, "Sandal": 3}),
}


def transition_matrix() -> np.ndarray:
    """The noise as a matrix T[t, y] = P(given label y | true label t); rows sum to one."""
    matrix = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)))
    for true, name in enumerate(CLASS_NAMES):
        rate, weights = CONFUSIONS[name]
        matrix[true, true] = 1 - rate
        for other, weight in weights.items():
            matrix[true, CLASS_NAMES.index(other)] = rate * weight / sum(weights.values())
    return matrix


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes: magic (0, 0, 8, rank), sizes, data."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, dtype=">i4", count=rank, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def stratified(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `per_class` images of each class, in shuffled order."""
    chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in np.unique(labels)]
    return rng.permutation(np.concatenate(chosen))


def write(path: Path, prefix: str, images: np.ndarray, given: np.ndarray, true: np.ndarray) -> None:
    features = {"label": {"_type": "ClassLabel", "names": list(CLASS_NAMES)}}
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": png(image), "path": f"{prefix}-{i:04d}.png"} for i, image in enumerate(images)],
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            ),
            "label": pa.array(given.astype(np.int8)),
            "true_label": pa.array(true.astype(np.int8)),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, compression="zstd")


def main(source: Path, target: Path) -> None:
    rng = np.random.default_rng(SEED)
    for prefix, files, per_class in (
        ("train", "train", TRAINING_PER_CLASS),
        ("validation", "t10k", VALIDATION_PER_CLASS),
    ):
        images, labels = (
            read_idx(source / f"{files}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
        )
        rows = stratified(labels, per_class, rng)
        true = labels[rows].astype(np.int64)
        given = flip_labels(true, transition_matrix(), SEED) if prefix == "train" else true
        write(target / f"{prefix}.parquet", prefix, images[rows], given, true)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
