"""Gradients, curvature and influence over LoRA, against dense algebra in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpeye.curvature.gradients import LayerGradients
from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.runs.artifacts import save_npy
from sharpeye.text.examples import read_examples
from sharpeye.text.gradients import fisher_batches, gradient_batches, residuals, sampled_fisher
from sharpeye.text.influence import (
    cosine,
    datainf,
    lissa,
    newton_influence,
    normalized_influence,
    signed_influence,
    split,
    squared_lengths,
    token_influence,
    tracin,
)
from sharpeye.text.language_models import (
    EncodedExample,
    LanguageModel,
    LoraPlan,
    completion_losses,
    encode,
    load_language_model,
    token_batch,
)
from sharpeye.text.stored_gradients import StoredGradients, gradient_table
from tests.engine.text.tiny import tiny_model, write_examples

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tiny_model(tmp_path_factory.mktemp("tiny"))
    loaded = load_language_model(str(folder), LoraPlan(rank=2), CPU, seed=0)
    loaded.network.double()
    with torch.no_grad():
        draws = torch.Generator().manual_seed(0)
        for layer in loaded.layers.values():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=draws).double() * 0.2)
    return loaded


@pytest.fixture(scope="module")
def encoded(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[EncodedExample]:
    path = write_examples(tmp_path_factory.mktemp("examples") / "some.jsonl", 12)
    return encode(model, read_examples(path))[0]


def autograd_gradients(model: LanguageModel, encoded: list[EncodedExample]) -> Tensor:
    """Example by example, unpadded, by plain backward passes, (N, D)."""
    rows = []
    for row in range(len(encoded)):
        for parameter in model.parameters:
            parameter.requires_grad_(True)
        batch = token_batch(encoded, [row], CPU)
        loss = completion_losses(model.network(batch), batch).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters)]))
    return torch.stack(rows)


def flat(model: LanguageModel, encoded: list[EncodedExample], vectors: object = residuals) -> Tensor:
    """What `gradient_batches` gives, (K, N, D)."""
    result: Tensor | None = None
    for rows, gradients, _ in gradient_batches(model, encoded, vectors, 5):  # type: ignore[arg-type]
        part = torch.cat([layer.dense().flatten(2) for layer in gradients.values()], 2)
        if result is None:
            result = part.new_zeros(len(part), len(encoded), part.shape[2])
        result[:, rows] = part
    assert result is not None
    return result


def stored(model: LanguageModel, gradients: Tensor) -> StoredGradients:
    """In float32, so that nothing is lost to half precision."""
    width = gradients.shape[1]
    norms = gradients.norm(dim=1)
    table = np.empty(len(gradients), [("norm", "<f4"), ("loss", "<f4"), ("unit", "<f4", (width,))])
    table["norm"], table["unit"] = norms, gradients * (width**0.5 / norms)[:, None]
    half = len(table) // 2
    return StoredGradients((table[:half], table[half:]), model.shapes)


def test_gradients_of_padded_batches_are_those_of_each_example_alone(
    model: LanguageModel, encoded: list[EncodedExample]
) -> None:
    torch.testing.assert_close(flat(model, encoded)[0], autograd_gradients(model, encoded))


def test_sampled_vectors_add_up_to_the_hessian_of_the_tokens(
    model: LanguageModel, encoded: list[EncodedExample]
) -> None:
    """In the logits of one example: E[v vᵀ] of a place is (diag p − ppᵀ) / T, and 0 between two places."""
    batch = token_batch(encoded, [0], CPU)
    with torch.no_grad():
        logits = model.network(batch)
    draws = sampled_fisher(torch.Generator().manual_seed(0), 20_000)(logits, batch)[:, 0].flatten(1)
    found = draws.T @ draws
    p = logits.softmax(2)[0]
    wanted = torch.block_diag(*[torch.diag(one) - torch.outer(one, one) for one in p]) / len(p)
    assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize("corrected", [False, True])
def test_pairs_are_those_of_the_dense_matrix(
    model: LanguageModel, encoded: list[EncodedExample], corrected: bool
) -> None:
    curvature = KroneckerCurvature.fit(lambda: fisher_batches(model, encoded[8:], 0, 3), 1e-3, corrected)
    matrix = dense_inverse(model, curvature)
    gradients = flat(model, encoded)[0].float()
    g, v = gradients[:8], gradients[8:]
    training, validation = stored(model, g), stored(model, v)
    wanted = g @ matrix.float() @ v.T
    found = signed_influence(curvature_in(curvature), training, validation, CPU)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-4 * float(wanted.abs().max()))
    lengths = squared_lengths(curvature_in(curvature), training, CPU)
    np.testing.assert_allclose(lengths.sum(1), (g @ matrix.float() * g).sum(1), rtol=2e-3)
    cosines, first = [], 0
    for out, inside in model.shapes.values():
        part = slice(first, first + out * inside)
        block, a, b = matrix[part, part].float(), g[:, part], v[:, part]
        scale = torch.outer((a @ block * a).sum(1), (b @ block * b).sum(1)).sqrt()
        cosines.append(a @ block @ b.T / scale)
        first = part.stop
    each = torch.stack(cosines)
    scores = normalized_influence(curvature_in(curvature), training, validation, lengths, CPU)
    np.testing.assert_allclose(np.square(scores), each.square().mean(0), rtol=1e-2, atol=1e-3)
    clear = each.sum(0).abs() > 0.1
    assert clear.any()
    assert (np.sign(scores)[clear] == each.sum(0).sign().numpy()[clear]).all()


def test_normalized_influence_counts_directions_alone(
    model: LanguageModel, encoded: list[EncodedExample]
) -> None:
    curvature = KroneckerCurvature.fit(lambda: fisher_batches(model, encoded, 0, 6), 0.1, True)
    g = flat(model, encoded)[0].float()
    longer = g * torch.arange(1, len(g) + 1)[:, None]
    given = curvature_in(curvature)
    plain, scaled_up = stored(model, g), stored(model, longer)
    found = normalized_influence(given, plain, plain, squared_lengths(given, plain, CPU), CPU)
    lengths = squared_lengths(given, scaled_up, CPU)
    scaled = normalized_influence(given, scaled_up, stored(model, -g), lengths, CPU)
    np.testing.assert_allclose(scaled, -found, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-3)
    assert np.abs(found).max() < 1 + 1e-3


def curvature_in(curvature: KroneckerCurvature) -> KroneckerCurvature:
    """The same in float32, as it is used."""
    return KroneckerCurvature.from_state({name: part.float() for name, part in curvature.state().items()})


def dense_inverse(model: LanguageModel, curvature: KroneckerCurvature) -> Tensor:
    """(H + λI)⁻¹ of the factors, written out as one matrix."""
    blocks = []
    for layer in curvature.layers.values():
        vectors = torch.kron(layer.outputs, layer.inputs)
        scale = (layer.inverse - layer.rest).flatten()
        blocks.append((vectors * scale) @ vectors.T + layer.rest * torch.eye(len(vectors)).double())
    return torch.block_diag(*blocks)


def test_the_newton_step_and_the_tokens_against_dense_algebra(
    model: LanguageModel, encoded: list[EncodedExample]
) -> None:
    curvature = KroneckerCurvature.fit(lambda: fisher_batches(model, encoded, 0, 6), 0.1, True)
    inverse = dense_inverse(model, curvature)
    g = flat(model, encoded)[0]
    drawn = [flat(model, encoded, sampled_fisher(torch.Generator().manual_seed(k)))[0] for k in range(3)]
    weight, step = 0.5, curvature_in(curvature)
    samples = [stored(model, one) for one in drawn]
    found = newton_influence(step, stored(model, g), samples, weight, CPU)
    for row in range(len(g)):
        own = sum(torch.outer(one[row], one[row]) for one in drawn) / len(drawn)
        wanted = g[row] @ torch.linalg.solve(torch.linalg.inv(inverse) + weight * own, g[row])
        assert found[row] == pytest.approx(float(wanted), rel=5e-3)
    pairs = token_influence(step, stored(model, g), samples, CPU)
    hessian = sum(torch.outer(one[0], one[0]) for one in drawn) / len(drawn)
    step_of = inverse @ g[3]
    assert pairs[3, 0] == pytest.approx(float(step_of @ hessian @ step_of / 2), rel=5e-3)


def test_the_baselines_against_dense_algebra(model: LanguageModel, encoded: list[EncodedExample]) -> None:
    gradients = flat(model, encoded)[0]
    g, v = gradients[:8], gradients[8:]
    training, validation = stored(model, g), stored(model, v)
    np.testing.assert_allclose(tracin(training, validation, CPU), g @ v.T, rtol=1e-3, atol=1e-5)
    angle = torch.nn.functional.cosine_similarity(g[:, None], v[None], dim=2)
    np.testing.assert_allclose(cosine(training, validation, CPU), angle, rtol=1e-3, atol=1e-5)
    swapped = torch.zeros(8, 4).double()
    solved = torch.zeros(8, 4).double()
    for one, other in zip(
        split(g, training.shapes).values(), split(v, training.shapes).values(), strict=True
    ):
        a, b = one.flatten(1), other.flatten(1)
        damping = 0.1 * a.square().mean()
        eye = torch.eye(a.shape[1]).double()
        inverse = sum(torch.linalg.inv(torch.outer(row, row) + damping * eye) for row in a) / len(a)
        swapped += a @ inverse @ b.T
        hessian = a.T @ a / len(a)
        scale = torch.linalg.eigvalsh(hessian)[-1] + damping
        h = b.T.clone()
        for _ in range(10):
            h = b.T + h - (hessian @ h + damping * h) / scale
        solved += a @ h / scale
    np.testing.assert_allclose(datainf(training, validation, CPU), swapped, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(lissa(training, validation, CPU), solved, rtol=1e-2, atol=1e-3)


def test_gradients_in_files_are_those_in_memory(tmp_path: Path) -> None:
    parts = torch.randn(150, 2, 2), 1e-6 * torch.randn(150, 2, 3)
    shapes = {"a": (2, 2), "b": (2, 3)}
    gradients = {
        name: LayerGradients(part, torch.eye(2).expand(1, 150, 2, 2))
        for name, part in zip(shapes, parts, strict=True)
    }
    table = gradient_table(gradients, torch.arange(150.0))
    for number, first in enumerate((0, 70)):
        save_npy(table[first : first + 70 + 10 * number], tmp_path / f"{number}.npy")
    kept = StoredGradients((tmp_path / "0.npy", tmp_path / "1.npy"), shapes)
    wanted = torch.cat([part.flatten(1) for part in parts], 1)
    close = {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(kept.whole(torch.device("cpu")), wanted, **close)
    by_matrix = [part for _, part in kept.matrices(torch.device("cpu"))]
    torch.testing.assert_close(torch.cat(by_matrix, 1), wanted, **close)
    assert [part.stop - part.start for part, _ in kept.rows(torch.device("cpu"))] == [32, 32, 6, 32, 32, 16]
    np.testing.assert_array_equal(kept.column("loss"), np.arange(150))
    np.testing.assert_allclose(kept.column("norm"), wanted.norm(dim=1), rtol=1e-6)
