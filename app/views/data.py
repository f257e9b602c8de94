"""Data: choose images, see what is in them, and find or make a clean validation split."""

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import charts
from app.parts import plain
from app.readers import picture_url, workspace
from engine.config import DEFAULT_METHODS, DEMO_METHODS, KEYWORDS, RunConfig, digest
from engine.files import absolute, replacing
from engine.runs.inspection import inspections, read_inspection, start_inspection

SOURCES = {
    "demo": "Demo",
    "folder": "Folder of class folders",
    "manifest": "CSV or Parquet manifest",
    "parquet": "Parquet with image bytes",
    "torchvision": "torchvision dataset",
    "cifar-n": "CIFAR-10N / 100N",
}
EXPLAINED = {
    "demo": "6,000 Fashion-MNIST images; a fifth of the labels are wrong, on purpose. 1,500 more are the clean validation split.",
    "folder": "One folder a class, with its images in it: `photos/cat/1.jpg`. Or `train/` and `validation/` folders of these.",
    "manifest": "A table with the columns `path` (relative to the file) and `label`; optionally `true_label` and `split`.",
    "parquet": "Hugging Face's layout: an image column with bytes, and a label column; optionally `true_label` and `split`.",
    "torchvision": "Any classification dataset of torchvision by its class name, such as `CIFAR10`. Downloaded where possible.",
    "cifar-n": "torchvision's CIFAR with the official file of human labels beside it.",
}
CHECKED = (
    "Another source of clean images",
    "A share of the training labels can be trusted",
    "Its own split",
    "None yet: help me make one",
)
SAMPLE_COLUMNS = 12
CONFIRM_COLUMNS = 4


def ask_source() -> RunConfig | None:
    """The form of a source; a configuration when it is sent."""
    kind = st.selectbox("Source", list(SOURCES), format_func=SOURCES.__getitem__, key="kind", bind="query-params")
    st.caption(EXPLAINED[kind])
    if kind == "demo":
        return RunConfig("demo", "demo", DEMO_METHODS) if st.button("Look at the data", type="primary") else None
    names: dict[str, str | None] = {}
    files: dict[str, str | None] = {}
    if kind in ("torchvision", "cifar-n"):
        choices = ("CIFAR10", "CIFAR100") if kind == "cifar-n" else None
        name = st.selectbox("Dataset", choices) if choices else st.text_input("Dataset", placeholder="CIFAR10")
        train = f"torchvision:{name.strip()}" if name else ""
        files["torchvision_root"] = st.text_input("Folder of torchvision's files", placeholder="~/.cache/torchvision")
        if kind == "cifar-n":
            files["human_labels"] = st.text_input("File of human labels", placeholder="/data/CIFAR-10_human.pt")
            names["label_column"] = st.text_input("Which labels", "worse_label" if name == "CIFAR10" else "noisy_label")
        validation, how = None, CHECKED[2]
    else:
        train = st.text_input(
            "Training images",
            placeholder="/data/photos" if kind == "folder" else f"/data/train.{'csv' if kind == 'manifest' else 'parquet'}",
        )
        if kind != "folder":
            first, second = st.columns(2)
            names["label_column"] = first.text_input("Label column", placeholder="label")
            names["true_label_column"] = second.text_input(
                "True label column", placeholder="none", help="Only to measure quality; no method reads it"
            )
        how = st.radio("Clean validation split", CHECKED)
        validation = None
        if how == CHECKED[0]:
            validation = (
                st.text_input(
                    "Clean images", placeholder="/data/checked", help="Its labels are trusted. It should cover every class."
                )
                or None
            )
        elif how == CHECKED[1]:
            validation = f"share:{st.slider('Share to trust, in percent', 1, 50, 10) / 100:g}"
        elif how == CHECKED[2]:
            validation = "split"
    limit = st.number_input("Use at most this many images", 1, None, None, placeholder="all")
    if not st.button("Look at the data", type="primary"):
        return None
    if not train.strip():
        st.error("Say where the training images are.")
        return None
    if how == CHECKED[0] and validation is None:
        st.error("Say where the clean images are, or choose another kind of validation split.")
        return None
    paths: dict[str, Any] = {key: absolute(_typed(value)) for key, value in files.items()}
    columns: dict[str, Any] = {key: _typed(value) for key, value in names.items()}
    return RunConfig(
        absolute(train.strip(), KEYWORDS["train"]) or "", absolute(_typed(validation), KEYWORDS["validation"]), DEFAULT_METHODS, **paths, **columns,
        limit=int(limit) if limit else None,
    )  # fmt: skip


def _typed(text: str | None) -> str | None:
    return (text or "").strip() or None


def grid(decoded: str, rows: list[int], alt: str) -> None:
    """Small pictures side by side."""
    tags = "".join(
        f'<img src="{picture_url(decoded, row)}" alt="{alt}" loading="lazy" style="width:100%;aspect-ratio:1;object-fit:contain;border-radius:4px">'
        for row in rows
    )
    st.html(f'<div style="display:grid;grid-template-columns:repeat({SAMPLE_COLUMNS},1fr);gap:4px;max-width:900px">{tags}</div>')


def show_report(key: str, config: RunConfig, report: dict[str, Any]) -> None:
    """What a look at a dataset found."""
    training, validation = report["training"], report.get("validation")
    names = report["class_names"]
    for column, (title, value) in zip(
        st.columns(5),
        [
            ("training images", f"{training['images']:,}"), ("classes", f"{len(names):,}"),
            ("validation images", f"{validation['images']:,}" if validation else "none yet"),
            ("left out", f"{sum(report['skipped'].values()):,}"), ("repeated images", f"{report['duplicates']:,}"),
        ],
        strict=True,
    ):  # fmt: skip
        column.metric(title, value)
    for warning in report["warnings"]:
        st.warning(plain(warning))
    if report["contradictions"]:
        st.warning(
            f"Images that occur more than once with different labels: {report['contradictions']:,}. One of these labels is wrong."
        )
    if validation:
        st.page_link(
            "views/run.py", label="Everything is there: go to Run", icon=":material/play_circle:", query_params={"data": key}
        )
    counts = {"training": training["counts"]} | ({"validation": validation["counts"]} if validation else {})
    st.plotly_chart(charts.class_counts(names, counts), alt="Images per class", key="counts")
    if report["skipped"]:
        st.subheader("Left out, and why")
        st.dataframe(pd.DataFrame(report["skipped"].items(), columns=["reason", "rows"]), hide_index=True)
        st.download_button("Every row, CSV", workspace().inspection(key).skipped.read_bytes(), "skipped.csv", on_click="ignore")
    if not validation:
        confirm_split(key, config, report)
        return
    st.subheader("A look at the images")
    label = st.selectbox("Class", list(training["sample"]), format_func=lambda number: names[int(number)])
    grid(training["decoded"], training["sample"][label], f"Training image labelled {names[int(label)]}".replace('"', ""))
    st.caption("Above: training images with this label, some of them perhaps wrong. Below: trusted ones.")
    grid(validation["decoded"], validation["sample"].get(label, []), f"Trusted {names[int(label)]}".replace('"', ""))


def confirm_split(key: str, config: RunConfig, report: dict[str, Any]) -> None:
    """Show a sample of each class to confirm; what is confirmed becomes the validation split."""
    names, training = report["class_names"], report["training"]
    folder = workspace().inspection(key)
    kept = folder.answers(training["decoded"])
    answers: dict[str, dict[str, str | None]] = json.loads(kept.read_text()) if kept.exists() else {}
    st.subheader("No clean split yet: make one")
    st.write(
        "Sharpeye needs a few images of every class whose labels you have checked. Below is a sample, one class at a time. "
        "Correct a label that is wrong, or leave the image out where nobody could tell."
    )
    labels = list(training["sample"])
    left = [label for label in labels if label not in answers]
    st.progress(1 - len(left) / len(labels), text=f"{len(labels) - len(left)} of {len(labels)} classes checked")
    if left:
        label = left[0]
        with st.form(f"confirm-{label}"):
            st.markdown(f"#### Are these all “{plain(names[int(label)])}”?")
            columns = st.columns(CONFIRM_COLUMNS)
            chosen = {}
            for number, row in enumerate(training["sample"][label]):
                with columns[number % CONFIRM_COLUMNS]:
                    st.html(
                        f'<img src="{picture_url(training["decoded"], row)}" alt="Image {number + 1} of the sample" '
                        'style="width:100%;aspect-ratio:1;object-fit:contain;border-radius:6px">'
                    )
                    chosen[str(row)] = st.selectbox(
                        f"Label of image {number + 1}", [*names, None], index=int(label), key=f"{label}-{row}", label_visibility="collapsed",
                        format_func=lambda name: "leave it out" if name is None else name,
                    )  # fmt: skip
            if st.form_submit_button("These labels are right now", type="primary"):
                with replacing(kept) as temporary:
                    temporary.write_text(json.dumps(answers | {label: chosen}))
                st.rerun()
        return
    table = pd.read_parquet(workspace().decoded / training["decoded"] / "table.parquet", columns=["id", "label"])
    confirmed = [
        (table["id"].iloc[int(row)], names[table["label"].iloc[int(row)]], name)
        for chosen in answers.values() for row, name in chosen.items() if name is not None
    ]  # fmt: skip
    known = {label for _, _, label in confirmed}
    missing = [name for name, count in zip(names, training["counts"], strict=True) if count and name not in known]
    if missing:
        st.warning(
            f"No confirmed image of {plain(', '.join(missing[:10]))}{' and others' if len(missing) > 10 else ''}: without one, "
            "labels of that class cannot be judged, and its images are left out."
        )
    with st.container(horizontal=True):
        ready = f"Use these {len(confirmed):,} images as the validation split"
        if st.button(ready, type="primary", disabled=len(known) < 2):
            listed = pd.DataFrame(confirmed, columns=["id", "given_label", "label"])
            path = folder.confirmed(digest(confirmed))
            with replacing(path) as temporary:
                listed.to_csv(temporary, index=False)
            look(RunConfig(**{**vars(config), "validation": f"ids:{path}"}))
        if st.button("Start over"):
            kept.unlink()
            st.rerun()


def look(config: RunConfig) -> None:
    """Look at a dataset and show it here."""
    st.query_params["look"] = start_inspection(workspace(), config)
    st.rerun()


def watched(key: str) -> Callable[[], None]:
    """The report on a dataset, as it comes."""
    report = read_inspection(workspace(), key)
    running = report is not None and report["state"] == "running"

    @st.fragment(run_every=0.7 if running else None)
    def show() -> None:
        now = read_inspection(workspace(), key)
        if now is None:
            st.info("Nothing is known of this dataset: look at it again.")
        elif now["state"] == "running":
            st.progress(now["done"] / max(now["total"], 1), text=f"{now['stage']}: {now['done']:,} of {now['total']:,} images")
        elif running:
            st.rerun()
        elif now["state"] == "failed":
            st.error(plain(now["message"]))
        else:
            show_report(key, RunConfig.from_json(workspace().inspection(key).config.read_text()), now)

    return show


left, right = st.columns([2, 5], gap="large")
with left:
    st.subheader("Choose images")
    wanted = ask_source()
    earlier = inspections(workspace())
    if earlier:
        st.subheader("Looked at before")
    for key, config, report in earlier:
        split = (config.validation or "no split given").rsplit("/", 1)[-1]
        column = f" · {config.label_column}" if config.label_column else ""
        mark = "✗ " if report["state"] == "failed" else ""
        if st.button(plain(f"{mark}{config.train.rsplit('/', 1)[-1]} · {split}{column}"), key=key, type="tertiary"):
            st.query_params["look"] = key
with right:
    if wanted is not None:
        look(wanted)
    shown = st.query_params.get("look") or (earlier[0][0] if earlier else None)
    if shown is None:
        st.info(
            "Choose a source at the left. Sharpeye then counts the classes, lists what cannot be read, and finds images that "
            "stand in training and validation alike. Nothing leaves this machine."
        )
    else:
        watched(shown)()
