import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from sharpeye.training.batches import SoftLabels
from sharpeye.training.heads import choose_ridge, fit_head, log_probabilities, zero_head

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
CLASSES = 4
FEATURES = RNG.standard_normal((300, 12)).astype(np.float16) * 3 + 5
LABELS = (FEATURES[:, :CLASSES] + RNG.standard_normal((300, CLASSES))).argmax(1)
ROWS = np.arange(200)


def test_the_head_is_logistic_regression() -> None:
    ridge = 1e-2
    start = zero_head(FEATURES, ROWS, CLASSES, CPU)
    head = fit_head(FEATURES, ROWS, LABELS, start, ridge, CPU)
    scaled = (FEATURES[ROWS].astype(np.float64) - start.centre.numpy()) / start.scale
    assert np.isclose((scaled**2).sum(1).mean(), 1)
    fitted = LogisticRegression(C=1 / (ridge * len(ROWS)), tol=1e-8, max_iter=1000).fit(scaled, LABELS[ROWS])
    others = np.arange(200, 300)
    held = (FEATURES[others].astype(np.float64) - start.centre.numpy()) / start.scale
    own = np.exp(log_probabilities(head, FEATURES, others, CPU))
    np.testing.assert_allclose(own, fitted.predict_proba(held), atol=2e-3)
    inputs = torch.from_numpy(FEATURES[others]).float()
    with torch.inference_mode():
        np.testing.assert_allclose(head.classifier()(inputs).softmax(1).numpy(), own, atol=1e-5)


def test_certain_beliefs_are_labels() -> None:
    start = zero_head(FEATURES, ROWS, CLASSES, CPU)
    sure = SoftLabels(LABELS[:, None], np.ones((len(LABELS), 1)), CLASSES)
    heads = [fit_head(FEATURES, ROWS, labels, start, 1e-2, CPU) for labels in (LABELS, sure)]
    torch.testing.assert_close(heads[0].weight, heads[1].weight, atol=1e-4, rtol=0)


def test_the_ridge_is_the_likeliest_for_labels_held_out() -> None:
    held, ridges = np.arange(200, 300), (10.0, 1e-1, 1e-2, 1e-3, 1e-6)
    start = zero_head(FEATURES, ROWS, CLASSES, CPU)
    chosen, head = choose_ridge(FEATURES, LABELS, ROWS, held, start, CPU, ridges)

    def likelihood(ridge: float) -> float:
        one = fit_head(FEATURES, ROWS, LABELS, start, ridge, CPU)
        return float(log_probabilities(one, FEATURES, held, CPU)[np.arange(100), LABELS[held]].mean())

    assert chosen == max(ridges, key=likelihood)
    assert chosen not in (ridges[0], ridges[-1])
    assert head.weight.abs().sum() > 0
