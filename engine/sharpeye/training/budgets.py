"""How long to train: a budget, a stage and its number of images -> a plan."""

from dataclasses import dataclass

from sharpeye.training.trainer import TrainingPlan

# Epochs of each stage, for sets large enough that an epoch is many steps.
EPOCHS = {
    "fast": {"pretrain": 5, "minimum": 8, "refine": 5, "final minimum": 8},
    "standard": {"pretrain": 12, "minimum": 10, "refine": 16, "final minimum": 8},
    "thorough": {"pretrain": 30, "minimum": 30, "refine": 40, "final minimum": 30},
}
# Small sets need more epochs to make as many steps.
STEPS = {
    "fast": {"pretrain": 120, "minimum": 60, "refine": 120, "final minimum": 60},
    "standard": {"pretrain": 240, "minimum": 120, "refine": 240, "final minimum": 60},
    "thorough": {"pretrain": 800, "minimum": 300, "refine": 800, "final minimum": 300},
}
LEARNING_RATES = {"pretrain": 0.2, "minimum": 0.05, "refine": 0.2, "final minimum": 0.02}
# Stages whose way the figures and the classical methods look at; the others leave no snapshots behind.
FOLLOWED = ("pretrain", "minimum")
PRETRAINED_FACTOR = 0.1
SMOOTHING = 0.1
# Without a clean split, each network learns from two thirds of the images. More folds cost more.
NETWORK_FOLDS = 3


@dataclass(frozen=True)
class EnsemblePlan:
    """Networks around a trained one: how many, and how many steps of SGD apart."""

    members: int
    steps: int


ENSEMBLES = {
    "fast": EnsemblePlan(8, 16),
    "standard": EnsemblePlan(16, 100),
    "thorough": EnsemblePlan(32, 800),
}


def plan_of(budget: str, stage: str, images: int, mirrored: bool, pretrained: bool) -> TrainingPlan:
    """The plan of a stage under a budget, its optimizer still `erm`; see `sharpeye.runs.minimum`.

    Args:
        budget: `fast`, `standard` or `thorough`.
        stage: a key of `EPOCHS[budget]`.
        images: how many it trains on.
        mirrored: whether a mirrored image keeps its label.
        pretrained: whether the weights are pre-trained, so that steps are smaller.
    """
    batch = _batch_size(images)
    return TrainingPlan(
        epochs=max(EPOCHS[budget][stage], -(-STEPS[budget][stage] * batch // images)),
        batch_size=batch,
        learning_rate=LEARNING_RATES[stage] * (PRETRAINED_FACTOR if pretrained else 1.0),
        label_smoothing=SMOOTHING if stage == "pretrain" else 0.0,
        mirrored=mirrored,
        snapshots=TrainingPlan.snapshots if stage in FOLLOWED else 0,
    )


def images_trained(budget: str, training: int, validation: int) -> int:
    """How many images a network is shown in all stages of a budget, in all folds.

    Args:
        budget: `fast`, `standard` or `thorough`.
        training: how many images are judged.
        validation: how many are trusted; without any, networks are cross-fitted.
    """
    folds, counts = 1, {"pretrain": training, "minimum": validation}
    if validation == 0:
        learned = training - training // NETWORK_FOLDS
        folds, counts = NETWORK_FOLDS, {"refine": learned, "final minimum": learned // 2}
    elif budget != "fast":
        counts |= {"refine": training + validation, "final minimum": validation}
    return folds * sum(
        count * plan_of(budget, stage, count, mirrored=True, pretrained=False).epochs
        for stage, count in counts.items()
    )


def _batch_size(count: int) -> int:
    """At most 256 images a step, and at least four steps an epoch."""
    return max(8, min(256, count // 4))
