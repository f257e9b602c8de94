"""Every measure of sharpness on a quadratic whose answer is known, and on a network against its dense
Hessian."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from sharpeye.diagnostics import sharpness
from sharpeye.diagnostics.landscape import directions, risk_slice
from sharpeye.diagnostics.sharpness import (
    Parameters,
    gradient,
    hessian_product,
    hessian_trace,
    noisy_risk,
    risk_of,
    top_eigenvalue,
    trained_parameters,
    worst_risk,
)
from tests.engine.curvature.networks import attentive_network, tiny_images, tiny_network

RADIUS, SIGMA = 0.3, 0.5


def basis() -> Tensor:
    return torch.linalg.qr(
        torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]


VALUES = torch.tensor([9.0, 2.0, 1.5, 1.0, 0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01], dtype=torch.float64)
MATRIX = basis() @ VALUES.diag() @ basis().T


def quadratic(parameters: Parameters) -> Tensor:
    """½xᵀAx + 1 over a matrix of 2 filters of 4 weights and a vector of 4."""
    x = torch.cat([parameters["w"].flatten(), parameters["b"]])
    return 0.5 * x @ MATRIX @ x + 1


def at(value: float) -> Parameters:
    return {
        "w": torch.full((2, 4), value, dtype=torch.float64),
        "b": torch.full((4,), value, dtype=torch.float64),
    }


def test_worst_risk_at_the_minimum_is_half_the_top_eigenvalue_times_the_radius_squared() -> None:
    assert worst_risk(quadratic, at(0.0), RADIUS) == pytest.approx(1 + 0.5 * 9 * RADIUS**2, rel=1e-3)


def test_worst_risk_beside_the_minimum_is_the_largest_on_the_ball() -> None:
    points = torch.randn(200_000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = 0.1 + RADIUS * points / points.norm(dim=1, keepdim=True)
    largest = float((0.5 * torch.einsum("ni,ij,nj->n", x, MATRIX, x)).max()) + 1
    assert largest * 0.995 < worst_risk(quadratic, at(0.1), RADIUS) < largest * 1.1


def test_noisy_risk_is_half_the_trace_under_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "NOISE_SAMPLES", 20_000)
    place = at(0.2)
    variances = torch.cat([torch.full((8,), 0.2**2), torch.full((4,), 0.2**2)]).double() * SIGMA**2
    expected = float(quadratic(place)) + 0.5 * float((MATRIX.diagonal() * variances).sum())
    assert noisy_risk(quadratic, place, SIGMA) == pytest.approx(expected, rel=0.01)


def test_top_eigenvalue_and_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    value, error = top_eigenvalue(quadratic, at(0.5))
    assert error <= sharpness.CONVERGED * value
    assert np.abs(VALUES - value).min() <= error
    monkeypatch.setattr(sharpness, "CONVERGED", 1e-3)
    monkeypatch.setattr(sharpness, "POWER_STEPS", 1000)
    assert top_eigenvalue(quadratic, at(0.5))[0] == pytest.approx(9, rel=1e-4)
    traces = [hessian_trace(quadratic, at(0.5), 100 * seed) for seed in range(200)]
    deviations = np.array([(trace - float(VALUES.sum())) / error for trace, error in traces])
    # Of Student's t with 15 degrees of freedom, 95 of 100 lie within 2.13.
    assert 0.9 < (np.abs(deviations) < 2.13).mean() < 0.99


def test_hessian_products_of_a_network_are_those_of_its_dense_hessian() -> None:
    model = tiny_network()
    risk = risk_of(model, tiny_images(6), torch.arange(6) % 3)
    place = trained_parameters(model)
    names, sizes = list(place), [value.numel() for value in place.values()]

    def flat_risk(flat: Tensor) -> Tensor:
        return risk(
            {
                name: part.reshape(place[name].shape)
                for name, part in zip(names, flat.split(sizes), strict=True)
            }
        )

    start = torch.cat([value.flatten() for value in place.values()])
    dense = torch.autograd.functional.hessian(flat_risk, start)
    vector = sharpness.random_like(place, 3)
    product = torch.cat([part.flatten() for part in hessian_product(risk, place, vector).values()])
    torch.testing.assert_close(
        product, dense @ torch.cat([part.flatten() for part in vector.values()]), rtol=1e-4, atol=1e-5
    )
    slopes = torch.cat([part.flatten() for part in gradient(risk, place).values()])
    torch.testing.assert_close(
        slopes, torch.autograd.functional.jacobian(flat_risk, start), rtol=1e-4, atol=1e-6
    )


def test_hessian_products_through_attention() -> None:
    model, images, labels = attentive_network(), tiny_images(5), torch.arange(5) % 3

    def risk(parameters: Parameters) -> Tensor:
        return functional.cross_entropy(functional_call(model, parameters, (images,)), labels)

    here = trained_parameters(model)
    along = {name: torch.randn(value.shape, dtype=torch.float64) for name, value in here.items()}
    product = hessian_product(risk, here, along)
    ahead, behind = (
        gradient(risk, {name: value + step * along[name] for name, value in here.items()})
        for step in (1e-5, -1e-5)
    )
    for name, value in product.items():
        torch.testing.assert_close(value, (ahead[name] - behind[name]) / 2e-5, rtol=1e-4, atol=1e-7)


def test_the_slice_passes_through_the_minimum_and_its_directions_are_filter_normalised() -> None:
    place = at(0.3)
    places, values = risk_slice(quadratic, place, reach=1.0, seed=0)
    middle = len(places) // 2
    assert values[middle, middle] == pytest.approx(float(quadratic(place)))
    first, second = directions(place, 0)
    np.testing.assert_allclose(first["w"].norm(dim=1), place["w"].norm(dim=1))
    assert float(first["b"].abs().sum()) == 0
    corner = {name: value - first[name] + second[name] for name, value in place.items()}
    assert values[-1, 0] == pytest.approx(float(quadratic(corner)))
