"""The command `sharpeye score`: features or probabilities of one's own, and labels."""

import json
from pathlib import Path

import click

from sharpeye.commands.options import JSON
from sharpeye.errors import InputError


@click.command()
@click.argument("labels", metavar="LABELS")
@click.option("--features", metavar="FILE", help="Of any backbone, (N, d): .npy, .npz or .parquet.")
@click.option(
    "--probabilities",
    metavar="FILE",
    help="Predictions made without having seen the label, (N, C): .npy, .npz or .parquet.",
)
@click.option("--label-column", metavar="NAME", help="Column of the labels.")
@click.option(
    "--classes",
    metavar="A,B,…",
    help="Names of the columns of --probabilities.  [default: the sorted labels]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out", metavar="FILE", help="Where the table goes, .csv or .parquet.  [default: standard output]"
)
@JSON
def score(
    labels: str,
    features: str | None,
    probabilities: str | None,
    label_column: str | None,
    classes: str | None,
    seed: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Find wrong labels by features or probabilities of your own, without images. LABELS is a table with a
    row for each of theirs.

    \b
    Examples:
      sharpeye score labels.csv --features dinov2.npy --out suspects.csv
      sharpeye score labels.csv --probabilities cross_validated.npy
    """
    from sharpeye.files import replacing
    from sharpeye.runs.own_numbers import judge_features, judge_probabilities, read_labels, read_matrix
    from sharpeye.runs.spreadsheets import spreadsheet_safe

    if (features is None) == (probabilities is None):
        raise InputError("give either --features or --probabilities")
    if out and Path(out).suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {out}: expected a name that ends in .csv or .parquet")
    known = read_labels(Path(labels).expanduser(), label_column)
    matrix = read_matrix(Path(features or str(probabilities)).expanduser(), len(known))
    given = known["label"].to_numpy(dtype=object)
    if features:
        table, beliefs = judge_features(matrix, given, seed)
    else:
        names = tuple(name.strip() for name in classes.split(",")) if classes else None
        table, beliefs = judge_probabilities(matrix, given, names)
    table.insert(0, "id", known["id"])
    table = table.sort_values("rank", ignore_index=True)
    low, high = beliefs.interval
    summary = {
        "labels": len(table),
        "expected_wrong": beliefs.expected_wrong,
        "interval": [low, high],
        "out": out,
    }
    if out:
        with replacing(Path(out).expanduser()) as temporary:
            if Path(out).suffix == ".csv":
                spreadsheet_safe(table).to_csv(temporary, index=False)
            else:
                table.to_parquet(temporary, index=False)
    elif not as_json:
        click.echo(spreadsheet_safe(table).to_csv(index=False), nl=False)
    said = (
        f"about {beliefs.expected_wrong:,.0f} of {len(table):,} labels are wrong ({low:,.0f} to {high:,.0f})"
    )
    click.echo(json.dumps(summary) if as_json else said, err=not as_json)
