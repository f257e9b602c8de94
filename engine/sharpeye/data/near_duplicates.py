"""Pictures that show the same: their hashes are alike, and so are their thumbnails."""

import io
from itertools import count

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sharpeye.data.dataset import LabeledImages, measures_of
from sharpeye.data.images import thumbnail
from sharpeye.data.previews import preview

# Two hashes that differ in fewer bits than there are bands have a band in common.
BANDS = 4
BAND_BITS = 64 // BANDS
# Correlation of two thumbnails.
ALIKE = 0.98
# Grey levels: below this contrast a picture is plain, and compared by its lightness instead.
PLAIN_CONTRAST = 4.0


def near_duplicate_pairs(images: LabeledImages) -> np.ndarray:
    """Pairs of images that show the same: equal pixels, or like hashes and thumbnails, (P, 2)."""
    _, first, content = np.unique(images.hashes.astype(str), return_index=True, return_inverse=True)
    equal = np.column_stack([first[content], np.arange(len(images))])
    equal = equal[equal[:, 0] != equal[:, 1]]
    hashes = measures_of(images)["perceptual_hash"].to_numpy()
    close = first[close_hashes(hashes[first])]
    if len(close):
        close = close[_alike(*(_thumbnails(images, side) for side in close.T))]
    return np.concatenate([equal, close])


def near_duplicates_across(one: LabeledImages, other: LabeledImages) -> np.ndarray:
    """Pairs of an image of one set and one of another that show the same, without equal pixels, (P, 2).

    Plain pictures are left aside: all of them are alike.
    """
    hashes = [measures_of(images)["perceptual_hash"].to_numpy() for images in (one, other)]
    close = close_hashes(np.concatenate(hashes))
    close = close[(close[:, 0] < len(one)) & (close[:, 1] >= len(one))] - [0, len(one)]
    close = close[one.hashes[close[:, 0]] != other.hashes[close[:, 1]]]
    if not len(close):
        return close
    here, there = _thumbnails(one, close[:, 0]), _thumbnails(other, close[:, 1])
    plain = np.minimum(here.std(1), there.std(1)) < PLAIN_CONTRAST
    return close[_alike(here, there) & ~plain]


def close_hashes(hashes: np.ndarray) -> np.ndarray:
    """Pairs of 64-bit hashes, uint64, (N,), that differ in fewer than BANDS bits, (P, 2), each pair once."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        values = (hashes >> np.uint64(band * BAND_BITS)) & np.uint64(2**BAND_BITS - 1)
        order = np.argsort(values, kind="stable")
        ordered, at = values[order], np.arange(len(hashes))
        for apart in count(1):
            at = at[at + apart < len(hashes)]
            at = at[ordered[at] == ordered[at + apart]]
            if not len(at):
                break
            pairs = np.column_stack([order[at], order[at + apart]])
            differing = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
            found.append(np.sort(pairs[differing < BANDS], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def groups_of(pairs: np.ndarray, size: int) -> np.ndarray:
    """Number of the group that pairs connect each of `size` images into, (N,); −1 for those in no pair."""
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    paired = np.isin(np.arange(size), pairs)
    groups = np.full(size, -1, dtype=np.int64)
    groups[paired] = np.unique(component[paired], return_inverse=True)[1]
    return groups


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether thumbnails of pairs of images, (P, pixels) each, are alike, (P,)."""
    contrasts, standard = [], []
    for grey in (one, other):
        contrasts.append(grey.std(1))
        standard.append((grey - grey.mean(1, keepdims=True)) / np.maximum(contrasts[-1], 1e-6)[:, None])
    plain = np.minimum(*contrasts) < PLAIN_CONTRAST
    equally_light = np.abs(one - other).mean(1) < PLAIN_CONTRAST
    return np.where(plain, equally_light, (standard[0] * standard[1]).mean(1) > ALIKE)


def _thumbnails(images: LabeledImages, which: np.ndarray) -> np.ndarray:
    """Grey thumbnails of some images, in the order asked for, (P, pixels)."""
    known, position = np.unique(which, return_inverse=True)
    pictures = (Image.open(io.BytesIO(preview(images.folder, int(row)))) for row in images.rows[known])
    return np.stack([thumbnail(picture).ravel() for picture in pictures])[position]
