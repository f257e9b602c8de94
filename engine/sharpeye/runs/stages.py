"""The stages of a run, in the order in which they run. The pipeline reports no other ones."""

from sharpeye.config import RunConfig
from sharpeye.influence.base import MinimumKind, MinimumMethod, TrajectoryMethod
from sharpeye.influence.methods import METHODS
from sharpeye.specs import NoValidation

DECODE, PRETRAIN, BELIEFS, REFINE = "decode", "pretrain", "beliefs", "refine"
EMBED, HEADS = "embed", "heads"
NEIGHBOURS, MAP, CANARIES, FIGURES = "neighbours", "map", "canaries", "figures"


def minimum_stage(optimizer: str) -> str:
    """Training to the first minimum of the validation risk."""
    return f"minimum ({optimizer})"


def final_minimum_stage(optimizer: str) -> str:
    """Training to the minimum of the refined network."""
    return f"final minimum ({optimizer})"


def curvature_stage(minimum: str) -> str:
    """Fitting the curvature at a `flat` or plain (`erm`) minimum."""
    return f"curvature ({minimum})"


def score_stage(name: str) -> str:
    """Scoring the images at a `flat` or `erm` minimum, or by a classical method."""
    return f"score ({name})"


def minima_of(config: RunConfig) -> tuple[MinimumKind, ...]:
    """The kinds of validation minima that a run's methods read, in the order in which they are computed.

    The classical methods alone need none, yet suggestions, confidence and the map do.
    """
    methods = (METHODS[name] for name in config.methods)
    kinds = {method.minimum for method in methods if isinstance(method, MinimumMethod)}
    own: MinimumKind = "erm" if config.optimizer == "erm" else "flat"
    return tuple(sorted(kinds)) or (own,)


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """Names of the stages of a run, in the order in which they run.

    `Progress.stage` is always one of them.
    """
    stages, has_split = [DECODE], not isinstance(config.data.validation, NoValidation)
    if config.on_features or not has_split:
        stages.append(EMBED)
    for kind in minima_of(config):
        optimizer = "erm" if kind == "erm" else config.optimizer
        if config.on_features:
            stages += [HEADS] if optimizer == "erm" else [HEADS, minimum_stage(optimizer)]
            stages += [curvature_stage(kind), score_stage(kind)]
            continue
        if not has_split:
            stages += [BELIEFS, REFINE, final_minimum_stage(optimizer)]
            stages += [curvature_stage(kind), score_stage(kind)]
            continue
        if config.pretrains:
            stages.append(PRETRAIN)
        stages.append(minimum_stage(optimizer))
        if config.refines:
            stages += [minimum_stage(config.optimizer), BELIEFS, REFINE, final_minimum_stage(optimizer)]
        stages += [curvature_stage(kind), score_stage(kind)]
    stages += [score_stage(name) for name in config.methods if isinstance(METHODS[name], TrajectoryMethod)]
    stages += [NEIGHBOURS, MAP]
    if config.figures and has_split:
        # The figures follow a network through training; a head on features has but one minimum.
        stages += [CANARIES] if config.on_features else [CANARIES, FIGURES]
    return tuple(dict.fromkeys(stages))
