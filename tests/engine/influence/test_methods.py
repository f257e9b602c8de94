from dataclasses import replace

import numpy as np
import pytest
import torch
from cleanlab.rank import get_label_quality_scores
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from sharpeye.config import CLASSICAL_METHODS, DEFAULT_METHODS, DEMO_METHODS, RunConfig
from sharpeye.curvature.dense import DenseCurvature
from sharpeye.curvature.gradients import fisher_vectors, head_gradients
from sharpeye.data.noise import flip_labels
from sharpeye.errors import InputError
from sharpeye.influence.base import Candidates, Evaluation, ScoringContext
from sharpeye.influence.baselines import margin, val_loss
from sharpeye.influence.confident_learning import confident_learning
from sharpeye.influence.evaluation import view_influence
from sharpeye.influence.methods import METHODS, MINIMUM_METHODS, TRAJECTORY_METHODS, select_methods
from sharpeye.influence.noise_posterior import NoisePosterior, count_deviation, noise_posterior
from sharpeye.influence.validation_minima import influence, normalized_influence


def context(losses: np.ndarray, labels: np.ndarray) -> ScoringContext:
    classes = np.broadcast_to(np.arange(losses.shape[1]), losses.shape)
    features = np.zeros((len(losses), 1), np.float16)
    return ScoringContext(
        labels,
        losses.shape[1],
        Evaluation(classes, losses, losses**2, losses.sum(1), losses, features, 0.0, 0.0),
        0.8,
    )


def test_baselines_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    scoring = context(-np.log(p), np.array([1, 0]))
    np.testing.assert_allclose(val_loss(scoring).influence, -np.log([0.2, 0.5]))
    np.testing.assert_allclose(margin(scoring).influence, [np.log(0.7 / 0.2), np.log(0.3 / 0.5)])
    np.testing.assert_allclose(
        margin(scoring).candidates.scores[0], [np.log(0.2 / 0.7), np.log(0.7 / 0.2), np.log(0.7 / 0.1)]
    )


def test_influence_reads_the_given_label_and_suggests_the_lowest() -> None:
    scoring = context(np.array([[3.0, 1.0, 2.0], [0.5, 4.0, 1.0]]), np.array([2, 1]))
    assert influence(scoring).influence.tolist() == [4.0, 16.0]
    assert influence(scoring).candidates.best().tolist() == [1, 0]
    np.testing.assert_allclose(normalized_influence(scoring).influence, [4 / 2, 16 / (5.5 / 3)])


def test_confident_learning_is_cleanlab_s() -> None:
    """Also with a class that no image has, and candidates in another order."""
    rng = np.random.default_rng(2)
    p, labels = rng.dirichlet(np.full(5, 0.3), 300), rng.integers(0, 4, 300)
    scoring = context(-np.log(p), labels)
    quality = get_label_quality_scores(labels, p, method="self_confidence", adjust_pred_probs=True)
    np.testing.assert_allclose(confident_learning(scoring).influence, 1 - quality)
    order = rng.permuted(np.broadcast_to(np.arange(5), p.shape), axis=1)
    losses = np.take_along_axis(-np.log(p), order, 1)
    shuffled = replace(scoring, evaluation=replace(scoring.evaluation, classes=order, losses=losses))
    np.testing.assert_allclose(confident_learning(shuffled).influence, 1 - quality)


@given(
    arrays(np.float64, (8, 4), elements=st.floats(0.0625, 20, width=32)),
    st.permutations(range(8)),
    st.permutations(range(4)),
)
def test_methods_follow_permutations_of_images_and_classes(
    losses: np.ndarray, images: list[int], classes: list[int]
) -> None:
    labels = np.arange(8) % 4
    moved = np.argsort(classes)[labels[images]]
    for name in ("fvm", "fvm_newton", "fvm_normalized", "val_loss", "margin"):
        plain = METHODS[name].score(context(losses, labels)).influence
        permuted = METHODS[name].score(context(losses[images][:, classes], moved)).influence
        np.testing.assert_allclose(permuted, plain[images], rtol=1e-6, atol=1e-9)


def test_leverage_drops_out_of_the_posterior_on_influence() -> None:
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.full(4, 0.3), 3000)
    true = (rng.random(len(p))[:, None] >= p.cumsum(1)).sum(1).clip(max=3)
    labels = flip_labels(true, np.full((4, 4), 0.1) + 0.6 * np.eye(4), seed=6)
    plain = context(-np.log(p.clip(1e-9)), labels)
    # Influence for M = I, then the same image for image at other leverages.
    squared = (p**2).sum(1, keepdims=True) + 1 - 2 * p
    leverage = np.exp(rng.normal(0, 2, (len(p), 1)))
    even, uneven = (
        replace(plain, evaluation=replace(plain.evaluation, influence=i))
        for i in (squared, squared * leverage)
    )
    score = METHODS["fvm_posterior"].score
    np.testing.assert_allclose(score(uneven).influence, score(even).influence, atol=0.02)
    assert score(uneven).candidates.best().tolist() == score(even).candidates.best().tolist()
    wrong = labels != true
    assert (
        roc_auc_score(wrong, score(uneven).influence)
        > roc_auc_score(wrong, METHODS["fvm"].score(uneven).influence) + 0.05
    )


def simulated(
    transition: np.ndarray, sharpness: float, overconfidence: float
) -> tuple[Candidates, np.ndarray, np.ndarray]:
    """True labels drawn from a known p(t|x), given labels from a known T, and energies −overconfidence ·
    log p."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(len(transition), 1 / sharpness), 20_000)
    true = (rng.random(len(p))[:, None] >= p.cumsum(1)).sum(1).clip(max=len(transition) - 1)
    classes = np.broadcast_to(np.arange(len(transition)), p.shape)
    return (
        Candidates(classes, -overconfidence * np.log(p.clip(1e-12))),
        true,
        flip_labels(true, transition, seed=1),
    )


@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 2.5])
def test_posterior_recovers_noise_and_temperature(overconfidence: float) -> None:
    transition = np.array([[0.8, 0.2, 0, 0], [0.1, 0.6, 0.3, 0], [0, 0, 0.9, 0.1], [0.05, 0.05, 0.2, 0.7]])
    candidates, true, labels = simulated(transition, 8.0, overconfidence)
    posterior = noise_posterior(candidates, labels, 4, reliance=1.0)
    np.testing.assert_allclose(posterior.transition, transition, atol=0.03)
    assert posterior.temperature == pytest.approx(overconfidence, rel=0.1)
    wrong = labels != true
    assert posterior.expected_wrong == pytest.approx(wrong.sum(), rel=0.04)
    for low in np.arange(0, 1, 0.2):
        inside = (posterior.wrong >= low) & (posterior.wrong < low + 0.2)
        assert wrong[inside].mean() == pytest.approx(posterior.wrong[inside].mean(), abs=0.06)
    by_energy = candidates.of(labels)
    assert roc_auc_score(wrong, posterior.wrong) > roc_auc_score(wrong, by_energy)
    assert (posterior.candidates.best() == true).mean() > (candidates.best() == true).mean()


def calibrated(
    shares: np.ndarray, rng: np.random.Generator, count: int = 3000
) -> tuple[np.ndarray, np.ndarray]:
    """p(t|x) that is right where all classes are equally frequent, and true labels of these class shares."""
    true = rng.choice(len(shares), count, p=shares)
    views = rng.normal(size=(count, len(shares)))
    views[np.arange(count), true] += 2.2
    return softmax(2.2 * views, axis=1), true


def posterior_of(p: np.ndarray, labels: np.ndarray, prior: np.ndarray | None = None) -> NoisePosterior:
    classes = np.broadcast_to(np.arange(p.shape[1]), p.shape)
    return noise_posterior(Candidates(classes, -np.log(p)), labels, p.shape[1], 1.0, prior=prior)


EVEN = np.full(10, 0.1)
LONG_TAIL = 100.0 ** (-np.arange(10) / 9) / (100.0 ** (-np.arange(10) / 9)).sum()


@pytest.mark.parametrize("shares", [EVEN, LONG_TAIL])
def test_where_no_label_is_wrong_none_is_found(shares: np.ndarray) -> None:
    for seed in range(4):
        p, true = calibrated(shares, np.random.default_rng(seed))
        posterior = posterior_of(p, true, EVEN)
        assert posterior.expected_wrong < 0.004 * len(true)
        assert posterior.interval[0] < 0.001 * len(true)
        np.testing.assert_allclose(EVEN * posterior.class_weights, shares, atol=0.03)


@pytest.mark.parametrize("shares", [EVEN, LONG_TAIL])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_the_deviation_of_the_count_is_that_over_many_draws(shares: np.ndarray, rate: float) -> None:
    standard = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        p, true = calibrated(shares, rng)
        labels = flip_labels(true, (1 - rate * 10 / 9) * np.eye(10) + rate / 9, 1000 + seed)
        posterior = posterior_of(p, labels, EVEN)
        error = posterior.expected_wrong - (labels != true).sum()
        standard.append(error / count_deviation(posterior.wrong))
    assert abs(np.mean(standard)) < 0.6
    assert 0.6 < np.std(standard) < 1.5


def test_a_confused_pair_of_classes_stands_out() -> None:
    p, true = calibrated(EVEN, np.random.default_rng(0), 6000)
    labels = np.where((true == 3) & (np.random.default_rng(1).random(6000) < 0.4), 5, true)
    transition = posterior_of(p, labels, EVEN).transition
    assert transition[3, 5] == pytest.approx(0.4, abs=0.06)
    off = transition[~np.eye(10, dtype=bool)]
    assert np.sort(off)[-2] < 0.03


def test_the_interval_reaches_up_where_people_err_as_the_network_does() -> None:
    """A part of the labels is drawn from the very doubts of the network.

    Labels then agree too well with the predictions, and the count is too low.
    """
    rng = np.random.default_rng(3)
    p, true = calibrated(EVEN, rng, 20_000)
    perceived = (rng.random(len(p))[:, None] >= p.cumsum(1)).sum(1).clip(max=9)
    flipped = flip_labels(true, 0.95 * np.eye(10) + 0.005, seed=4)
    for share, covered in ((0.05, True), (0.5, False)):
        labels = np.where(rng.random(len(p)) < share, perceived, flipped)
        wrong = (labels != true).sum()
        posterior = posterior_of(p, labels)
        assert posterior.expected_wrong < wrong
        assert (wrong < posterior.interval[1]) == covered


def test_posterior_with_few_of_many_classes_agrees_with_all() -> None:
    transition = np.full((6, 6), 0.04) + np.eye(6) * 0.76
    candidates, _, labels = simulated(transition, 20.0, 1.0)
    scores = candidates.scores.copy()
    np.put_along_axis(scores, labels[:, None], -1.0, axis=1)
    top = np.argsort(scores, axis=1)[:, :4]
    few = Candidates(top, np.take_along_axis(candidates.scores, top, 1))
    whole, part = noise_posterior(candidates, labels, 6), noise_posterior(few, labels, 6)
    assert part.expected_wrong == pytest.approx(whole.expected_wrong, rel=0.02)


def test_influence_ranks_images_as_retraining_does() -> None:
    """Logistic regression: I(x, y) against what one image changes at the minimum of the validation risk, by
    retraining.

    To first order in ε, adding ε·ℓ(x, y) moves θ̃ by −ε H⁻¹g and lowers that image's own loss by ε gᵀH⁻¹g.
    """
    rng = np.random.default_rng(0)
    count, dimension, classes, ridge, epsilon = 60, 3, 3, 1e-2, 1e-3
    inputs = rng.normal(size=(count, dimension))
    labels = (inputs[:, :2] + rng.normal(scale=0.7, size=(count, 2))).argmax(1)
    suspects, given_labels = rng.normal(size=(25, dimension)), rng.integers(0, classes, 25)

    def losses(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        rows = weights.reshape(classes, dimension + 1)
        logits = torch.as_tensor(x) @ rows[:, :-1].T + rows[:, -1]
        return torch.nn.functional.cross_entropy(logits, torch.as_tensor(y), reduction="none")

    def minimum(extra: int | None, start: np.ndarray) -> np.ndarray:
        def risk(values: np.ndarray) -> tuple[float, np.ndarray]:
            weights = torch.tensor(values, requires_grad=True)
            total = losses(weights, inputs, labels).mean() + ridge / 2 * weights.square().sum()
            if extra is not None:
                total = total + epsilon * losses(weights, suspects[[extra]], given_labels[[extra]])[0]
            total.backward()
            return total.item(), weights.grad.numpy()

        return minimize(
            risk, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-11, "maxiter": 5000}
        ).x

    base = minimum(None, np.zeros(classes * (dimension + 1)))
    drops = []
    for index in range(len(suspects)):
        moved = minimum(index, base)
        loss = [
            losses(torch.tensor(w), suspects[[index]], given_labels[[index]]).item() for w in (base, moved)
        ]
        drops.append((loss[0] - loss[1]) / epsilon)

    rows = torch.tensor(base).reshape(classes, dimension + 1)

    def head(x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.as_tensor(x)
        return features, (features @ rows[:, :-1].T + rows[:, -1]).softmax(1)

    features, p = head(inputs)
    undamped = DenseCurvature.fit([(head_gradients(features, fisher_vectors(p)), count)], 1.0)
    relative = ridge / float(undamped.matrix.trace() / len(undamped.matrix))
    curvature = DenseCurvature.fit([(head_gradients(features, fisher_vectors(p)), count)], relative)
    features, p = head(suspects)
    scored, _, _ = view_influence(
        curvature, lambda v: head_gradients(features, v), p, None, torch.as_tensor(given_labels)
    )
    np.testing.assert_allclose(scored[:, 0], drops, rtol=0.1)
    assert spearmanr(scored[:, 0], drops).statistic > 0.99


def test_methods_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="unknown; choose from fvm"):
        select_methods(RunConfig.of("demo", methods=("fvn",)))
    with pytest.raises(InputError, match="needs candidate scores"):
        select_methods(RunConfig.of("demo", methods=("fvm_posterior",), candidates=False))
    with pytest.raises(InputError, match="needs a flat minimum"):
        select_methods(RunConfig.of("demo", methods=("fvm",), optimizer="erm"))


def test_the_lists_of_methods_agree() -> None:
    assert set(CLASSICAL_METHODS) == set(TRAJECTORY_METHODS)
    assert {*DEMO_METHODS, *DEFAULT_METHODS} <= set(MINIMUM_METHODS)
    assert all(name == method.name for name, method in METHODS.items())
    assert all(method.about for method in METHODS.values())
