"""A two-dimensional slice of the validation risk around a minimum (Li et al. 2018, arXiv 1712.09913)."""

import numpy as np
import torch

from sharpeye.diagnostics.sharpness import Parameters, Risk, random_like

POINTS = 13


def directions(at: Parameters, seed: int) -> tuple[Parameters, Parameters]:
    """Two random directions, filter-normalised: every filter as long as the parameters' own.

    Those of vectors are zero.
    """
    first, second = (_filter_normalized(random_like(at, seed + number), at) for number in (0, 1))
    return first, second


@torch.no_grad()
def risk_slice(risk: Risk, at: Parameters, reach: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """R(θ + x·d₁ + y·d₂) over a grid of POINTS × POINTS.

    Args:
        risk: R.
        at: θ.
        reach: largest |x| and |y|; 1 moves every filter by its own length.
        seed: of the directions; slices of the same seed use the same random numbers.

    Returns:
        The coordinates (POINTS,) and the risks (y, x).
    """
    first, second = directions(at, seed)
    places = np.linspace(-reach, reach, POINTS)
    values = [
        [
            float(
                risk(
                    {
                        name: value + float(x) * first[name] + float(y) * second[name]
                        for name, value in at.items()
                    }
                )
            )
            for x in places
        ]
        for y in places
    ]
    return places, np.array(values)


def _filter_normalized(direction: Parameters, at: Parameters) -> Parameters:
    result = {}
    for name, value in at.items():
        if value.ndim < 2:
            result[name] = torch.zeros_like(value)
            continue
        lengths = value.flatten(1).norm(dim=1) / direction[name].flatten(1).norm(dim=1).clamp_min(1e-30)
        result[name] = direction[name] * lengths.reshape(-1, *[1] * (value.ndim - 1))
    return result
