import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sharpeye.curvature.dense import DenseCurvature
from sharpeye.curvature.fit import fit_curvature
from sharpeye.curvature.gradients import Backward, fisher_vectors, head_gradients, select_layers
from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.curvature.linearization import predict
from sharpeye.errors import InputError
from sharpeye.influence import evaluation
from sharpeye.influence.base import Evaluation
from sharpeye.influence.evaluation import (
    NEWTON_WEIGHT,
    candidate_classes,
    evaluate,
    mean_evaluation,
    newton_step,
    view_influence,
)
from sharpeye.training.batches import mirror, normalize
from sharpeye.training.models import Classifier, small_network
from tests.conftest import blob
from tests.engine.curvature.networks import flat_rows, tiny_images, tiny_network

CPU = torch.device("cpu")
LABELS = np.arange(12) % 3
IMAGES = np.stack([blob(int(label), np.random.default_rng(i)) for i, label in enumerate(LABELS)])


@pytest.mark.parametrize("parameters", ["head", "all"])
@pytest.mark.parametrize("corrected", [True, False])
def test_every_candidate_is_the_influence_of_the_relabelled_image(parameters: str, corrected: bool) -> None:
    model, images = tiny_network(), tiny_images(6)
    layers = select_layers(model, parameters)

    def batches():
        backward = Backward(model, layers, images)
        yield backward(fisher_vectors(backward.logits.detach().softmax(1))), len(images)

    curvature = (
        KroneckerCurvature.fit(batches, 0.1, corrected) if corrected else DenseCurvature.fit(batches(), 0.1)
    )
    backward = Backward(model, layers, images)
    p = backward.logits.detach().softmax(1)
    classes = torch.arange(3).expand(6, -1)
    given = torch.tensor([0, 1, 2, 0, 1, 2])
    influence, leverage, newton = view_influence(curvature, backward, p, classes, given)
    for label in range(3):
        alone, _, _ = view_influence(curvature, backward, p, None, torch.full((6,), label))
        torch.testing.assert_close(alone[:, 0], influence[:, label])
        for index, image in enumerate(images):
            loss = nn.functional.cross_entropy(model(image[None]), torch.tensor([label]))
            gradient = flat_rows(model, layers, loss)
            if not corrected:
                matrix = curvature.matrix + curvature.damping * torch.eye(len(gradient))
                torch.testing.assert_close(
                    influence[index, label], gradient @ torch.linalg.solve(matrix, gradient)
                )
                one = Backward(model, layers, image[None])
                own = fisher_vectors(one.logits.detach().softmax(1))
                rows = torch.cat([layer.dense().flatten(2) for layer in one(own).values()], 2)[:, 0]
                joined = matrix + NEWTON_WEIGHT * rows.T @ rows
                torch.testing.assert_close(
                    newton[index, label], gradient @ torch.linalg.solve(joined, gradient)
                )
    few = torch.tensor([[2, 0]] * 6)
    some, _, some_newton = view_influence(curvature, backward, p, few, given)
    torch.testing.assert_close(some, influence[:, [2, 0]])
    # One class is left out, and all that is left out counts as one class.
    torch.testing.assert_close(some_newton, newton[:, [2, 0]])
    assert (leverage > 0).all()


def test_sure_predictions_keep_their_influence_among_many_classes() -> None:
    features = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = torch.arange(6) % 5
    p = (10.0 * nn.functional.one_hot(given, 5)).double().softmax(1)
    classes = (given[:, None] + torch.arange(3)) % 5

    def scores(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        phi = features.to(dtype)
        unsure = fisher_vectors(torch.full((6, 5), 0.2, dtype=dtype))
        curvature = DenseCurvature.fit(iter([(head_gradients(phi, unsure), 6)]), 0.1)
        return view_influence(curvature, partial(head_gradients, phi), p.to(dtype), classes, given)[:2]

    for computed, exact in zip(scores(torch.float32), scores(torch.float64), strict=True):
        torch.testing.assert_close(computed.double(), exact, rtol=0.01, atol=0)


def test_the_newton_step_goes_from_influence_to_the_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    p = torch.rand(7, 5, dtype=torch.float64, generator=rng).softmax(1)
    half = torch.randn(7, 5, 5, dtype=torch.float64, generator=rng)
    matrix = half @ half.mT + torch.eye(5)
    residuals = p[:, None] - torch.eye(5)
    between = residuals @ matrix @ residuals.mT
    influence = between.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(newton_step(between, p, 0.0), influence)
    large = 1e9
    torch.testing.assert_close(large * newton_step(between, p, large), 1 / p - 1, rtol=1e-5, atol=0)
    steps = [newton_step(between, p, weight) for weight in (0.0, 0.1, 1.0, 10.0)]
    assert all((later < earlier).all() for earlier, later in itertools.pairwise(steps))
    # With few of the classes as candidates the image's own curvature is counted in part, never too much.
    few = newton_step(between[:, :3, :3], p[:, :3], 1.0)
    assert (few >= steps[2][:, :3] - 1e-12).all()
    assert (few < influence[:, :3]).all()
    four = newton_step(between[:, :4, :4], p[:, :4], 1.0)
    torch.testing.assert_close(four, steps[2][:, :4])


def network() -> Classifier:
    torch.manual_seed(0)
    return small_network(3, (8, 8, 8)).to(memory_format=torch.channels_last).eval()


@pytest.mark.parametrize("parameters", ["head", "last-block", "all"])
@pytest.mark.parametrize("kind", ["diagonal", "kfac", "ekfac"])
def test_one_image_at_a_time_gives_the_same_scores(parameters: str, kind: str) -> None:
    model = network()
    curvature = fit_curvature(model, kind, parameters, IMAGES, 0.5, CPU, seed=0)
    options = {"parameters": parameters, "all_candidates": True, "mirrored": True, "device": CPU}
    together = evaluate(model, curvature, IMAGES, LABELS, **options)
    for index in range(len(IMAGES)):
        alone = evaluate(model, curvature, IMAGES[index : index + 1], LABELS[index : index + 1], **options)
        np.testing.assert_allclose(
            alone.influence[0], together.influence[index], rtol=0.03, atol=1e-4 * together.influence.max()
        )
        np.testing.assert_allclose(alone.losses[0], together.losses[index], rtol=0.02)
    given_only = evaluate(model, curvature, IMAGES, LABELS, **{**options, "all_candidates": False})
    np.testing.assert_allclose(
        given_only.influence[:, 0], together.influence[np.arange(12), LABELS], rtol=0.03
    )
    assert given_only.leverage is None


@pytest.mark.parametrize("kind", ["dense", "diagonal", "kfac", "ekfac"])
def test_influence_of_a_network_without_curvature_is_finite(kind: str) -> None:
    model = network()
    with torch.no_grad():
        model.head.bias += torch.tensor([200.0, 0.0, 0.0])
    curvature = fit_curvature(model, kind, "head", IMAGES, 0.01, CPU, seed=0)
    options = {"parameters": "head", "all_candidates": True, "mirrored": False, "device": CPU}
    scored = evaluate(model, curvature, IMAGES, LABELS, **options)
    assert np.isfinite(scored.influence).all()
    assert np.isfinite(scored.newton).all()
    assert (scored.influence[:, 1:] > 1e6 * scored.influence[:, :1]).all()


def test_losses_of_a_sure_network_are_not_cut() -> None:
    model = network()
    curvature = fit_curvature(model, "dense", "head", IMAGES, 0.5, CPU, seed=0)
    with torch.no_grad():
        logits = model(normalize(torch.from_numpy(IMAGES)))
        scale = 80 / float((logits.amax(1) - logits.amin(1)).max())
        model.head.weight *= scale
        model.head.bias *= scale
    options = {"parameters": "head", "all_candidates": True, "mirrored": False, "device": CPU}
    losses = evaluate(model, curvature, IMAGES, LABELS, **options).losses
    with torch.no_grad():
        exact = -model(normalize(torch.from_numpy(IMAGES))).double().log_softmax(1)
    assert losses.max() > 60
    np.testing.assert_allclose(losses, exact.numpy(), rtol=1e-5, atol=1e-6)


def test_mirrored_views_are_averaged() -> None:
    model = network()
    curvature = fit_curvature(model, "dense", "head", IMAGES, 0.5, CPU, seed=0)
    options = {"parameters": "head", "all_candidates": True, "device": CPU}
    flipped = np.ascontiguousarray(IMAGES[:, :, ::-1])
    assert torch.equal(mirror(normalize(torch.from_numpy(IMAGES))), normalize(torch.from_numpy(flipped)))
    both = evaluate(model, curvature, IMAGES, LABELS, mirrored=True, **options)
    views = [
        evaluate(model, curvature, view, LABELS, mirrored=False, **options) for view in (IMAGES, flipped)
    ]
    np.testing.assert_allclose(both.influence, (views[0].influence + views[1].influence) / 2, rtol=1e-5)
    np.testing.assert_allclose(both.losses, (views[0].losses + views[1].losses) / 2, rtol=1e-5)


def test_the_mean_over_minima_is_taken_over_the_classes_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_CANDIDATES", 2)
    options = {"parameters": "head", "all_candidates": True, "mirrored": True, "device": CPU}
    parts: list[Evaluation] = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = small_network(3, (8, 8, 8)).to(memory_format=torch.channels_last).eval()
        curvature = fit_curvature(model, "kfac", "head", IMAGES, 0.5, CPU, seed=0)
        parts.append(
            evaluate(model, curvature, IMAGES, LABELS, parts[0].classes if parts else None, **options)
        )
    mean = mean_evaluation(parts, [1, 2, 5])
    for part in parts:
        assert (part.classes == mean.classes).all()
    for name in ("losses", "influence", "leverage", "newton"):
        np.testing.assert_allclose(
            getattr(mean, name),
            sum(w * getattr(part, name) for w, part in zip((1, 2, 5), parts, strict=True)) / 8,
            rtol=1e-5,
        )
    assert mean_evaluation(parts[:1], [1.0]).losses.tolist() == parts[0].losses.tolist()


def test_many_classes_keep_the_given_one_and_the_most_probable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_CANDIDATES", 3)
    losses = torch.tensor([[5.0, 1.0, 2.0, 0.5, 9.0]])
    assert set(candidate_classes(losses, torch.tensor([4]))[0].tolist()) == {4, 3, 1}
    assert set(candidate_classes(losses, torch.tensor([3]))[0].tolist()) == {3, 1, 2}


def test_too_large_a_dense_matrix_is_refused() -> None:
    with pytest.raises(InputError, match=r"--curvature dense: .* too many"):
        fit_curvature(small_network(3), "dense", "all", IMAGES, 1.0, CPU, seed=0)


def test_predictions_are_distributions() -> None:
    features, log_p = predict(network(), normalize(torch.from_numpy(IMAGES)))
    assert features.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(12))


def test_what_a_saturated_network_is_surest_of_is_told_apart() -> None:
    """Probabilities below what float32 holds have no ties, and influence stays finite."""
    model = network()
    with torch.no_grad():
        model.head.weight *= 1e9
    curvature = fit_curvature(model, "kfac", "head", IMAGES, 1.0, CPU, seed=0)
    evaluation = evaluate(
        model,
        curvature,
        IMAGES,
        np.zeros(12, dtype=np.int64),
        parameters="head",
        all_candidates=True,
        mirrored=False,
        device=CPU,
    )
    # The logarithm of the smallest number of float32 is −103.
    surest = evaluation.losses[evaluation.losses > 104]
    assert len(np.unique(surest)) == len(surest) > 6
    for values in (evaluation.influence, evaluation.newton, evaluation.leverage):
        assert values is not None
        assert np.isfinite(values).all()


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    results = []
    for device in (CPU, torch.device("cuda")):
        model = network().to(device)
        curvature = fit_curvature(model, "kfac", "head", IMAGES, 1.0, device, seed=0)
        results.append(
            evaluate(
                model,
                curvature,
                IMAGES,
                LABELS,
                parameters="head",
                all_candidates=True,
                mirrored=True,
                device=device,
            )
        )
    np.testing.assert_allclose(results[0].influence, results[1].influence, rtol=0.05)
