"""The stages of a run on text, in the order in which they run. Never torch."""

from sharpeye.text.config import PLAIN_METHODS, TRAINED_METHODS, TextConfig

LOAD, TRAIN, SAY, PAIRS, PLAIN = "load", "train", "say", "pairs", "plain baselines"


def minimum_stage(kind: str) -> str:
    """Training to the `flat` or `erm` minimum."""
    return f"minimum ({'lpf-sgd' if kind == 'flat' else 'erm'})"


def curvature_stage(kind: str) -> str:
    """Fitting the curvature there."""
    return f"curvature ({kind})"


def gradient_stage(kind: str) -> str:
    """Gradients of all examples there, or at the `trained` model."""
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
        stages += [minimum_stage(kind), curvature_stage(kind), gradient_stage(kind)]
    stages.append(PAIRS)
    if any(method in PLAIN_METHODS for method in config.methods):
        stages.append(PLAIN)
    return tuple(stages)


def minima_of(config: TextConfig) -> tuple[str, ...]:
    """The kinds of minima that a run computes, `flat` and `erm`; at the first one self-influence is taken."""
    kinds = ["flat" if method.startswith("fvm") else "erm" for method in config.methods if "vm" in method]
    return tuple(dict.fromkeys(kinds)) or ("flat",)
