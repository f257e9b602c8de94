"""How long to train: a budget and a data set's size -> plans of the two stages."""

from dataclasses import replace

from engine.training.trainer import TrainingPlan

# Epochs of pre-training and of the validation minimum, for sets large enough that an epoch is many steps.
EPOCHS = {"fast": (5, 8), "standard": (12, 16), "thorough": (30, 30)}
# Small sets need more epochs to make as many steps.
STEPS = {"fast": (120, 60), "standard": (240, 120), "thorough": (800, 300)}


def plans(
    budget: str, training_images: int, validation_images: int, mirrored: bool, pretrained: bool
) -> tuple[TrainingPlan, TrainingPlan]:
    """Plans of pre-training and of the walk to the minimum (its optimizer still `erm`).

    Args:
        budget: `fast`, `standard` or `thorough`.
        training_images: size of the training set.
        validation_images: size of the validation split that is trained on.
        mirrored: whether a mirrored image keeps its label.
        pretrained: whether the weights come from elsewhere and want smaller steps.
    """
    base = TrainingPlan(epochs=0, mirrored=mirrored)
    batch = [_batch_size(count) for count in (training_images, validation_images)]
    epochs = [
        max(least, -(-steps * size // count))
        for least, steps, size, count in zip(
            EPOCHS[budget], STEPS[budget], batch, (training_images, validation_images), strict=True
        )
    ]
    factor = 0.1 if pretrained else 1.0
    return (
        replace(base, epochs=epochs[0], batch_size=batch[0], learning_rate=0.2 * factor, label_smoothing=0.1),
        replace(base, epochs=epochs[1], batch_size=batch[1], learning_rate=0.05 * factor),
    )


def _batch_size(count: int) -> int:
    """At most 256 images a step, and at least four steps an epoch."""
    return max(8, min(256, count // 4))
