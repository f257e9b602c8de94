import numpy as np
import pytest
import torch

from sharpeye.data.findings import UNUSUAL, unusual
from sharpeye.diagnostics import embedding
from sharpeye.diagnostics.embedding import NEIGHBOURS, embed, neighbours

CPU = torch.device("cpu")


def clouds(rng: np.random.Generator) -> np.ndarray:
    """Features of three classes in 64 dimensions, 60 images each."""
    centres = rng.normal(size=(3, 64)) * 2
    return (np.repeat(centres, 60, axis=0) + rng.normal(size=(180, 64))).astype(np.float16)


def test_the_most_alike_are_those_of_the_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clouds(np.random.default_rng(0))
    monkeypatch.setattr(embedding, "COMPONENTS", 64)
    monkeypatch.setattr(embedding, "NEIGHBOUR_CHUNK", 50)
    found = neighbours(features, CPU)
    assert found.rows.shape == found.similarity.shape == (180, NEIGHBOURS)
    exact = features.astype(np.float64)
    distance = ((exact[:, None] - exact[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    assert (np.sort(found.rows, 1) == np.sort(np.argsort(distance, 1)[:, :NEIGHBOURS], 1)).all()
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    expected = np.take_along_axis(exact @ exact.T, found.rows, axis=1)
    np.testing.assert_allclose(found.similarity, expected, atol=1e-3)


def test_a_copy_is_the_nearest_and_what_is_unlike_all_stands_out() -> None:
    rng = np.random.default_rng(1)
    features = clouds(rng)
    features[1] = features[0]
    # In a direction of its own, which the main directions of the features leave out.
    stranger = np.linalg.svd(features.astype(np.float64), full_matrices=False)[2][-1]
    features[7] = (features.mean(0) + 12 * stranger).astype(np.float16)
    found = neighbours(features, CPU)
    assert found.rows[0, 0] == 1
    assert found.similarity[0, 0] == pytest.approx(1, abs=1e-3)
    assert (found.rows != np.arange(180)[:, None]).all()
    assert np.flatnonzero(unusual(1 - found.similarity.mean(1)) > UNUSUAL).tolist() == [7]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_images_have_few_neighbours(count: int) -> None:
    found = neighbours(np.eye(4, dtype=np.float16)[:count], CPU)
    assert found.rows.shape == (count, count - 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("each", [60, 10])
def test_images_of_a_class_lie_together_on_the_map(each: int) -> None:
    rng = np.random.default_rng(2)
    features = clouds(rng)[np.concatenate([np.arange(60 * kind, 60 * kind + each) for kind in range(3)])]
    placed = np.flatnonzero(np.arange(3 * each) != 1)
    places = embed(features, placed)
    assert np.isnan(places[1]).all()
    shown, kind = places[placed], np.repeat(np.arange(3), each)[placed]
    apart = np.linalg.norm(shown[:, None] - shown[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (kind[apart.argmin(1)] == kind).mean() > 0.95
