"""Every curvature in float64 against the dense matrix of a tiny network, and against curvlinops."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sharpeye.curvature import kronecker
from sharpeye.curvature.dense import DenseCurvature
from sharpeye.curvature.diagonal import DiagonalCurvature
from sharpeye.curvature.gradients import Backward, Gradients, fisher_vectors, head_gradients, select_layers
from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.curvature.linearization import head_batch
from sharpeye.training.models import Classifier, build_model
from tests.engine.curvature.networks import (
    attentive_network,
    flat,
    gauss_newton,
    jacobian,
    tiny_images,
    tiny_network,
)

DAMPING = 0.3


def batches(model, layers, images: Tensor, size: int = 4) -> Iterator[tuple[Gradients, int]]:
    for batch in images.split(size):
        backward = Backward(model, layers, batch)
        yield backward(fisher_vectors(backward.logits.detach().softmax(1))), len(batch)


@pytest.fixture
def problem():
    model = tiny_network()
    layers = select_layers(model, "all")
    return model, layers, tiny_images(10)


def gradients_of(model, layers, images: Tensor, kinds: int = 3) -> tuple[Gradients, Tensor]:
    backward = Backward(model, layers, images)
    vectors = torch.randn(
        kinds, len(images), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    return backward(vectors), vectors


@pytest.mark.parametrize("corrected", [False, True])
def test_the_head_in_closed_form_is_the_head_by_its_gradients(corrected: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    features = torch.randn(40, 5, dtype=torch.float64, generator=rng)
    logits = 2 * torch.randn(40, 7, dtype=torch.float64, generator=rng)
    p = logits.softmax(1)
    activations = torch.nn.functional.pad(features, (0, 1), value=1.0)

    def by_gradients() -> Iterator[tuple[Gradients, int]]:
        for some, of_them in zip(features.split(16), p.split(16), strict=True):
            yield head_gradients(some, fisher_vectors(of_them)), len(some)

    def in_closed_form() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(activations.split(16), p.split(16), strict=True)

    fits = (
        KroneckerCurvature.fit(by_gradients, DAMPING, corrected),
        KroneckerCurvature.fit_head(in_closed_form, DAMPING, corrected),
    )
    vectors = torch.randn(3, 40, 7, dtype=torch.float64, generator=rng)
    one, other = (fit.inverse_gram(head_gradients(features, vectors)) for fit in fits)
    # Products of the gradients are taken in bf16 where the processor does so.
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parameters", ["head", "last-block", "all"])
def test_factored_gradients_are_those_of_autograd(parameters: str) -> None:
    model, images = tiny_network(), tiny_images(4)
    layers = select_layers(model, parameters)
    gradients, vectors = gradients_of(model, layers, images)
    for index, image in enumerate(images):
        rows, _ = jacobian(model, layers, image)
        torch.testing.assert_close(flat(gradients)[:, index], vectors[:, index] @ rows)


def test_attention_s_projection_is_no_layer_of_its_own() -> None:
    assert list(select_layers(attentive_network(), "all")) == [
        "features.1",
        "features.2.linear1",
        "features.2.linear2",
        "head",
    ]


def test_layers_that_change_their_weights_are_left_out() -> None:
    class Standardised(nn.Conv2d):
        pass

    model = Classifier(
        nn.Sequential(nn.Conv2d(2, 3, 3), Standardised(3, 3, 3), nn.Flatten()), nn.Linear(12, 3)
    )
    assert list(select_layers(model, "all")) == ["features.0", "head"]


def test_gradients_before_an_activation_in_place() -> None:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 2), nn.ReLU(inplace=True), nn.Flatten()
    )
    model, images = Classifier(features, nn.Linear(18, 3)).double(), tiny_images(4)
    layers = select_layers(model, "all")
    gradients, vectors = gradients_of(model, layers, images)
    for index, image in enumerate(images):
        torch.testing.assert_close(
            flat(gradients)[:, index], vectors[:, index] @ jacobian(model, layers, image)[0]
        )


def test_batches_of_the_head_shrink_with_the_square_of_the_classes() -> None:
    assert [
        head_batch(Classifier(nn.Identity(), nn.Linear(2, classes))) for classes in (10, 1000, 10_000)
    ] == [500, 16, 1]


def test_head_shortcut_is_the_head_s_gradient(problem) -> None:
    model, _, images = problem
    layers = select_layers(model, "head")
    gradients, vectors = gradients_of(model, layers, images)
    torch.testing.assert_close(
        flat(head_gradients(model.features(images).detach(), vectors)), flat(gradients)
    )


def test_parameters_keep_their_requires_grad(problem) -> None:
    model, layers, images = problem
    model.head.bias.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    Backward(model, layers, images)
    assert [p.requires_grad for p in model.parameters()] == before


def test_fisher_vectors_span_the_hessian_in_the_logits() -> None:
    p = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(1)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    vectors = fisher_vectors(p)
    torch.testing.assert_close(torch.einsum("kbc,kbd->bcd", vectors, vectors), expected)
    stream = torch.Generator().manual_seed(0)
    draws = torch.cat([fisher_vectors(p, stream) for _ in range(20_000)])
    torch.testing.assert_close(
        torch.einsum("kbc,kbd->bcd", draws, draws) / 20_000, expected, atol=0.01, rtol=0
    )


def test_dense_head_is_the_hessian_of_the_loss(problem) -> None:
    model, _, images = problem
    labels = torch.arange(10) % 3
    features = model.features(images).detach()
    curvature = DenseCurvature.fit(
        [(head_gradients(features, fisher_vectors(model.head(features).softmax(1).detach())), 10)], DAMPING
    )

    def risk(weights: Tensor) -> Tensor:
        rows = weights.reshape(3, 9)
        return nn.functional.cross_entropy(features @ rows[:, :-1].T + rows[:, -1], labels)

    weights = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach().flatten()
    torch.testing.assert_close(curvature.matrix, torch.autograd.functional.hessian(risk, weights))


def check(curvature, matrix: Tensor, gradients: Gradients) -> None:
    """Quadratic forms and Gram matrices against explicit inversion of a dense damped matrix."""
    rows = flat(gradients).transpose(0, 1)
    expected = rows @ torch.linalg.inv(matrix) @ rows.mT
    torch.testing.assert_close(curvature.inverse_gram(gradients), expected)
    torch.testing.assert_close(curvature.inverse_quadratic(gradients).T, expected.diagonal(dim1=1, dim2=2))


def damped_blocks(blocks: list[Tensor]) -> Tensor:
    return torch.block_diag(
        *[b + DAMPING * b.diagonal().mean() * torch.eye(len(b), dtype=b.dtype) for b in blocks]
    )


def test_dense_over_all_layers(problem) -> None:
    model, layers, images = problem
    curvature = DenseCurvature.fit(batches(model, layers, images), DAMPING)
    matrix = gauss_newton(model, layers, images)
    torch.testing.assert_close(curvature.matrix, matrix)
    check(curvature, damped_blocks([matrix]), gradients_of(model, layers, images)[0])


def blocks_of(matrix: Tensor, layers) -> list[Tensor]:
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers.values()]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [matrix[end - size : end, end - size : end] for size, end in zip(sizes, ends, strict=True)]


def test_diagonal(problem) -> None:
    model, layers, images = problem
    blocks = [block.diagonal().diag() for block in blocks_of(gauss_newton(model, layers, images), layers)]
    check(
        DiagonalCurvature.fit(batches(model, layers, images), DAMPING),
        damped_blocks(blocks),
        gradients_of(model, layers, images)[0],
    )


def kronecker_factors(model, layers, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer, by loops over images and positions."""
    factors = {}
    for name in layers:
        a_sum, b_sum = 0.0, 0.0
        for gradients, _ in batches(model, layers, images, size=1):
            layer = gradients[name]
            for position in range(layer.activations.shape[1]):
                a = layer.activations[0, position]
                a_sum = a_sum + torch.outer(a, a)
                for b in layer.output_gradients[:, 0, position]:
                    b_sum = b_sum + torch.outer(b, b) / layer.activations.shape[1]
        factors[name] = (a_sum / len(images), b_sum / len(images))
    return factors


@pytest.mark.parametrize("block", [2, kronecker.BLOCK])
def test_kfac(problem, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(kronecker, "BLOCK", block)
    model, layers, images = problem
    curvature = KroneckerCurvature.fit(lambda: batches(model, layers, images), DAMPING, corrected=False)
    blocks = [torch.kron(b, a) for a, b in kronecker_factors(model, layers, images).values()]
    check(curvature, damped_blocks(blocks), gradients_of(model, layers, images)[0])


@pytest.mark.parametrize("block", [2, kronecker.BLOCK])
def test_ekfac(problem, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(kronecker, "BLOCK", block)
    model, layers, images = problem
    curvature = KroneckerCurvature.fit(lambda: batches(model, layers, images), DAMPING, corrected=True)
    factors = kronecker_factors(model, layers, images)
    blocks = []
    for block, (a, b) in zip(
        blocks_of(gauss_newton(model, layers, images), layers), factors.values(), strict=True
    ):
        basis = torch.kron(torch.linalg.eigh(b)[1], torch.linalg.eigh(a)[1])
        blocks.append(basis @ (basis.T @ block @ basis).diagonal().diag() @ basis.T)
    check(curvature, damped_blocks(blocks), gradients_of(model, layers, images)[0])


def test_products_of_autocast_s_numbers_are_exact_in_bf16() -> None:
    before = torch.get_float32_matmul_precision()
    rows = torch.randn(300, 700, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    total = torch.zeros(700, 700)
    kronecker._add_moment(total, rows)
    torch.testing.assert_close(
        total.triu(), (rows.double().T @ rows.double()).float().triu(), rtol=1e-5, atol=1e-4
    )
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("kinds", [1, 40])
def test_both_orders_of_rotation_agree(problem, kinds: int) -> None:
    model, layers, images = problem
    curvature = KroneckerCurvature.fit(lambda: batches(model, layers, images), DAMPING, corrected=True)
    gradients, _ = gradients_of(model, layers, images, kinds)
    for name, layer in curvature.layers.items():
        expected = torch.einsum("oq,kboi,ij->kbqj", layer.outputs, gradients[name].dense(), layer.inputs)
        rotated, whole = layer.rotated(gradients[name])
        torch.testing.assert_close(rotated, expected)
        rows = gradients[name].dense().flatten(2).transpose(0, 1)
        torch.testing.assert_close(whole(), rows @ rows.mT)


@pytest.mark.parametrize("corrected", [False, True])
def test_negligible_eigenvectors_may_be_left_out(
    problem, monkeypatch: pytest.MonkeyPatch, corrected: bool
) -> None:
    model, layers, images = problem
    gradients, _ = gradients_of(model, layers, images)

    def fitted() -> KroneckerCurvature:
        return KroneckerCurvature.fit(lambda: batches(model, layers, images), 100.0, corrected)

    short = fitted()
    monkeypatch.setattr(kronecker, "NEGLIGIBLE", -1.0)
    long = fitted()
    assert all(layer.complete for layer in long.layers.values())
    assert not all(layer.complete for layer in short.layers.values())
    quadratic = short.inverse_quadratic(gradients)
    assert ((quadratic / long.inverse_quadratic(gradients) - 1).abs() < (0.1 if corrected else 0.05)).all()
    matrix = short.inverse_gram(gradients)
    torch.testing.assert_close(matrix.diagonal(dim1=1, dim2=2).T, quadratic)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_matrix_products_of_curvlinops_agree(problem) -> None:
    from curvlinops import GGNLinearOperator

    model, layers, images = problem
    parameters = list(model.parameters())
    data = [(images, torch.arange(10) % 3)]
    operator = GGNLinearOperator(model, nn.CrossEntropyLoss(), parameters, data)
    vector = torch.randn(
        sum(p.numel() for p in parameters), dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    ours = DenseCurvature.fit(batches(model, layers, images), DAMPING).matrix
    order = []
    start = 0
    for layer in layers.values():
        columns = layer.weight[0].numel()
        width = columns + (layer.bias is not None)
        block = torch.arange(len(layer.weight) * width).reshape(-1, width) + start
        order.append(block[:, :columns].flatten())
        if layer.bias is not None:
            order.append(block[:, columns])
        start += block.numel()
    permutation = torch.cat(order)
    torch.testing.assert_close(operator @ vector, ours[permutation][:, permutation] @ vector)


def test_last_block_of_the_networks() -> None:
    small = select_layers(build_model("small", 3, "random", 0), "last-block")
    assert [name.split(".")[1] for name in small if name != "head"] == ["3", "3"]
    resnet = select_layers(build_model("resnet18", 3, "random", 0), "last-block")
    assert set(resnet) == {"features.layer4.1.conv1", "features.layer4.1.conv2", "head"}
