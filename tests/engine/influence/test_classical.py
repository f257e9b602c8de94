"""The classical methods against dense algebra and plain loops, in float64, on a tiny network."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from sharpeye.curvature import fit
from sharpeye.curvature.fit import fisher_batches
from sharpeye.curvature.gradients import Gradients, Vector, fisher_vectors, inner, select_layers, weighted_sum
from sharpeye.curvature.iterative import largest_eigenvalue, lissa
from sharpeye.curvature.linearization import linearize, logit_change
from sharpeye.errors import InputError
from sharpeye.influence import datainf, evaluation, gex, trajectory
from sharpeye.influence import lissa as lissa_method
from sharpeye.influence.base import Scores
from sharpeye.influence.methods import METHODS
from sharpeye.influence.trajectory import TrajectoryContext, against, mean_gradient
from sharpeye.training import trainer
from sharpeye.training.budgets import EnsemblePlan
from sharpeye.training.models import Classifier
from sharpeye.training.trainer import Snapshot, TrainingPlan, train
from tests.engine.curvature.networks import (
    attentive_network,
    flat_rows,
    gauss_newton,
    jacobian,
    tiny_images,
    tiny_network,
)

CPU = torch.device("cpu")
CLASSES, COUNT, CHECKED = 3, 14, 9
LABELS = np.arange(COUNT) % CLASSES
LESS = 1e-3
TRUSTED = (np.arange(CHECKED) * 2) % CLASSES


def read_tensors(
    images: Tensor, rows: np.ndarray, size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """`read_batches` for images that are float64 already, in batches too small to hide a mistake."""
    for start in range(0, len(rows), 5):
        chunk = rows[start : start + 5]
        yield chunk, images[torch.from_numpy(chunk)]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrajectoryContext:
    """Three snapshots of a tiny network, its images float64."""
    for module in (trajectory, evaluation, datainf, fit, lissa_method):
        monkeypatch.setattr(module, "read_batches", read_tensors)
    snapshots = []
    for number in range(3):
        model = tiny_network(CLASSES)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(
                    0.3
                    * number
                    * torch.randn(
                        parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number)
                    )
                )
        path = tmp_path / f"{number}.safetensors"
        save_file(model.state_dict(), path)
        snapshots.append(Snapshot(path, number + 1, 0.1 * (number + 1)))
    return TrajectoryContext(
        tiny_network(CLASSES),
        tuple(snapshots),
        tiny_images(COUNT),
        LABELS,
        tiny_images(CHECKED, seed=2),
        TRUSTED,
        "head",
        0.5,
        mirrored=False,
        device=CPU,
        seed=0,
    )


def with_parameters(context: TrajectoryContext, parameters: str) -> TrajectoryContext:
    return TrajectoryContext(**{**vars(context), "parameters": parameters})


def flat_vector(vector: Vector) -> Tensor:
    return torch.cat([part.flatten() for part in vector.values()])


def gradient(model: Classifier, parameters: str, image: Tensor, label: int) -> Tensor:
    """∇ of one image's loss by autograd."""
    loss = functional.cross_entropy(model(image[None]), torch.tensor([label]))
    return flat_rows(model, select_layers(model, parameters), loss)


def validation_gradient(context: TrajectoryContext, model: Classifier) -> Tensor:
    rows = [
        gradient(model, context.parameters, image, int(y))
        for image, y in zip(context.validation_images, TRUSTED, strict=True)
    ]
    return torch.stack(rows).mean(0)


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_mean_gradient_and_directional_derivative(context: TrajectoryContext, parameters: str) -> None:
    context = with_parameters(context, parameters)
    model = context.trained()
    layers = select_layers(model, parameters)
    computed = mean_gradient(model, parameters, context.validation_images, TRUSTED, CPU)
    torch.testing.assert_close(
        flat_vector(computed), validation_gradient(context, model), rtol=1e-9, atol=1e-12
    )
    p, change = logit_change(model, layers, context.images[:4], computed, parameters)
    for row, image in enumerate(context.images[:4]):
        rows, probabilities = jacobian(model, layers, image)
        torch.testing.assert_close(change[row], rows @ flat_vector(computed), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(p[row], probabilities, rtol=1e-9, atol=1e-12)


def test_directional_derivative_through_attention() -> None:
    model, images = attentive_network(), tiny_images(4)
    layers = select_layers(model, "all")
    vector = {
        name: torch.randn(len(layer.weight), layer.weight[0].numel() + 1, dtype=torch.float64)
        for name, layer in layers.items()
    }
    _, change = logit_change(model, layers, images, vector, "all")
    ends = []
    for step in (1e-6, -1e-6):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, direction in vector.items():
                layer = moved.get_submodule(name)
                layer.weight += step * direction[:, :-1]
                layer.bias += step * direction[:, -1]
            ends.append(moved(images))
    torch.testing.assert_close(change, (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "ensemble", "images", "epochs"),
    [
        (6, EnsemblePlan(3, 7), 6, 3),
        (5000, EnsemblePlan(8, 16), 4096, 1),
        (5000, EnsemblePlan(2, 40), 5000, 3),
    ],
)
def test_members_of_gex_train_on_the_training_set(
    context: TrajectoryContext,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    ensemble: EnsemblePlan,
    images: int,
    epochs: int,
) -> None:
    calls = []

    def record(
        model: Classifier, images: object, labels: np.ndarray, plan: TrainingPlan, **more: object
    ) -> None:
        calls.append((len(labels), set(labels.tolist()), plan.epochs))

    monkeypatch.setattr(gex, "train", record)
    learned = np.broadcast_to(tiny_images(1), (count, *tiny_images(1).shape[1:]))
    gex.gex(replace(context, trained_on=(learned, np.full(count, 2)), ensemble=ensemble))
    assert calls == [(images, {2}, epochs)] * ensemble.members


@pytest.mark.parametrize("method", [lissa_method.lissa_influence, datainf.datainf])
def test_their_curvature_is_that_of_the_training_set(
    context: TrajectoryContext, method: Callable[[TrajectoryContext], Scores]
) -> None:
    """Also where other images are scored, such as some with labels flipped on purpose."""
    whole = method(context).influence
    some = replace(
        context,
        images=context.images[:7],
        labels=context.labels[:7],
        trained_on=(context.images, context.labels),
    )
    np.testing.assert_allclose(method(some).influence, whole[:7], rtol=1e-6)


def test_inner_products_and_weighted_sums(context: TrajectoryContext) -> None:
    model = context.trained()
    layers = select_layers(model, "all")
    _, _, backward = linearize(model, layers, context.images[:4], "all")
    vectors = torch.randn(2, 4, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients = backward(vectors)
    dense = torch.cat([layer.dense().flatten(2) for layer in gradients.values()], 2)
    direction = {name: torch.randn_like(layer.dense()[0, 0]) for name, layer in gradients.items()}
    torch.testing.assert_close(inner(gradients, direction), dense @ flat_vector(direction))
    weights = torch.rand(2, 4, dtype=torch.float64)
    torch.testing.assert_close(
        flat_vector(weighted_sum(gradients, weights)), torch.einsum("kb,kbd->d", weights, dense)
    )


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_lissa_converges_to_the_dense_solve(context: TrajectoryContext, parameters: str) -> None:
    model = context.trained()
    layers = select_layers(model, parameters)
    matrix = gauss_newton(model, layers, context.images)
    _, log_p, backward = linearize(model, layers, context.images, parameters)
    whole: list[tuple[Gradients, int]] = [(backward(fisher_vectors(log_p.exp())), COUNT)]
    vector = mean_gradient(model, parameters, context.validation_images, TRUSTED, CPU)
    assert largest_eigenvalue(lambda: whole, vector, 12) == pytest.approx(
        float(torch.linalg.eigvalsh(matrix)[-1]), rel=0.1
    )
    solved = lissa(lambda: whole, vector, damping=0.5, steps=3000)
    damped = matrix + 0.5 * matrix.trace() / len(matrix) * torch.eye(len(matrix), dtype=torch.float64)
    expected = torch.linalg.solve(damped, flat_vector(vector))
    assert float((flat_vector(solved) - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize(("class_by_class", "least"), [(False, 0.98), (True, 0.95)])
def test_lissa_on_batches_in_turn_comes_close(
    context: TrajectoryContext, class_by_class: bool, least: float
) -> None:
    order = np.argsort(LABELS, kind="stable") if class_by_class else np.arange(COUNT)
    context = replace(context, images=context.images[order], labels=LABELS[order])
    scores = METHODS["lissa"].score(context)
    model = context.trained()
    matrix = gauss_newton(model, select_layers(model, "head"), context.images)
    damped = matrix + 0.5 * matrix.trace() / len(matrix) * torch.eye(len(matrix), dtype=torch.float64)
    solved = torch.linalg.solve(damped, validation_gradient(context, model))
    expected = [
        -float(gradient(model, "head", image, int(y)) @ solved)
        for image, y in zip(context.images, context.labels, strict=True)
    ]
    assert np.corrcoef(scores.influence, expected)[0, 1] > least


def test_lissa_stays_finite_where_the_last_batches_are_the_steepest(context: TrajectoryContext) -> None:
    model = context.trained()
    _, log_p, backward = linearize(model, select_layers(model, "head"), context.images, "head")
    vector = mean_gradient(model, "head", context.validation_images, TRUSTED, CPU)
    batches = [(backward(scale * fisher_vectors(log_p.exp())), COUNT) for scale in (*[1.0] * 20, *[5.0] * 20)]
    solved = lissa(lambda: batches, vector, damping=0.5, steps=400)
    assert float(flat_vector(solved).norm()) < float(flat_vector(vector).norm()) * 1e3


def test_lissa_that_diverges_is_an_error(context: TrajectoryContext) -> None:
    model = context.trained()
    _, log_p, backward = linearize(model, select_layers(model, "head"), context.images, "head")
    vector = mean_gradient(model, "head", context.validation_images, TRUSTED, CPU)
    growing = itertools.count()

    def batches() -> list[tuple[Gradients, int]]:
        return [(backward(2.0 ** next(growing) * fisher_vectors(log_p.exp())), COUNT)]

    with pytest.raises(InputError, match="lissa diverged"):
        lissa(batches, vector, damping=0.1, steps=900)


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_datainf_is_the_mean_of_inverses(context: TrajectoryContext, parameters: str) -> None:
    context = with_parameters(context, parameters)
    model = context.trained()
    scores = METHODS["datainf"].score(context)
    sizes = [
        sum(p.numel() for p in layer.parameters()) for layer in select_layers(model, parameters).values()
    ]
    g = torch.stack(
        [gradient(model, parameters, image, int(y)) for image, y in zip(context.images, LABELS, strict=True)]
    )
    v = validation_gradient(context, model)
    direction = []
    for mine, target in zip(g.split(sizes, 1), v.split(sizes), strict=True):
        damping = 0.1 * mine.square().mean()
        inverses = [
            torch.linalg.inv(torch.outer(row, row) + damping * torch.eye(len(row), dtype=torch.float64))
            for row in mine
        ]
        direction.append(torch.stack(inverses).mean(0) @ target)
    solved = torch.cat(direction)
    np.testing.assert_allclose(scores.influence, -(g @ solved).detach().numpy(), rtol=1e-4, atol=1e-12)
    assert scores.candidates is not None
    for label in range(CLASSES):
        expected = -float(gradient(model, parameters, context.images[5], label) @ solved)
        assert scores.candidates.scores[5, label] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("parameters", ["head", "last-block", "all"])
def test_tracin_is_a_sum_over_snapshots(context: TrajectoryContext, parameters: str) -> None:
    context = with_parameters(context, parameters)
    expected, expected_self = np.zeros((COUNT, CLASSES)), np.zeros((COUNT, CLASSES))
    for snapshot in context.snapshots:
        model = context.at(snapshot)
        v = validation_gradient(context, model)
        for row, image in enumerate(context.images):
            for label in range(CLASSES):
                g = gradient(model, parameters, image, label)
                expected[row, label] -= snapshot.step_size * float(v @ g)
                expected_self[row, label] += snapshot.step_size * float(g @ g)
    for name, oracle in (("tracin", expected), ("tracin_self", expected_self)):
        scores = METHODS[name].score(context)
        assert scores.candidates is not None
        np.testing.assert_allclose(scores.candidates.scores, oracle, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(scores.influence, oracle[np.arange(COUNT), LABELS], rtol=1e-6, atol=1e-12)


def test_gex_is_the_mean_squared_change_of_the_loss_along_sgd(
    context: TrajectoryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_batches(
        images: Tensor, rows: np.ndarray, size: int, device: torch.device
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            yield chunk, images[chunk]

    monkeypatch.setattr(trainer, "read_batches", read_batches)
    ensemble = EnsemblePlan(3, 4)
    scores = METHODS["gex"].score(replace(context, ensemble=ensemble))
    rows = np.random.default_rng(context.seed).permutation(COUNT)
    plan = TrainingPlan(
        1, learning_rate=0.05, constant_rate=True, batch_size=COUNT // 4, mirrored=context.mirrored
    )
    model = context.trained()
    with torch.no_grad():
        before = -model(context.images).log_softmax(1)
    expected = np.zeros((COUNT, CLASSES))
    for member in range(3):
        train(
            model, context.images[rows], LABELS[rows], plan, seed=context.seed + member, device=context.device
        )
        with torch.no_grad():
            change = -model(context.images).log_softmax(1) - before
        expected += change.square().numpy() / 3
    assert scores.candidates is not None
    np.testing.assert_allclose(scores.candidates.scores, expected, rtol=1e-6)


def test_influence_points_where_retraining_goes(context: TrajectoryContext) -> None:
    """Against exact retraining of the head: what the validation risk does as an image loses a little of
    its weight."""
    model = context.trained()
    with torch.no_grad():
        phi = functional.pad(model.features(context.images), (0, 1), value=1.0)
        checked = functional.pad(model.features(context.validation_images), (0, 1), value=1.0)
    labels, trusted = torch.from_numpy(LABELS), torch.from_numpy(TRUSTED)
    decay = 0.05

    def fitted(weights: Tensor) -> Tensor:
        head = torch.zeros(CLASSES, phi.shape[1], dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS(
            [head], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            solver.zero_grad()
            losses = functional.cross_entropy(phi @ head.T, labels, reduction="none")
            loss = (weights * losses).mean() + decay / 2 * head.square().sum()
            loss.backward()
            return loss

        solver.step(closure)
        return head.detach()

    def risk(head: Tensor) -> Tensor:
        return functional.cross_entropy(checked @ head.T, trusted)

    head = fitted(torch.ones(COUNT, dtype=torch.float64))
    with torch.no_grad():
        model.head.weight.copy_(head[:, :-1])
        model.head.bias.copy_(head[:, -1])
    layers = select_layers(model, "head")
    hessian = gauss_newton(model, layers, context.images) + decay * torch.eye(
        head.numel(), dtype=torch.float64
    )
    vector = torch.linalg.solve(
        hessian, flat_vector(mean_gradient(model, "head", context.validation_images, TRUSTED, CPU))
    )
    direction = {"head": vector.reshape(head.shape)}
    predicted = (
        against(model, "head", direction, context.images, mirrored=False, device=CPU)[
            np.arange(COUNT), LABELS
        ]
        / COUNT
    )
    actual = []
    for image in range(COUNT):
        weights = torch.ones(COUNT, dtype=torch.float64)
        weights[image] -= LESS
        actual.append(float(risk(head) - risk(fitted(weights))) / LESS)
    np.testing.assert_allclose(predicted, actual, rtol=0.01, atol=5e-5)


def test_fisher_batches_cover_every_image_once() -> None:
    from sharpeye.training.models import small_network

    images = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), dtype=np.uint8)
    torch.manual_seed(0)
    model = small_network(4, (8, 8, 8)).eval()
    computed = list(fisher_batches(model, "head", images, CPU, seed=0, divisor=100))
    assert sum(count for _, count in computed) == 23
    assert {gradients["head"].output_gradients.shape[0] for gradients, _ in computed} == {4}
