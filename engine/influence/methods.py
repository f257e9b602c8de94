"""The registry of methods."""

from engine.errors import InputError
from engine.influence.base import Candidates, Method, Scores, ScoringContext
from engine.influence.baselines import margin, val_loss
from engine.influence.noise_posterior import NoisePosterior, noise_posterior
from engine.influence.validation_minima import influence, normalized_influence


def _fvm_posterior(context: ScoringContext) -> Scores:
    energies = Candidates(context.evaluation.classes, context.evaluation.influence)
    return _as_scores(noise_posterior(energies, context.labels, context.class_count))


def _val_loss_posterior(context: ScoringContext) -> Scores:
    return _as_scores(loss_posterior(context))


def loss_posterior(context: ScoringContext) -> NoisePosterior:
    """The noise posterior on validation losses, −log p_c."""
    losses = Candidates(context.evaluation.classes, context.evaluation.losses)
    return noise_posterior(losses, context.labels, context.class_count)


def _as_scores(posterior: NoisePosterior) -> Scores:
    return Scores(posterior.wrong, posterior.candidates)


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
    )
}


def select_methods(names: tuple[str, ...], candidates: bool, optimizer: str) -> list[Method]:
    """Methods by name.

    Raises:
        InputError: an unknown method, or one that the other options leave undefined.
    """
    chosen = []
    for name in names:
        if name not in METHODS:
            raise InputError(f"--method {name}: unknown; choose from {', '.join(METHODS)}")
        method = METHODS[name]
        if method.needs_candidates and not candidates:
            raise InputError(f"--method {name} needs candidate scores: leave --no-candidates out")
        if method.name.startswith("fvm") and optimizer == "erm":
            raise InputError(f"--method {name} needs a flat minimum: use --optimizer sam or lpf-sgd, or --method vm")
        chosen.append(method)
    return chosen
