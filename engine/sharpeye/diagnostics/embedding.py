"""Where images lie in feature space: a map of it in two dimensions, the images most like each one, and the
nearest trusted images as evidence."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize

MAP_IMAGES = 50_000
SUSPECTS_ON_MAP = 10_000
SEED = 0
NEIGHBOURS = 15
# On a map of so few, the main directions tell as much, and umap would compile itself for seconds.
FEW_IMAGES = 100
COMPONENTS = 50
CHUNK = 4096
NEIGHBOUR_CHUNK = 512


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
    """UMAP (arXiv 1802.03426) of features in two dimensions, after PCA to COMPONENTS. Of FEW_IMAGES points
    or fewer, the two main directions themselves.

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
    if len(points) <= FEW_IMAGES:
        coordinates[placed] = np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    else:
        from umap import UMAP

        # Exact neighbours spare UMAP an approximate search, whose compilation alone takes longer.
        distances, rows = (
            NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(reduced).kneighbors(reduced)
        )
        known = rows.astype(np.int32), distances.astype(np.float32), None
        reducer = UMAP(NEIGHBOURS, precomputed_knn=known, random_state=SEED, n_jobs=1)
        coordinates[placed] = reducer.fit_transform(reduced)
    return coordinates


@dataclass(frozen=True)
class Neighbours:
    """The images most like each image.

    Attributes:
        rows: their numbers, int32, (N, k).
        similarity: cosine of the two images' features, float32, (N, k).
    """

    rows: np.ndarray
    similarity: np.ndarray


def neighbours(features: np.ndarray, device: torch.device) -> Neighbours:
    """The NEIGHBOURS images most like each image, or all others where there are fewer.

    They are those nearest in the COMPONENTS main directions of the features, which hold nearly all that
    tells images apart; their similarity is that of the whole features, since what is unlike all others lies
    outside of these directions.

    Args:
        features: (N, d).
        device: where to compute similarities.
    """
    count = min(NEIGHBOURS, len(features) - 1)
    if count < 1:
        return Neighbours(np.zeros((len(features), 0), np.int32), np.zeros((len(features), 0), np.float32))
    sample = features[np.unique(np.linspace(0, len(features) - 1, MAP_IMAGES).astype(np.int64))]
    main = PCA(min(COMPONENTS, *sample.shape), random_state=SEED).fit(sample.astype(np.float32))
    chunks = [slice(start, start + CHUNK) for start in range(0, len(features), CHUNK)]
    points = np.concatenate([main.transform(features[chunk].astype(np.float32)) for chunk in chunks])
    # Without a query, a point is not its own neighbour.
    rows = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(points).kneighbors()[1].astype(np.int32)

    def directions(some: np.ndarray) -> torch.Tensor:
        return normalize(torch.from_numpy(features[some]).to(device).float(), dim=1)

    similarity = np.empty(rows.shape, np.float32)
    for start in range(0, len(features), NEIGHBOUR_CHUNK):
        chunk = np.arange(start, min(start + NEIGHBOUR_CHUNK, len(features)))
        others = directions(rows[chunk].ravel()).reshape(len(chunk), count, -1)
        similarity[chunk] = torch.einsum("nd,nkd->nk", directions(chunk), others).cpu().numpy()
    return Neighbours(rows, similarity)


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
