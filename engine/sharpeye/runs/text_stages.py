"""The stages of a run on text, in the order in which they run. Never torch."""

from sharpeye.runs.stages import curvature_stage, minimum_stage
from sharpeye.text.config import PLAIN_METHODS, TRAINED_METHODS, TextConfig

LOAD, TRAIN, SAY, PAIRS, PLAIN = "load", "train", "say", "pairs", "plain baselines"


def optimizer_of(kind: str) -> str:
    """What trains to a `flat` or `erm` minimum."""
    return "lpf-sgd" if kind == "flat" else "erm"


def gradient_stage(kind: str) -> str:
    """Gradients of all examples at a `flat` or `erm` minimum, or at the `trained` model."""
    return f"gradients ({kind})"


def text_stages(config: TextConfig) -> tuple[str, ...]:
    """Names of the stages of a run on text, in the order in which they run."""
    stages = [LOAD]
    if config.say:
        stages.append(SAY)
    if config.epochs:
        stages.append(TRAIN)
    if any(method in TRAINED_METHODS for method in config.methods):
        stages.append(gradient_stage("trained"))
    for kind in minima_of(config):
        stages += [minimum_stage(optimizer_of(kind)), curvature_stage(kind), gradient_stage(kind)]
    stages.append(PAIRS)
    if any(method in PLAIN_METHODS for method in config.methods):
        stages.append(PLAIN)
    return tuple(stages)


def minima_of(config: TextConfig) -> tuple[str, ...]:
    """The kinds of minima that a run computes, `flat` and `erm`; at the first one self-influence is taken."""
    kinds = ["flat" if method.startswith("fvm") else "erm" for method in config.methods if "vm" in method]
    return tuple(dict.fromkeys(kinds)) or ("flat",)
