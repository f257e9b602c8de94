"""`sharpeye bench photos` and `bench roman`: photographs with labels changed by one rule, and numerals with
real errors, beside what people do without Sharpeye on the same features."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sharpeye.api import submit
from sharpeye.commands.options import BUDGET, DEVICE, JSON, LIMIT, MODEL, WORKSPACE
from sharpeye.commands.waiting import result_of
from sharpeye.config import RunConfig, RunOptions, digest
from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.quality import Quality

if TYPE_CHECKING:
    import numpy as np

    from sharpeye.api import Run
    from sharpeye.data.dataset import LabeledImages
    from sharpeye.runs.workspace import Workspace

CUTS = (50, 100, 200)
EXPECTED = "expected wrong"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        setting: share of changed labels and seed, or what is looked for.
        method: of Sharpeye, or a baseline.
        ranks: whether Sharpeye ranks by it by default.
        figures: by title.
    """

    setting: str
    method: str
    ranks: bool
    figures: dict[str, float]


def markdown(rows: list[Row]) -> str:
    """A table, every setting's lines together."""
    titles = list(dict.fromkeys(title for row in rows for title in row.figures))
    lines = [f"| labels | method | {' | '.join(titles)} |", "|---" * (2 + len(titles)) + "|"]
    for row in rows:
        cells = " | ".join(f"{row.figures[title]:.2f}" if title in row.figures else "–" for title in titles)
        name = f"**{row.method}**" if row.ranks else row.method
        lines.append(f"| {row.setting} | {name} | {cells} |")
    return "\n".join(lines)


def packed(folder: str, workspace: Path, label_columns: dict[str, list[str]]) -> Path:
    """The images of a labelled folder as one Parquet file of bytes, with these columns beside `label`.

    Raises:
        InputError: it is no source of image files.
    """
    import pandas as pd

    records = list(_records(folder))
    table = pd.DataFrame(
        {
            "id": [identity for identity, _, _ in records],
            "image": [{"bytes": file.read_bytes()} for _, file, _ in records],
            "label": [label for _, _, label in records],
            **label_columns,
        }
    )
    path = workspace / f"bench-{digest(folder, sorted(label_columns))}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, row_group_size=500)
    return path


def _records(folder: str) -> Iterator[tuple[str, Path, str]]:
    """Id, file and label of the images of a folder of class folders."""
    import numpy as np

    from sharpeye.config import SourceOptions
    from sharpeye.data.sources import open_source
    from sharpeye.specs import parse_source

    source = open_source(parse_source(folder), SourceOptions())
    for record in source.read(np.arange(source.count)):
        if not isinstance(record.image, Path):
            raise InputError(f"--data {folder}: expected a folder of class folders")
        yield record.id, record.image, str(record.label)


def features_of(config: RunConfig, workspace: "Workspace") -> tuple["LabeledImages", "LabeledImages"]:
    """The images of a configuration with their features: training set and validation split."""
    from sharpeye.data.dataset import natural_size
    from sharpeye.data.load import fitted, open_sources, open_training
    from sharpeye.progress import ignore
    from sharpeye.runs.context import Execution, RunContext
    from sharpeye.runs.pipeline import read_splits
    from sharpeye.training.devices import select_device

    training = open_training(config.data)
    config = fitted(config, training, natural_size(training))
    execution = Execution(select_device(config.device), ignore, lambda note: None)
    return read_splits(RunContext(config, workspace, execution), open_sources(config.data))


def baseline_rows(
    run: "Run",
    setting: str,
    measure: "Callable[[LabeledImages, np.ndarray, np.ndarray], dict[str, float]]",
    by: str,
) -> list[Row]:
    """Figures of every baseline on a finished run's features, each at the regularisation where it is best.

    Args:
        run: whose images, labels and features are taken.
        setting: of the rows.
        measure: the training set, suspicion (N,) and suggestions (N,) to figures.
        by: title of the figure that says which regularisation is best.
    """
    from sharpeye.influence.plain_baselines import confident_learning_on_features, nearest_neighbours
    from sharpeye.runs.embedding import feature_rows

    config = run.row().run_config()
    training, validation = features_of(config, run.workspace)
    features, classes = feature_rows(training), len(training.class_names)
    trusted = feature_rows(validation), validation.labels
    scores = confident_learning_on_features(features, training.labels, trusted, classes, config.seed)
    scores.append(nearest_neighbours(features, training.labels, classes))
    best: dict[str, Row] = {}
    for one in scores:
        figures = measure(training, one.suspicion, one.suggestion) | {"seconds": one.seconds}
        if one.expected_wrong is not None:
            figures[EXPECTED] = one.expected_wrong
        # Where no label is wrong, nothing says which regularisation is best.
        if one.name not in best or figures.get(by, 0) > best[one.name].figures.get(by, 0):
            best[one.name] = Row(setting, one.name, False, figures)
    return list(best.values())


def detection(images: "LabeledImages", suspicion: "np.ndarray", suggestion: "np.ndarray") -> dict[str, float]:
    """AUC and average precision of a suspicion, and the share of right suggestions, in percent."""
    import numpy as np

    from sharpeye.diagnostics.metrics import quality
    from sharpeye.influence.base import Candidates, Scores

    suggested = Candidates(suggestion[:, None], np.zeros((len(suggestion), 1)))
    return _figures(quality(Scores(suspicion, suggested), images.labels, images.true_labels))


def _figures(measured: Quality) -> dict[str, float]:
    values = {
        "AUC": measured.auc,
        "AP": measured.ap,
        "suggestions right": measured.suggestion_accuracy,
    }
    return {title: 100 * value for title, value in values.items() if value is not None}


def _own_rows(setting: str, run: "Run", wrong: int) -> list[Row]:
    """Figures of every method of a finished run, in which that many labels are wrong."""
    result = run.result
    low, high = result.expected_wrong_interval
    count = {"wrong": wrong, EXPECTED: result.expected_wrong, "from": low, "to": high}
    rows = []
    for name, method in result.methods.items():
        ranks = name == result.ranked_by
        figures = _figures(method) | (count | {"seconds": result.seconds} if ranks else {})
        rows.append(Row(setting, name, ranks, figures))
    return rows


@click.command()
@click.option("--data", required=True, metavar="DIR", help="Folder of class folders whose labels are right.")
@click.option("--validation", default="none", show_default=True, metavar="SPEC", help="As of `sharpeye run`.")
@click.option(
    "--noise",
    type=click.FloatRange(0, 1, max_open=True),
    multiple=True,
    default=(0.15,),
    show_default=True,
    help="Share of labels to change; may be given again.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="0 to N − 1.")
@MODEL
@LIMIT
@BUDGET
@DEVICE
@WORKSPACE
@JSON
def photos(
    data: str,
    validation: str,
    noise: tuple[float, ...],
    seeds: int,
    model: str,
    limit: int | None,
    budget: str,
    device: str,
    workspace: str,
    as_json: bool,
) -> None:
    """Photographs with labels changed by one rule, beside confident learning and nearest neighbours.

    70 % of the changed labels become one of the two classes that look most alike (whose mean features are
    nearest), the others any class. The number of wrong labels stands beside the expected one. The baselines
    get the same features of the frozen network. Confident learning is shown at the best of five
    regularisations, by the true labels, which flatters it.

    \b
    Example:
      sharpeye bench photos --data photos/ --noise 0 --noise 0.05 --noise 0.15 --seeds 3
    """
    from sharpeye.data.noise import lookalike_noise
    from sharpeye.runs.embedding import feature_rows
    from sharpeye.runs.workspace import open_workspace

    opened = open_workspace(workspace)
    root = opened.root / "bench"
    options = RunOptions(
        validation=validation, limit=limit, budget=budget, device=device, model=model, tune="head"
    )
    images, _ = features_of(RunConfig.of(str(packed(data, root, {})), **options), opened)
    names, features = images.class_names, feature_rows(images)
    true = {identity: label for identity, _, label in _records(data)}
    columns, drawn = {}, {}
    for rate in noise:
        for seed in range(seeds):
            changed = lookalike_noise(features, images.labels, rate, seed)
            labels = true | dict(zip(images.ids, (names[label] for label in changed), strict=True))
            setting = f"{rate:g} wrong, seed {seed}"
            columns[setting] = list(labels.values())
            drawn[setting] = seed, int((changed != images.labels).sum())
    noisy = str(packed(data, root, columns))
    rows: list[Row] = []
    for setting, (seed, wrong) in drawn.items():
        known = RunOptions(label_column=setting, true_label_column="label", seed=seed)
        run = submit(RunConfig.of(noisy, **(options | known)), workspace)
        result_of(run)
        rows += _own_rows(setting, run, wrong) + baseline_rows(run, setting, detection, "AUC")
    _print(rows, as_json)


@click.command()
@click.option("--data", required=True, metavar="DIR", help="The competition's labels, as class folders.")
@click.option(
    "--corrected",
    required=True,
    nargs=2,
    metavar="DIR DIR",
    help="The same images as two people corrected them; found by content.",
)
@MODEL
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="0 to N − 1.")
@DEVICE
@WORKSPACE
@JSON
def roman(
    data: str,
    corrected: tuple[str, str],
    model: str,
    seeds: int,
    device: str,
    workspace: str,
    as_json: bool,
) -> None:
    """The Data-Centric AI Competition's handwritten numerals, with real errors.

    How many of the relabellings on which two people agree stand among the first suspects.

    \b
    Example:
      sharpeye bench roman --data 0_raw/train --corrected 1_clean manual-clean
    """
    import pandas as pd

    from sharpeye.runs.scores import read_influence, read_scores
    from sharpeye.runs.workspace import open_workspace

    first, second = (_labels_by_content(folder) for folder in corrected)
    agreed = set()
    for identity, file, label in _records(data):
        key = _content(file)
        new = first.get(key)
        if new is not None and new == second.get(key) and new != label:
            agreed.add(identity)
    if not agreed:
        raise InputError("--corrected: there is no image whose label both folders change alike")

    def found(images: "LabeledImages", suspicion: "np.ndarray", suggestion: "np.ndarray") -> dict[str, float]:
        return _found(pd.Series(images.ids).isin(agreed).to_numpy(), suspicion)

    path = str(packed(data, open_workspace(workspace).root / "bench", {}))
    options = RunOptions(validation="none", model=model, tune="head", mirror=False, device=device)
    rows = []
    for seed in range(seeds):
        run = submit(RunConfig.of(path, **(options | RunOptions(seed=seed))), workspace)
        result = result_of(run)
        setting = f"{len(agreed)} relabelled, seed {seed}"
        scores = run.workspace.run(run.id).scores
        relabelled = read_scores(scores, ["id"])["id"].isin(agreed).to_numpy()
        for method, influence in read_influence(scores, list(result.methods)).items():
            figures = _found(relabelled, influence.to_numpy())
            rows.append(Row(setting, str(method), method == result.ranked_by, figures))
        rows += baseline_rows(run, setting, found, _cut_title(CUTS[1]))
    _print(rows, as_json)


def _cut_title(count: int) -> str:
    return f"in the first {count}"


def _found(relabelled: "np.ndarray", suspicion: "np.ndarray") -> dict[str, float]:
    order = (-suspicion).argsort(kind="stable")
    return {_cut_title(count): float(relabelled[order[:count]].sum()) for count in CUTS}


def _labels_by_content(folder: str) -> dict[str, str]:
    return {_content(file): label for _, file, label in _records(folder)}


def _content(file: Path) -> str:
    """What identifies an image whatever its file is called: its size and grey values."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        grey = np.asarray(image.convert("L"))
    return hashlib.blake2b(grey.tobytes() + str(grey.shape).encode()).hexdigest()


def _print(rows: list[Row], as_json: bool) -> None:
    encoded = msgspec.json.encode([asdict(row) for row in rows]).decode()
    click.echo(encoded if as_json else markdown(rows))
