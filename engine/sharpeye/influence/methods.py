"""The registry of methods."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from sharpeye.config import RunConfig
from sharpeye.errors import InputError
from sharpeye.influence.base import (
    Candidates,
    Method,
    MinimumMethod,
    Scores,
    ScoringContext,
    TrajectoryMethod,
)
from sharpeye.influence.baselines import margin, val_loss
from sharpeye.influence.confident_learning import confident_learning
from sharpeye.influence.noise_posterior import SMALLEST, NoisePosterior, noise_posterior
from sharpeye.influence.validation_minima import influence, newton_influence, normalized_influence
from sharpeye.specs import NoValidation

if TYPE_CHECKING:
    from sharpeye.influence.trajectory import TrajectoryContext


def _fvm_posterior(context: ScoringContext) -> Scores:
    """The noise posterior with p(t|x) ∝ I(x, t)^(−1/temperature): as I is a quadratic form, its logarithm
    is linear in log(1 − p_t) where the network is sure, and an image's leverage, which tells nothing of
    its label, drops out."""
    energies = Candidates(
        context.evaluation.classes, np.log(np.maximum(context.evaluation.influence, SMALLEST))
    )
    return _as_scores(
        noise_posterior(
            energies, context.labels, context.class_count, reliance=context.reliance, prior=context.prior
        )
    )


def _val_loss_posterior(context: ScoringContext) -> Scores:
    return _as_scores(loss_posterior(context))


def loss_posterior(context: ScoringContext) -> NoisePosterior:
    """The noise posterior on validation losses, −log p_c."""
    labels, class_count, prior = context.labels, context.class_count, context.prior
    losses = Candidates(context.evaluation.classes, context.evaluation.losses)
    return noise_posterior(losses, labels, class_count, context.temperature, context.reliance, prior)


def _as_scores(posterior: NoisePosterior) -> Scores:
    return Scores(posterior.wrong, posterior.candidates)


def _later(module: str, name: str) -> Callable[["TrajectoryContext"], Scores]:
    """A method that works on the network itself: its module, and with it torch, is imported when it is
    called."""

    def score(context: "TrajectoryContext") -> Scores:
        scores: Scores = getattr(import_module(f"sharpeye.influence.{module}"), name)(context)
        return scores

    return score


MINIMUM_METHODS = {
    method.name: method
    for method in (
        MinimumMethod("fvm", "flat", influence, "influence at a flat validation minimum"),
        MinimumMethod(
            "fvm_newton", "flat", newton_influence, "fvm with the image's own curvature: a Newton step", True
        ),
        MinimumMethod("vm", "erm", influence, "influence at a plain validation minimum"),
        MinimumMethod(
            "fvm_normalized", "flat", normalized_influence, "fvm with the leverage divided out", True
        ),
        MinimumMethod("fvm_posterior", "flat", _fvm_posterior, "noise posterior on fvm", True),
        MinimumMethod("val_loss", "flat", val_loss, "baseline: loss at the flat minimum"),
        MinimumMethod(
            "val_loss_posterior",
            "flat",
            _val_loss_posterior,
            "noise posterior on val_loss, the limit of fvm_newton",
        ),
        MinimumMethod("margin", "flat", margin, "baseline: log-probability margin at the flat minimum"),
        MinimumMethod("cleanlab", "flat", confident_learning, "confident learning at the flat minimum"),
    )
}
MEAN_GRADIENT = "against the mean validation gradient, "
TRAJECTORY_METHODS = {
    method.name: method
    for method in (
        TrajectoryMethod(
            "lissa", _later("lissa", "lissa_influence"), MEAN_GRADIENT + "inverse Hessian by LiSSA"
        ),
        TrajectoryMethod("tracin", _later("tracin", "tracin"), MEAN_GRADIENT + "along training"),
        TrajectoryMethod("tracin_self", _later("tracin", "tracin_self"), "self-influence along training"),
        TrajectoryMethod("datainf", _later("datainf", "datainf"), MEAN_GRADIENT + "inverse in closed form"),
        TrajectoryMethod("gex", _later("gex", "gex"), "self-influence from an ensemble around the network"),
    )
}
METHODS: dict[str, Method] = {**MINIMUM_METHODS, **TRAJECTORY_METHODS}


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
        if isinstance(method, MinimumMethod) and method.needs_candidates and not config.candidates:
            raise InputError(f"--method {name} needs candidate scores: leave --no-candidates out")
        if method.name.startswith("fvm") and config.optimizer == "erm":
            raise InputError(
                f"--method {name} needs a flat minimum: use --optimizer sam or lpf-sgd, or --method vm"
            )
        if isinstance(method, TrajectoryMethod) and not config.pretrains:
            raise InputError(f"--method {name} needs the network trained on the given labels: add --pretrain")
        if isinstance(method, TrajectoryMethod) and config.on_features:
            raise InputError(f"--method {name} follows a whole network through training: add --tune all")
        if isinstance(method, TrajectoryMethod) and isinstance(config.data.validation, NoValidation):
            raise InputError(f"--method {name} needs a clean validation split: choose another --validation")
        chosen.append(method)
    return chosen
