"""Data: choose images or text, see what is in them, and find or make a clean validation split."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pandas as pd
import streamlit as st

from sharpeye.config import RunConfig, digest
from sharpeye.data.findings import CONFLICT, FINDINGS
from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.runs.inspection import Inspection, inspections, read_inspection
from sharpeye.specs import TrustedList
from sharpeye_app import data_plots
from sharpeye_app.parts import in_page_words, plain
from sharpeye_app.pictures import picture_grid, picture_tag
from sharpeye_app.readers import workspace
from sharpeye_app.source_form import TEXT, ask_kind, ask_source
from sharpeye_app.submission import inspect
from sharpeye_app.text_form import ask_tables, show_tables

CONFIRM_COLUMNS = 4
STAGES = {
    "start": "Reading the source",
    "decode": "Reading images",
    "compare pictures": "Comparing pictures",
    "measure speed": "Measuring the speed",
}


def show_inspection(key: str, config: RunConfig, inspection: Inspection) -> None:
    """What a data set holds."""
    st.subheader(plain(config.data.train.title))
    training, validation, names = inspection.training, inspection.validation, inspection.class_names
    facts = {
        "training images": f"{training.images:,}",
        "classes": f"{len(names):,}",
        "validation images": f"{validation.images:,}" if validation else "none yet",
        "left out": f"{sum(inspection.skipped.values()):,}",
    }
    for column, (title, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(title, value)
    for warning in inspection.warnings:
        st.warning(in_page_words(warning))
    show_findings(inspection)
    st.page_link(
        "views/run.py",
        label="Everything is there: go to Run" if validation else "Go to Run, without a clean split",
        icon=":material/play_circle:",
        query_params={"data": key},
    )
    counts = {"training": training.counts} | ({"validation": validation.counts} if validation else {})
    st.plotly_chart(data_plots.class_counts(names, counts), alt="Images per class", key="counts")
    if inspection.skipped:
        st.subheader("Left out, and why")
        st.dataframe(pd.DataFrame(inspection.skipped.items(), columns=["reason", "rows"]), hide_index=True)
        rows = workspace().inspection(key).skipped.read_bytes()
        st.download_button("Every row, CSV", rows, "skipped.csv", on_click="ignore")
    if not validation:
        confirm_split(key, config, inspection)
        return
    st.subheader("Sample of the images")
    label = st.selectbox("Class", list(training.sample), format_func=lambda number: names[number])
    picture_grid(training.decoded, training.sample[label], f"Training image labelled {names[label]}")
    st.caption("Above: training images with this label, some of them perhaps wrong. Below: trusted ones.")
    picture_grid(validation.decoded, validation.sample.get(label, ()), f"Trusted {names[label]}")


def show_findings(inspection: Inspection) -> None:
    """What can be told of the pictures before anything is computed on them."""
    found = {name: count for name, count in inspection.findings.items() if count}
    if found:
        parts = (f":gray-badge[{count:,} {name}]" for name, count in found.items())
        st.markdown(
            "In the training images: " + " ".join(parts),
            help="; ".join(f"{name}: {FINDINGS[name]}" for name in found)
            + ". After a run, Review shows them by name.",
        )
    if inspection.conflicts:
        st.warning(
            f"{found[CONFLICT]:,} images show a picture that also has another label. One of these labels "
            "is wrong, or both fit."
        )
        with st.expander("Look at them"):
            picture_grid(inspection.training.decoded, inspection.conflicts, "Same picture, another label")


def confirm_split(key: str, config: RunConfig, inspection: Inspection) -> None:
    """Show a sample of each class to confirm; what is confirmed becomes the validation split."""
    names, training = inspection.class_names, inspection.training
    folder = workspace().inspection(key)
    path = folder.answers(training.decoded)
    answers: dict[int, dict[int, str | None]] = {}
    if path.exists():
        answers = msgspec.json.decode(path.read_bytes(), type=dict[int, dict[int, str | None]])
    st.subheader("Or make a clean split first")
    st.write(
        "A few images of every class whose labels you have checked show whether a class is mislabelled as "
        "a whole. Below is a sample, one class at a time. Correct a label that is wrong, or leave the image "
        "out where nobody could tell."
    )
    labels = list(training.sample)
    left = [label for label in labels if label not in answers]
    done = len(labels) - len(left)
    st.progress(done / len(labels), text=f"{done} of {len(labels)} classes checked")
    if left:
        label = left[0]
        with st.form(f"confirm-{label}"):
            st.markdown(f"#### Are these all “{plain(names[label])}”?")
            columns = st.columns(CONFIRM_COLUMNS)
            chosen = {}
            for number, row in enumerate(training.sample[label]):
                with columns[number % CONFIRM_COLUMNS]:
                    st.html(picture_tag(training.decoded, row, f"Image {number + 1} of the sample"))
                    chosen[row] = st.selectbox(
                        f"Label of image {number + 1}",
                        [*names, None],
                        index=label,
                        key=f"{label}-{row}",
                        label_visibility="collapsed",
                        format_func=lambda name: "leave it out" if name is None else name,
                    )
            if st.form_submit_button("These labels are right now", type="primary"):
                with replacing(path) as temporary:
                    temporary.write_bytes(msgspec.json.encode(answers | {label: chosen}))
                st.rerun()
        return
    table = pd.read_parquet(workspace().decoded / training.decoded / "table.parquet", columns=["id", "label"])
    confirmed = [
        (table["id"].iloc[row], names[table["label"].iloc[row]], name)
        for chosen in answers.values()
        for row, name in chosen.items()
        if name is not None
    ]
    known = {label for _, _, label in confirmed}
    missing = [
        name for name, count in zip(names, training.counts, strict=True) if count and name not in known
    ]
    if missing and not config.resolved(inspection.image_size, clean_split=True).on_features:
        st.warning(
            "No confirmed image of "
            f"{plain(', '.join(missing[:10]))}{' and others' if len(missing) > 10 else ''}: "
            "without one, labels of that class cannot be judged, and its images are left out."
        )
    with st.container(horizontal=True):
        ready = f"Use these {len(confirmed):,} images as the validation split"
        if st.button(ready, type="primary", disabled=len(known) < 2):
            listed = folder.confirmed(digest(confirmed))
            with replacing(listed) as temporary:
                pd.DataFrame(confirmed, columns=["id", "given_label", "label"]).to_csv(temporary, index=False)
            data = replace(config.data, validation=TrustedList(str(listed)))
            show(inspect(replace(config, data=data)))
        if st.button("Start over"):
            path.unlink()
            st.rerun()


def show(key: str) -> None:
    """Show the inspection of a data set here."""
    st.query_params["inspection"] = key
    st.rerun()


def progress_of(key: str) -> Callable[[], None]:
    """The report on a data set, as it comes."""
    report = read_inspection(workspace(), key)
    running = report is not None and report.state == "running"

    @st.fragment(run_every=0.7 if running else None)
    def show_report() -> None:
        now = read_inspection(workspace(), key)
        if now is None:
            st.info("Nothing is known of this data set: inspect it again.")
        elif now.state == "running":
            counts = f": {now.done:,} of {now.total:,} images" if now.total else "…"
            st.progress(now.done / max(now.total, 1), text=f"{STAGES.get(now.stage, now.stage)}{counts}")
        elif running:
            st.rerun()
        elif now.result is None:
            st.error(in_page_words(now.message))
        else:
            config = RunConfig.from_json(workspace().inspection(key).config.read_text())
            show_inspection(key, config, now.result)

    return show_report


left, right = st.columns([2, 5], gap="large")
with left:
    st.subheader("Choose a source")
    kind = ask_kind()
    if kind == TEXT:
        tables = ask_tables()
        with right:
            show_tables(*tables)
        st.stop()
    wanted = ask_source(kind)
    earlier = inspections(workspace())
    if earlier:
        st.subheader("Inspected before")
    for one in earlier:
        data = one.config.data
        split = data.validation.title if data.validation else "no split given"
        column = f" · {data.options.label_column}" if data.options.label_column else ""
        mark = "✗ " if one.report.state == "failed" else ""
        if st.button(plain(f"{mark}{data.train.title} · {split}{column}"), key=one.key, type="tertiary"):
            st.query_params["inspection"] = one.key
with right:
    if wanted is not None:
        try:
            show(inspect(wanted))
        except InputError as error:
            st.error(in_page_words(str(error)))
    shown = st.query_params.get("inspection") or (earlier[0].key if earlier else None)
    if shown is None:
        st.info(
            "Choose a source at the left. Sharpeye then counts the classes, lists what cannot be read, and "
            "finds images "
            "that stand in training and validation alike. Nothing leaves this machine."
        )
    else:
        try:
            progress_of(shown)()
        except InputError as error:
            st.error(f"This link leads nowhere: {plain(str(error))}.")
