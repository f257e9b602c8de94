"""A report on a review to send: one HTML file with everything in it."""

import base64
import sqlite3
import time
from collections import Counter
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pandas as pd

from sharpeye.data.previews import preview
from sharpeye.runs import team
from sharpeye.runs.decisions import VERDICTS, current_decisions
from sharpeye.runs.pictures import media_type
from sharpeye.runs.result import read_result
from sharpeye.runs.scores import read_scores
from sharpeye.runs.store import RunRow, dataset_source
from sharpeye.runs.workspace import Workspace

# Of each kind of decision.
PICTURES = 24
PAIRS = 30
PACKAGES = ("torch", "timm", "numpy")


def review_report(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> str:
    """The report on the review of a run, as HTML that needs nothing else.

    Raises:
        InputError: the run has no scores yet.
    """
    from jinja2 import Environment

    folder = workspace.run(row.id)
    result = read_result(folder)
    scores = read_scores(folder.scores, ["id", "given_label", "rank", "wrong_probability", "image_row"])
    scores = scores.astype({"given_label": object}).set_index("id")
    made = current_decisions(connection, row.dataset)
    made = made[made["image"].isin(scores.index)].join(scores, on="image").sort_values("rank")
    changed = made[made["to_label"].notna() & (made["to_label"] != made["given_label"])]
    kept = made[made["to_label"].notna() & (made["to_label"] == made["given_label"])]
    left = scores[~scores.index.isin(made["image"])]
    share = float(left["wrong_probability"].sum()) / max(float(scores["wrong_probability"].sum()), 1e-9)
    low, high = (end * share for end in result.expected_wrong_interval)
    decoded = workspace.decoded / result.images.training

    def pictures(some: pd.DataFrame) -> list[dict[str, object]]:
        return [
            {
                "id": one["image"],
                "source": _embedded(preview(decoded, int(one["image_row"]))),
                "before": one["given_label"],
                "after": one["to_label"] or VERDICTS[one["verdict"]].badge,
                "note": one["note"],
            }
            for one in some.head(PICTURES).to_dict("records")
        ]

    pairs = Counter(zip(changed["given_label"], changed["to_label"], strict=True))
    both = team.opinions(connection, row.dataset)
    config = row.run_config()
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        files("sharpeye.runs").joinpath("review_report.html").read_text("utf-8")
    )
    return template.render(
        source=Path(dataset_source(connection, row.dataset)[0]).name,
        run=row.id,
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=version("sharpeye"),
        facts=[
            ("images", f"{result.n:,}"),
            ("classes", f"{result.classes:,}"),
            ("decided", f"{len(made):,}"),
            ("labels that change", f"{len(changed):,}"),
            ("expected wrong at first", f"{result.expected_wrong:,.0f}"),
        ],
        expectation=(
            f"{result.wrong_labels.capitalize()}. Among the {len(left):,} images that nobody decided "
            f"on, about {left['wrong_probability'].sum():,.0f} are expected to be wrong ({low:,.0f} to "
            f"{high:,.0f})."
        ),
        changes=[(*pair, f"{count:,}") for pair, count in pairs.most_common(PAIRS)],
        galleries=[
            ("Changed, the most suspicious first", pictures(changed)),
            ("Kept, though suspicious", pictures(kept)),
            ("Without a label", pictures(made[made["to_label"].isna() & (made["verdict"] != "skip")])),
        ],
        verdicts=[
            (VERDICTS[name].title, f"{count:,}") for name, count in Counter(made["verdict"]).most_common()
        ],
        people=team.progress(connection, row.dataset).to_dict("records"),
        agreement=None if both.empty else team.agreement(both).to_dict("records")[0],
        methods=[
            ("ranked by", result.ranked_by),
            (
                "model",
                f"{config.model}, {'a head on frozen features' if config.on_features else config.budget}",
            ),
            ("validation split", config.data.validation.title if config.data.validation else "its own"),
            ("seed", config.seed),
            ("device", result.device),
            ("data set", f"{row.dataset} (changes when a file of the source does)"),
            ("decoded images", result.images.training),
            ("packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
        ],
    )


def _embedded(content: bytes) -> str:
    return f"data:{media_type(content)};base64,{base64.b64encode(content).decode()}"
