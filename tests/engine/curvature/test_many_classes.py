"""1,000 classes and 2,048 features: nothing as large as images by classes by features is made."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from sharpeye.curvature.fit import fit_curvature
from sharpeye.influence.evaluation import MAX_CANDIDATES, evaluate
from sharpeye.training.heads import Head

IMAGES, CLASSES, FEATURES = 1000, 1000, 2048
MOST_GIGABYTES = 2.0
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_many_classes_take_little_memory(kind: str) -> None:
    """In a process of its own, whose memory nothing else has filled; its array of gradients alone would take
    8 TB, and one for the candidates 40 GB."""
    done = subprocess.run([sys.executable, "-P", __file__, kind], capture_output=True, text=True, check=True)
    assert float(done.stdout) < MOST_GIGABYTES


def main(kind: str) -> None:
    """Print the most memory that the head's curvature and scores took, in GB."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, IMAGES)
    means = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    features = (means[labels] + rng.normal(size=(IMAGES, FEATURES))).astype(np.float16)
    weight = torch.from_numpy(means) / FEATURES**0.5
    model = Head(weight, torch.zeros(CLASSES), torch.zeros(FEATURES), 1.0).classifier()
    curvature = fit_curvature(model, kind, "head", features, 1.0, CPU, 0)
    evaluation = evaluate(
        model,
        curvature,
        features,
        labels,
        parameters="head",
        all_candidates=True,
        mirrored=False,
        device=CPU,
    )
    assert evaluation.influence.shape == (IMAGES, MAX_CANDIDATES)
    assert np.isfinite(evaluation.influence).all()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


if __name__ == "__main__":
    main(sys.argv[1])
