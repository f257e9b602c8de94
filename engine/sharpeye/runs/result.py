"""The result of a run, as result.json and `--json` hold it."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from sharpeye.config import VERSION
from sharpeye.errors import InputError
from sharpeye.quality import LabelAccuracy, Quality
from sharpeye.runs.workspace import RunFolder

# Of all labels: fewer than this may be none.
NO_SIGN_SHARE = 0.005


@dataclass(frozen=True)
class MethodResult(Quality):
    """Quality of one method, and what it cost.

    Attributes:
        score_seconds: duration of scoring.
        memory_mb: most memory in use during it.
    """

    score_seconds: float = 0.0
    memory_mb: float = 0.0


@dataclass(frozen=True)
class DecodedImages:
    """Names of the decoded data sets of a run, which are folders of the workspace.

    Attributes:
        training: the images that are scored.
        validation: those shown as evidence.
        trusted: whether the labels of these are trusted; without any such, the surest of the training set.
    """

    training: str
    validation: str
    trusted: bool = True


@dataclass(frozen=True)
class RunResult:
    """What a run computed, apart from its tables.

    Attributes:
        run: its id.
        version: of the program's results, `sharpeye.config.VERSION`.
        n: number of scored images.
        classes: number of classes.
        seconds: duration of the process that finished the run; stages that an earlier one computed are not in
            it.
        stage_seconds: duration of each stage that was computed.
        images_per_second: speed of scoring.
        device: name of the device.
        peak_memory_mb: of the process.
        expected_wrong: expected number of wrong labels.
        expected_wrong_interval: lowest and highest expected number.
        label_accuracy: where true labels are known.
        ranked_by: the method that ranks.
        skipped: number of rows left out, see skipped.csv.
        methods: result of each method, the ranking one first.
        scores: path of scores.parquet.
        classes_in_order: names of the classes.
        images: names of the decoded data sets.
    """

    run: str
    version: int
    n: int
    classes: int
    seconds: float
    stage_seconds: dict[str, float]
    images_per_second: float
    device: str
    peak_memory_mb: float
    expected_wrong: float
    expected_wrong_interval: tuple[float, float]
    label_accuracy: LabelAccuracy
    ranked_by: str
    skipped: int
    methods: dict[str, MethodResult]
    scores: str
    classes_in_order: tuple[str, ...]
    images: DecodedImages

    @property
    def wrong_labels(self) -> str:
        """How many labels seem to be wrong, in words."""
        low, high = (round(end) for end in self.expected_wrong_interval)
        if no_sign(self.expected_wrong, self.expected_wrong_interval[0], self.n):
            return f"no sign of wrong labels: at most {high:,} of {self.n:,}"
        return f"about {self.expected_wrong:,.0f} ({low:,} to {high:,}) of {self.n:,} labels seem to be wrong"

    @property
    def measured(self) -> bool:
        """Whether true labels told how good the methods are."""
        return any(method.suggestion_accuracy is not None for method in self.methods.values())


def no_sign(expected: float, low: float, images: int) -> bool:
    """Whether there is no sign of wrong labels: hardly any is expected, and the interval begins at 0."""
    return round(low) == 0 and expected < NO_SIGN_SHARE * images


class OutdatedResult(InputError):
    """A result that an earlier version of this program computed, and that lacks what this one shows."""


class Computed(Protocol):
    """A result, which says what version of the program computed it."""

    @property
    def version(self) -> int: ...


Kind = TypeVar("Kind", bound=Computed)


def parse_result(text: str | bytes) -> RunResult:
    """Read a result from JSON; errors as of `parsed`."""
    return parsed(text, RunResult)


def read_result(folder: RunFolder) -> RunResult:
    """The result of a run; errors as of `result_in`."""
    return result_in(folder, RunResult)


def parsed(text: str | bytes, kind: type[Kind]) -> Kind:
    """Read a result of some kind from JSON.

    Raises:
        OutdatedResult: it was computed by another version of this program.
        InputError: it is no JSON.
    """
    try:
        result = msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        result = None
    except (msgspec.DecodeError, ValueError) as error:
        raise InputError(f"the result of this run is damaged ({error}): see `sharpeye doctor`") from error
    if result is None or result.version != VERSION:
        raise OutdatedResult(
            "this run was computed by an earlier version of Sharpeye: start it again to review it"
        )
    return result


def result_in(folder: RunFolder, kind: type[Kind]) -> Kind:
    """The result of some kind in the folder of a run.

    Raises:
        InputError: it has none yet.
        OutdatedResult: it was computed by another version of this program.
    """
    if not folder.result.exists():
        raise InputError(f"run {folder.root.name} has no scores yet")
    return parsed(folder.result.read_bytes(), kind)
