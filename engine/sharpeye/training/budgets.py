"""How long to train: a budget and a data set's size -> plans of the stages."""

from sharpeye.training.trainer import TrainingPlan

# Epochs of each stage, for sets large enough that an epoch is many steps.
EPOCHS = {
    "fast": {"pretrain": 5, "minimum": 8},
    "standard": {"pretrain": 12, "minimum": 10, "refine": 16, "final minimum": 8},
    "thorough": {"pretrain": 30, "minimum": 30, "refine": 40, "final minimum": 30},
}
# Small sets need more epochs to make as many steps.
STEPS = {
    "fast": {"pretrain": 120, "minimum": 60},
    "standard": {"pretrain": 240, "minimum": 120, "refine": 240, "final minimum": 60},
    "thorough": {"pretrain": 800, "minimum": 300, "refine": 800, "final minimum": 300},
}
LEARNING_RATES = {"pretrain": 0.2, "minimum": 0.05, "refine": 0.2, "final minimum": 0.02}
# Stages whose way the figures and the classical methods look at; the others leave no snapshots behind.
FOLLOWED = ("pretrain", "minimum")
PRETRAINED_FACTOR = 0.1
SMOOTHING = 0.1


def plans(budget: str, images: dict[str, int], mirrored: bool, pretrained: bool) -> dict[str, TrainingPlan]:
    """Plans of the stages of a budget, their optimizer still `erm`; see `sharpeye.runs.minimum`.

    Args:
        budget: `fast`, `standard` or `thorough`.
        images: how many each stage trains on, see `images_of_stages`.
        mirrored: whether a mirrored image keeps its label.
        pretrained: whether the weights are pre-trained, so that steps are smaller.
    """
    planned = {}
    for name, least in EPOCHS[budget].items():
        batch = _batch_size(images[name])
        planned[name] = TrainingPlan(
            epochs=max(least, -(-STEPS[budget][name] * batch // images[name])),
            batch_size=batch,
            learning_rate=LEARNING_RATES[name] * (PRETRAINED_FACTOR if pretrained else 1.0),
            label_smoothing=SMOOTHING if name == "pretrain" else 0.0,
            mirrored=mirrored,
            snapshots=TrainingPlan.snapshots if name in FOLLOWED else 0,
        )
    return planned


def images_of_stages(training: int, validation: int) -> dict[str, int]:
    """How many images every stage trains on."""
    return {
        "pretrain": training,
        "minimum": validation,
        "refine": training + validation,
        "final minimum": validation,
    }


def _batch_size(count: int) -> int:
    """At most 256 images a step, and at least four steps an epoch."""
    return max(8, min(256, count // 4))
