"""The registry of methods."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from engine.config import RunConfig
from engine.errors import InputError
from engine.influence.base import Candidates, Method, Scores, ScoringContext
from engine.influence.baselines import margin, val_loss
from engine.influence.confident_learning import confident_learning
from engine.influence.noise_posterior import SMALLEST, NoisePosterior, noise_posterior
from engine.influence.validation_minima import influence, normalized_influence

if TYPE_CHECKING:
    from engine.influence.trajectory import TrajectoryContext


def _fvm_posterior(context: ScoringContext) -> Scores:
    """The noise posterior with p(t|x) ∝ I(x, t)^(−1/temperature): as I is a quadratic form, its logarithm is linear in log(1 − p_t)
    where the network is sure, and an image's leverage, which tells nothing of its label, drops out."""
    energies = Candidates(context.evaluation.classes, np.log(np.maximum(context.evaluation.influence, SMALLEST)))
    return _as_scores(noise_posterior(energies, context.labels, context.class_count, reliance=context.reliance))


def _val_loss_posterior(context: ScoringContext) -> Scores:
    return _as_scores(loss_posterior(context))


def loss_posterior(context: ScoringContext) -> NoisePosterior:
    """The noise posterior on validation losses, −log p_c."""
    losses = Candidates(context.evaluation.classes, context.evaluation.losses)
    return noise_posterior(losses, context.labels, context.class_count, temperature=1.0, reliance=context.reliance)


def _as_scores(posterior: NoisePosterior) -> Scores:
    return Scores(posterior.wrong, posterior.candidates)


def _later(module: str, name: str) -> Callable[["TrajectoryContext"], Scores]:
    """A method that works on the network itself: its module, and with it torch, is imported when it is called."""

    def score(context: "TrajectoryContext") -> Scores:
        found: Scores = getattr(import_module(f"engine.influence.{module}"), name)(context)
        return found

    return score


METHODS = {
    method.name: method
    for method in (
        Method("fvm", "flat", False, influence, "influence at a flat validation minimum"),
        Method("vm", "erm", False, influence, "influence at a plain validation minimum"),
        Method("fvm_normalized", "flat", True, normalized_influence, "fvm with the leverage divided out"),
        Method("fvm_posterior", "flat", True, _fvm_posterior, "noise posterior on fvm"),
        Method("val_loss", "flat", False, val_loss, "baseline: loss at the flat minimum"),
        Method("val_loss_posterior", "flat", False, _val_loss_posterior, "noise posterior on val_loss"),
        Method("margin", "flat", False, margin, "baseline: log-probability margin at the flat minimum"),
        Method("cleanlab", "flat", False, confident_learning, "confident learning on the predictions at the flat minimum"),
        Method(
            "lissa",
            "trained",
            False,
            _later("lissa", "lissa_influence"),
            "against the mean validation gradient, inverse Hessian by LiSSA",
        ),
        Method("tracin", "trained", False, _later("tracin", "tracin"), "against the mean validation gradient, along training"),
        Method("tracin_self", "trained", False, _later("tracin", "tracin_self"), "self-influence along training"),
        Method(
            "datainf",
            "trained",
            False,
            _later("datainf", "datainf"),
            "against the mean validation gradient, inverse in closed form",
        ),
        Method("gex", "trained", False, _later("gex", "gex"), "self-influence from an ensemble around the trained network"),
    )
}


def select_methods(config: RunConfig) -> list[Method]:
    """The methods of a configuration.

    Raises:
        InputError: an unknown method, or one that the other options leave undefined.
    """
    chosen = []
    for name in config.methods:
        if name not in METHODS:
            raise InputError(f"--method {name}: unknown; choose from {', '.join(METHODS)}")
        method = METHODS[name]
        if method.needs_candidates and not config.candidates:
            raise InputError(f"--method {name} needs candidate scores: leave --no-candidates out")
        if method.name.startswith("fvm") and config.optimizer == "erm":
            raise InputError(f"--method {name} needs a flat minimum: use --optimizer sam or lpf-sgd, or --method vm")
        if method.minimum == "trained" and not config.pretrains:
            raise InputError(f"--method {name} needs the network trained on the given labels: add --pretrain")
        chosen.append(method)
    return chosen
