"""What can be wrong with an image apart from its label: it stands there twice, is unlike the others, blurred,
dark or tiny."""

import numpy as np
import pandas as pd

CONFLICT, DUPLICATE, OUTLIER = "label conflict", "near-duplicate", "outlier"
BLURRED, DARK, TINY = "blurred", "dark", "tiny"
FINDINGS = {
    CONFLICT: "the same picture has different labels",
    DUPLICATE: "the same picture stands there more than once",
    OUTLIER: "unlike every other image",
    BLURRED: "much less sharp than the others",
    DARK: "nothing in it is light",
    TINY: "much smaller than the others",
}
# Robust standard deviations from the median: of a normal distribution, one in 740 lies beyond on one side.
UNUSUAL = 3.0
# Of MAD to standard deviation, under a normal distribution.
MAD_SCALE = 1.4826
# Of white.
DARK_BRIGHTNESS = 0.35
# Of the median side.
TINY_SHARE = 0.25


def unusual(values: np.ndarray) -> np.ndarray:
    """How many robust standard deviations values lie above their median, (N,)."""
    deviation = values - np.median(values)
    spread = MAD_SCALE * np.median(np.abs(deviation))
    return deviation / max(float(spread), 1e-9)


def picture_findings(measures: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which images are blurred, dark or tiny, bool, (N,) each.

    Args:
        measures: of the images, see `sharpeye.data.images.Measures`.
    """
    sides = np.sqrt(measures["width"].to_numpy(float) * measures["height"].to_numpy())
    return {
        BLURRED: unusual(np.log(np.maximum(measures["sharpness"].to_numpy(), 1e-9))) < -UNUSUAL,
        DARK: measures["brightness"].to_numpy() < DARK_BRIGHTNESS,
        TINY: sides < TINY_SHARE * np.median(sides),
    }


def duplicate_findings(groups: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Which images stand there more than once, and with different labels, bool, (N,) each.

    Args:
        groups: of near-duplicates, −1 for none, (N,).
        labels: given labels, (N,).
    """
    grouped = np.flatnonzero(groups >= 0)
    pairs = np.unique(np.column_stack([groups[grouped], labels[grouped]]), axis=0)
    names, label_counts = np.unique(pairs[:, 0], return_counts=True)
    return {CONFLICT: np.isin(groups, names[label_counts > 1]), DUPLICATE: groups >= 0}


def names_of(found: dict[str, np.ndarray]) -> "pd.Categorical[str]":
    """The findings of each image, joined by commas; empty for most."""
    masks = np.column_stack([found[name] for name in FINDINGS if name in found])
    kinds, codes = np.unique(masks, axis=0, return_inverse=True)
    names = [", ".join(np.array([name for name in FINDINGS if name in found])[kind]) for kind in kinds]
    return pd.Categorical.from_codes(codes.ravel().tolist(), pd.Index(names))


def masks_of(names: "pd.Series[str]") -> dict[str, np.ndarray]:
    """What `names_of` was given, for every one of FINDINGS."""
    kinds = [set(kind.split(", ")) for kind in names.cat.categories]
    return {name: np.array([name in kind for kind in kinds])[names.cat.codes] for name in FINDINGS}
