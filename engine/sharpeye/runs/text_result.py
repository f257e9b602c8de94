"""The result of a run on text, as its result.json holds it. Never torch."""

from dataclasses import dataclass

from sharpeye.runs.result import result_in
from sharpeye.runs.workspace import RunFolder


@dataclass(frozen=True)
class PairQuality:
    """How well a method finds the training examples of a validation example's class.

    Attributes:
        auc: area under the ROC curve of its influence as a detector of the class, the mean over validation
            examples; None without classes.
        recall: share of the class among as many of the most influential as it has, the mean likewise.
        seconds: what the method took, beside training; gradients that several methods read count for each.
    """

    auc: float | None
    recall: float | None
    seconds: float


@dataclass(frozen=True)
class TextResult:
    """What a run on text computed, apart from its tables.

    Attributes:
        run: its id.
        version: of the program's results.
        n: number of training examples.
        validation: number of validation examples.
        ranked_by: the method whose influence is shown.
        seconds: duration of the process that finished the run.
        stage_seconds: duration of each stage that was computed.
        device: name of the device.
        peak_memory_mb: of the process.
        methods: quality of each, the ranking one first.
        detection: where completions were swapped for a benchmark, the AUC with which each score finds these.
    """

    run: str
    version: int
    n: int
    validation: int
    ranked_by: str
    seconds: float
    stage_seconds: dict[str, float]
    device: str
    peak_memory_mb: float
    methods: dict[str, PairQuality]
    detection: dict[str, float]


def read_text_result(folder: RunFolder) -> TextResult:
    """The result of a run on text.

    Raises:
        InputError: it has none yet, or it is damaged.
        OutdatedResult: it was computed by another version of this program.
    """
    return result_in(folder, TextResult)
