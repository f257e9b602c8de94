"""Where images lie in feature space: a map of it in two dimensions, and the nearest trusted images as
evidence."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch.nn.functional import normalize

MAP_IMAGES = 50_000
SUSPECTS_ON_MAP = 10_000
SEED = 0
NEIGHBOURS = 15
COMPONENTS = 50
CHUNK = 4096


def rows_on_map(rank: np.ndarray) -> np.ndarray:
    """The images that are placed on the map, in order.

    Of more than MAP_IMAGES images, the SUSPECTS_ON_MAP most suspicious and an even choice of the others.

    Args:
        rank: 1 for the most suspicious image, (N,).
    """
    if len(rank) <= MAP_IMAGES:
        return np.arange(len(rank))
    order = np.argsort(rank)
    others = order[SUSPECTS_ON_MAP:]
    spaced = np.linspace(0, len(others) - 1, MAP_IMAGES - SUSPECTS_ON_MAP).astype(np.int64)
    return np.sort(np.concatenate([order[:SUSPECTS_ON_MAP], others[spaced]]))


def embed(features: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """UMAP (arXiv 1802.03426) of features in two dimensions, after PCA to COMPONENTS.

    The same features always give the same map, so that runs on them can be compared on it.

    Args:
        features: (N, d).
        placed: rows to place, see `rows_on_map`.

    Returns:
        float32, (N, 2); NaN for images that are not placed.
    """
    points = features[placed].astype(np.float32)
    reduced = PCA(min(COMPONENTS, *points.shape), random_state=SEED).fit_transform(points)
    coordinates = np.full((len(features), 2), np.nan, dtype=np.float32)
    if len(points) <= NEIGHBOURS:
        coordinates[placed] = np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    else:
        from umap import UMAP

        coordinates[placed] = UMAP(n_neighbors=NEIGHBOURS, random_state=SEED, n_jobs=1).fit_transform(reduced)
    return coordinates


def nearest(
    features: np.ndarray,
    labels: np.ndarray,
    references: np.ndarray,
    reference_labels: np.ndarray,
    count: int,
    device: torch.device,
) -> np.ndarray:
    """The reference images of an image's label whose features are most alike (cosine), best first.

    Args:
        features: of the images, (N, d).
        labels: class to look in, (N,).
        references: features of the trusted images, (M, d).
        reference_labels: their labels, (M,).
        count: how many, k.
        device: where to compute.

    Returns:
        Positions among the references, (N, k); −1 where the class has fewer.
    """
    neighbours = np.full((len(features), count), -1, dtype=np.int32)
    for label in np.unique(labels):
        of_class = np.flatnonzero(reference_labels == label)
        if len(of_class) == 0:
            continue
        targets = normalize(torch.from_numpy(references[of_class]).to(device).float(), dim=1)
        rows = np.flatnonzero(labels == label)
        nearest_count = min(count, len(of_class))
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            queries = normalize(torch.from_numpy(features[chunk]).to(device).float(), dim=1)
            best = (queries @ targets.T).topk(nearest_count, dim=1).indices.cpu().numpy()
            neighbours[chunk, :nearest_count] = of_class[best]
    return neighbours
