"""Run: start a computation, watch it, and look back at earlier ones."""

import shutil
import time
from contextlib import suppress
from dataclasses import replace

import streamlit as st

from sharpeye.config import (
    AUTO,
    BUDGETS,
    CLASSICAL_METHODS,
    CURVATURES,
    DEMO_METHODS,
    OPTIMIZERS,
    PACKAGED_BACKBONES,
    PARAMETERS,
    SMALL,
    TORCHVISION_BACKBONES,
    RunConfig,
)
from sharpeye.costs import RunEstimate
from sharpeye.errors import InputError
from sharpeye.progress import Progress
from sharpeye.quality import MAIN_METRICS, METRIC_TITLES
from sharpeye.runs import store
from sharpeye.runs.decisions import head
from sharpeye.runs.inspection import Inspection, inspections
from sharpeye.runs.result import OutdatedResult, RunResult, read_result
from sharpeye.runs.second_round import second_round, takes_decisions
from sharpeye.runs.stages import CANARIES, FIGURES, MAP, stages_of
from sharpeye.runs.store import FINISHED, RunRow
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.runs.text_stages import text_stages
from sharpeye_app.parts import in_page_words, plain
from sharpeye_app.readers import all_runs, decided_count, workspace
from sharpeye_app.submission import submit

MODELS = (AUTO, SMALL, *PACKAGED_BACKBONES, *TORCHVISION_BACKBONES)
TUNED = {None: "by the weights", "head": "a head on frozen features", "all": "the whole network"}
ICONS = {"done": "✓", "failed": "✗", "canceled": "–", "running": "●", "queued": "…"}
LOG_LINES = 40


def duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def dataset_title(config: RunConfig, inspection: Inspection | None) -> str:
    """A data set in a few words."""
    split = config.data.validation
    if inspection is None or inspection.validation is None:
        return f"{config.data.train.title} · no clean split"
    return f"{config.data.train.title} · {split.title if split else 'its own validation split'}"


def size(megabytes: float) -> str:
    """An amount of memory for people."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:,.0f} MB"


def ask_model(inspection: Inspection) -> str:
    """The model, with what it would take where that was measured."""
    estimates = {one.model: one for one in inspection.estimates}

    def title(name: str) -> str:
        shown = inspection.model if name == AUTO else name
        cost = estimates.get(shown)
        text = f"{AUTO}: {shown}" if name == AUTO else name
        if cost is None:
            return f"{text} (downloaded)"
        return f"{text}, about {duration(cost.budgets['standard'].seconds)}"

    return (
        st.selectbox(
            "Model",
            MODELS,
            format_func=title,
            accept_new_options=True,
            key="model",
            help="small is trained from nothing, on images up to 64 pixels. The others were trained on "
            "ImageNet; the two EfficientNets are installed with Sharpeye. Any name of timm can be typed, as "
            "timm:NAME.",
        )
        or AUTO
    )


def ask_config(data: RunConfig) -> RunConfig:
    """The options that few need to touch."""
    with st.expander("Advanced options", icon=":material/tune:"):
        methods = st.multiselect(
            "Methods (the first ranks the images)",
            [*DEMO_METHODS, *CLASSICAL_METHODS],
            list(data.methods),
            placeholder="The usual ones",
            help="cleanlab is confident learning, a plain baseline. lissa, tracin, datainf and gex are what "
            "the paper compares with; they take minutes more.",
        )
        first, second = st.columns(2)
        tune = first.selectbox(
            "Train",
            TUNED,
            format_func=TUNED.__getitem__,
            help="A head takes seconds once the features are there. The whole network takes a GPU, or "
            "patience.",
        )
        weights = first.text_input("Weights", placeholder="'random', or a state dict file")
        device = first.text_input("Device", "auto", help="auto, cpu, cuda, cuda:1 or mps")
        seed = first.number_input("Seed", 0, 2**31 - 1, 0)
        cluster = first.text_input(
            "Ray cluster", placeholder="this machine alone", help="local, auto or HOST:PORT of its head"
        )
        optimizer = second.selectbox(
            "Validation optimizer", OPTIMIZERS, help="How the validation minimum is reached"
        )
        parameters = second.selectbox("Influence over", PARAMETERS)
        curvature = second.selectbox("Curvature", CURVATURES)
        damping = second.number_input(
            "Damping", 1e-6, 1e6, 1.0, format="%g", help="Relative to the mean eigenvalue"
        )
        with_figures = st.checkbox(
            "Also the figures of the Diagnostics page", False, help="Takes minutes more"
        )
        mirror = st.checkbox("A mirrored image keeps its label", True, help="Not so for digits and text")
    return replace(
        data,
        methods=tuple(methods),
        weights=weights.strip() or None,
        tune=tune,
        optimizer=optimizer,
        parameters=parameters,
        curvature=curvature,
        damping=float(damping),
        device=device.strip() or "auto",
        cluster=cluster.strip() or None,
        seed=int(seed),
        mirror=mirror,
        figures=with_figures,
    )


def ask_budget(costs: dict[str, RunEstimate] | None) -> str:
    """How long to train a whole network."""
    times = None if costs is None else [f"about {duration(costs[name].seconds)}" for name in BUDGETS]
    return st.radio("Budget", BUDGETS, BUDGETS.index("standard"), captions=times, horizontal=True)


def start_form() -> None:
    """Choose data and model, and start."""
    ready = [one for one in inspections(workspace()) if one.report.result]
    if not ready:
        st.info("Choose images on the Data page first.")
        st.page_link("views/data.py", label="Go to Data", icon=":material/folder_open:")
        return
    keys = [one.key for one in ready]
    asked = st.query_params.get("data")
    at = st.selectbox(
        "Dataset",
        range(len(ready)),
        index=keys.index(asked) if asked in keys else 0,
        format_func=lambda i: dataset_title(ready[i].config, ready[i].report.result),
    )
    inspection = ready[at].report.result
    assert inspection is not None
    model = ask_model(inspection)
    above = st.container()
    config = replace(ask_config(ready[at].config), model=model)
    try:
        chosen = config.resolved(inspection.image_size, inspection.validation is not None)
    except InputError as error:
        st.error(in_page_words(str(error)))
        return
    wanted = (chosen.model, chosen.tune)
    costs = next((one.budgets for one in inspection.estimates if (one.model, one.tune) == wanted), None)
    if not chosen.on_features:
        with above:
            config = replace(config, budget=ask_budget(costs))
    validation = inspection.validation
    trusted = f"{validation.images:,} trusted ones" if validation else "no clean split"
    facts = f"{inspection.training.images:,} images, {trusted}. "
    if costs is None:
        facts += "What this model takes was not measured here."
    else:
        cost = costs[config.budget]
        facts += (
            f"About {duration(cost.seconds)}, {size(cost.memory_mb)} of memory and {size(cost.disk_mb)} on "
            "disk, estimated from a few steps on this machine."
        )
    st.caption(facts)
    if st.button("Start", type="primary", icon=":material/play_arrow:"):
        start(config)


def start(config: RunConfig, parent: str | None = None) -> None:
    """Queue a run and show it, or say what is wrong.

    Args:
        config: of the run.
        parent: the run that it goes on from.
    """
    try:
        with st.spinner("Starting…"):
            run = submit(config)
        if parent is not None:
            with store.store(workspace()) as connection:
                store.link_run(connection, run, parent)
        st.query_params["run"] = run
        st.rerun()
    except InputError as error:
        st.error(in_page_words(str(error)))


def show_progress(row: RunRow) -> None:
    """How far a run is."""
    if row.state == "queued":
        st.info("Waiting for the device; other runs come first." if any_running() else "Starting…")
        return
    step = row.step()
    if step is None:
        st.info("Starting…")
        return
    stages = text_stages(row.text_config()) if row.is_text else stages_of(row.run_config())
    place = f"Stage {stages.index(step.stage) + 1} of {len(stages)}: " if step.stage in stages else ""
    st.progress(step.done / max(step.total, 1), text=f"{place}{step.title}")
    facts = {
        f"{step.unit}s": f"{step.done:,} / {step.total:,}",
        "loss": "–" if step.loss is None else f"{step.loss:.3f}",
        f"{step.item}s a second": f"{step.images_per_second:,.3g}",
        "left in this stage": duration(step.seconds_left),
        "left in all": "–" if (left := seconds_left(row, step)) is None else f"≈ {duration(left)}",
        "memory": "–" if step.memory_mb is None else f"{step.memory_mb:,.0f} MB",
    }
    for column, (name, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(name, value)


@st.cache_data(max_entries=8)
def estimated_seconds(config_text: str) -> float | None:
    """What a run takes by what was estimated for its data and model; None where nothing was. Kept, since a
    page that watches a run asks every second.

    Args:
        config_text: the run's configuration, as JSON.
    """
    config = RunConfig.from_json(config_text)
    known = (one for one in inspections(workspace()) if one.config.data.train == config.data.train)
    inspected = next(known, None)
    if inspected is None or inspected.report.result is None:
        return None
    estimates = inspected.report.result.estimates
    found = (one for one in estimates if (one.model, one.tune) == (config.model, config.tune))
    return next((one.budgets[config.budget].seconds for one in found), None)


def seconds_left(row: RunRow, step: Progress) -> float | None:
    """How long a run still takes; None where nothing was estimated for it."""
    estimate = None if row.is_text else estimated_seconds(row.config)
    if estimate is None or row.started is None:
        return None
    return max(estimate - (time.time() - row.started), step.seconds_left)


def any_running() -> bool:
    """Whether some run computes now."""
    return any(row.state == "running" for row in all_runs())


def show_run(run: str) -> None:
    """One run: progress or result, what can be done with it, its configuration and log."""
    with store.store(workspace()) as connection:
        row = store.find_run(connection, run)
    if row is None:
        st.info("There is no such run here; it may have been deleted.")
        return
    folder = workspace().run(row.id)
    st.subheader(plain(f"{ICONS[row.state]} {row.title} · {row.state}"))
    if row.state not in FINISHED:
        ensure_supervisor(workspace())
        show_progress(row)
    if row.state == "failed":
        st.error(plain(row.message or "It failed; its log may say why."))
    for note in row.notes.splitlines():
        st.warning(plain(note))
    if folder.result.exists() and not row.is_text:
        try:
            show_result(read_result(folder), row.run_config())
        except OutdatedResult as error:
            st.info(plain(f"{str(error)[0].upper()}{str(error)[1:]}."))
    with st.container(horizontal=True):
        page = "text" if row.is_text else "review"
        if folder.result.exists() and st.button(
            "Review suspects", type="primary", icon=":material/grid_view:", key=f"review-{run}"
        ):
            st.switch_page(f"views/{page}.py", query_params={"run": row.id})
        if row.state not in FINISHED and st.button("Cancel", icon=":material/stop:", key=f"cancel-{run}"):
            with store.store(workspace()) as connection:
                store.request_cancel(connection, row.id)
            st.rerun()
        if row.state in ("failed", "canceled") and st.button(
            "Resume", icon=":material/play_arrow:", key=f"resume-{run}"
        ):
            with store.store(workspace()) as connection:
                store.resume(connection, row.id)
            ensure_supervisor(workspace())
            st.rerun()
        if row.state == "done" and not row.is_text and takes_decisions(row.run_config()):
            offer_second_round(row)
        if row.state in FINISHED and st.button("Delete", icon=":material/delete:", key=f"delete-{run}"):
            confirm_delete(row)
        name_run(row)
    show_rounds(row)
    if row.remark:
        st.caption(plain(row.remark))
    with st.expander("Configuration"):
        st.json(row.config)
    with st.expander("Log"):
        lines = folder.log.read_text(errors="replace").splitlines() if folder.log.exists() else []
        st.code("\n".join(lines[-LOG_LINES:]) or "(empty)", language=None)


def name_run(row: RunRow) -> None:
    """Give a run a name and a remark."""
    with st.popover("Name", icon=":material/edit:"):
        name = st.text_input("Name", row.name or "", max_chars=80, key=f"name-{row.id}")
        remark = st.text_area("Remark", row.remark or "", max_chars=2000, key=f"remark-{row.id}")
        if st.button("Keep", key=f"keep-name-{row.id}"):
            with store.store(workspace()) as connection:
                store.describe_run(connection, row.id, name, remark)
            st.rerun()


def show_rounds(row: RunRow) -> None:
    """What is expected to be wrong, round by round, where a run goes on from another one."""
    with store.store(workspace()) as connection:
        rounds = store.rounds_of(connection, row.id)
    if len(rounds) < 2:
        return
    st.markdown("**Rounds**")
    rows = []
    for number, one in enumerate(rounds, 1):
        facts: dict[str, object] = {"round": number, "run": one.title}
        with suppress(OutdatedResult, InputError):
            known = read_result(workspace().run(one.id))
            low, high = known.expected_wrong_interval
            facts |= {"images judged": known.n, "expected wrong": round(known.expected_wrong)}
            facts["interval"] = f"{low:,.0f}–{high:,.0f}"
        rows.append(facts)
    st.dataframe(rows, hide_index=True)


def offer_second_round(row: RunRow) -> None:
    """Let decided images be trusted in a run on the others."""
    with store.store(workspace()) as connection:
        decided = decided_count(workspace(), row.id, head(connection, row.dataset))
        if decided and st.button(
            f"Run again, trusting {decided:,} decided labels",
            icon=":material/replay:",
            key=f"again-{row.id}",
            help="The images whose labels are decided join the clean images; the others are judged again. On "
            "frozen features it takes seconds.",
        ):
            config = second_round(connection, workspace(), row)
            start(config, row.id)


@st.dialog("Delete this run?")
def confirm_delete(row: RunRow) -> None:
    """Ask before a run's files go."""
    st.write(f"{plain(row.title)}: its scores are deleted. Decisions on its images are kept.")
    if st.button("Delete", type="primary"):
        with store.store(workspace()) as connection:
            store.delete_run(connection, row.id)
        shutil.rmtree(workspace().run(row.id).root, ignore_errors=True)
        st.query_params.pop("run", None)
        st.rerun()


def show_result(result: RunResult, config: RunConfig) -> None:
    """What a run computed."""
    # The last stages come after the result, which does not know what they took.
    known = (*result.stage_seconds, MAP, CANARIES, FIGURES)
    reused = [stage for stage in stages_of(config) if stage not in known]
    share = result.expected_wrong / result.n
    facts = {
        "images": f"{result.n:,}",
        f"expected wrong ({share:.1%})": f"≈ {result.expected_wrong:,.0f}",
        "left out": f"{result.skipped:,}",
        "computed in": duration(result.seconds),
    }
    for column, (name, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(name, value)
    shared = f" Taken over from earlier runs: {', '.join(reused)}." if reused else ""
    st.caption(f"{result.wrong_labels.capitalize()}.{shared}")
    if result.measured:
        titles = [METRIC_TITLES[metric] for metric in MAIN_METRICS]
        measured = [
            {"method": name} | {METRIC_TITLES[metric]: getattr(method, metric) for metric in MAIN_METRICS}
            for name, method in result.methods.items()
        ]
        formats = {title: st.column_config.NumberColumn(format="%.4f") for title in titles}
        st.dataframe(measured, hide_index=True, column_config=formats)
        st.caption("Measured on the true labels that this data set brings; no method is given them.")


left, right = st.columns([3, 5], gap="large")
runs = all_runs()
with left:
    st.subheader("New run")
    start_form()
    st.subheader("Runs")
    if not runs:
        st.caption("None yet.")
    for row in runs:
        when = time.strftime("%d %b %H:%M", time.localtime(row.submitted))
        if st.button(plain(f"{ICONS[row.state]} {row.title}  ·  {when}"), key=row.id, type="tertiary"):
            st.query_params["run"] = row.id
with right:
    chosen = st.query_params.get("run") or (runs[0].id if runs else None)
    if chosen is None:
        st.info(
            "A run shows its progress here. It goes on when this page is closed, and after a crash it "
            "resumes where it was."
        )
    else:
        known = next((row for row in runs if row.id == chosen), None)
        live = known is not None and known.state not in FINISHED

        @st.fragment(run_every=1.0 if live else None)
        def live_run(run: str = chosen) -> None:
            show_run(run)
            with store.store(workspace()) as connection:
                now = store.find_run(connection, run)
            if live and (now is None or now.state in FINISHED):
                st.rerun()

        live_run()
