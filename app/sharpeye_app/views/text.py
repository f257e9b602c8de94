"""Text: which training examples taught a language model what it says to a prompt, and which look wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import streamlit as st

from sharpeye.errors import InputError
from sharpeye.runs.store import FINISHED
from sharpeye.runs.supervisor import ensure_supervisor
from sharpeye.runs.text_question import Question, ask, read_answer
from sharpeye.runs.text_review import TEXT_VERDICTS, TextReview, json_lines, open_text_review
from sharpeye_app.parts import chosen_run, in_page_words, plain, wait_for_report
from sharpeye_app.readers import text_runs, workspace
from sharpeye_app.reviewer import reviewer
from sharpeye_app.source_form import SOURCES, TEXT
from sharpeye_app.text_marks import example, marked

SHOWN = 30
PROMPTS = ("Trusted", "Your own")
ORDERS = ("Most influential", "Most helpful", "Most harmful", "Most suspicious")
ABOUT = {
    ORDERS[0]: "Of all training examples, these changed most what the model says here.",
    ORDERS[1]: "A step on these examples lowers the loss of this completion most.",
    ORDERS[2]: "A step on these examples raises it most.",
    ORDERS[3]: "By self-influence, whatever the prompt: their completions fit the trusted examples least.",
}


def wait_for(run: str) -> None:
    """Progress of a run, until it ends."""
    ensure_supervisor(workspace())

    @st.fragment(run_every=1.0)
    def watch() -> None:
        row = next((row for row in text_runs() if row.id == run), None)
        if row is None or row.state in FINISHED:
            st.rerun()
            return
        step = row.step()
        if step is None:
            st.info("Starting…")
        else:
            st.progress(step.done / max(step.total, 1), text=f"{step.title}: {step.done:,} of {step.total:,}")

    watch()
    st.page_link("views/run.py", label="Cancel it on the Run page", query_params={"run": run})


def focus(review: TextReview, order: np.ndarray, shown: str) -> int:
    """Place in the order of the example that is looked at; kept while the order is."""
    key = (review.run, shown)
    if st.session_state.get("text-order") != key:
        st.session_state["text-order"], st.session_state["text-at"] = key, 0
    return int(min(st.session_state["text-at"], len(order) - 1))


@dataclass(frozen=True)
class Asked:
    """A prompt, the completion that influence is about, and the influence of each training example, (N,)."""

    prompt: str
    completion: str
    influence: np.ndarray


def choose_prompt(review: TextReview) -> Asked | None:
    """Let the user pick a trusted prompt, or type one; None until a typed one is answered."""
    kind = st.segmented_control("Prompt", PROMPTS, default=PROMPTS[0], required=True, key="text-prompts")
    return trusted_prompt(review) if kind == PROMPTS[0] else own_prompt(review)


def trusted_prompt(review: TextReview) -> Asked:
    """Let the user pick a validation prompt."""
    table = review.validation
    row: int = st.selectbox(
        "Trusted prompt (type to search)",
        range(len(table)),
        format_func=lambda at: (
            f"{table['prompt'].iloc[at].strip()[-90:]} {table['completion'].iloc[at][:40]}"
        ),
        key=f"text-prompt-{review.run}",
    )
    chosen = table.iloc[row]
    st.html(example(escape(chosen["prompt"]), escape(chosen["completion"])))
    st.caption("The trusted completion." + (f" Class: {plain(chosen['class'])}" if chosen["class"] else ""))
    if chosen["before"] or chosen["after"]:
        show_said(chosen["before"], chosen["after"])
    return Asked(chosen["prompt"], chosen["completion"], review.influence(row))


def show_said(before: str, after: str) -> None:
    """What the model says, before and after training, side by side."""
    for column, title, text in zip(st.columns(2), ("before", "after"), (before, after), strict=True):
        with column:
            st.html(f"<b>The model, {title} training</b>{example('', escape(text) or '(nothing)')}")


def own_prompt(review: TextReview) -> Asked | None:
    """Let the user type a prompt, and wait for the answer."""
    key = f"text-question-{review.run}"
    with st.form(f"{key}-form", border=False):
        prompt = st.text_area("Your prompt", key=f"{key}-prompt", height=100)
        completion = st.text_area(
            "A completion (empty: what the model says)", key=f"{key}-completion", height=68
        )
        if st.form_submit_button("Ask", type="primary", icon=":material/send:"):
            st.session_state[key] = Question(prompt, completion)
            ask(workspace(), review.run, st.session_state[key])
    question: Question | None = st.session_state.get(key)
    if question is None:
        st.caption("The model is loaded for it, which takes a while.")
        return None
    report = read_answer(workspace(), review.run, question)
    if report is None:
        st.caption("Of an earlier version: ask again.")
        return None
    if report.state == "running":
        wait_for_report(lambda: read_answer(workspace(), review.run, question), "Asking the model")
        return None
    if report.result is None:
        st.error(in_page_words(report.message))
        return None
    found = report.result
    st.html(example(escape(question.prompt), escape(found.completion)))
    st.caption(
        f"Influence is about {'this completion' if question.completion else 'what the model says'}, whose "
        f"loss is {found.loss:.2f}."
    )
    show_said(found.before, found.after)
    return Asked(question.prompt, found.completion, np.array(found.influence))


def show_example(
    review: TextReview, made: pd.DataFrame, at: int, order: np.ndarray, asked: Asked, who: str
) -> None:
    """The example that is looked at, and what can be done with it."""
    chosen = review.training.iloc[order[at]]
    name = str(chosen["id"])
    verdict = str(made.loc[name, "verdict"]) if name in made.index else ""
    badge = f" :green-badge[{TEXT_VERDICTS[verdict].badge}]" if verdict else ""
    st.markdown(f"**{at + 1} of {len(order):,}** · {plain(name)}{badge}")
    completion = chosen["completion"]
    st.html(
        example(
            marked(chosen["prompt"], asked.prompt),
            marked(completion, asked.prompt + " " + asked.completion),
        )
    )
    facts = {
        "influence here": f"{asked.influence[order[at]]:+.3g}",
        "self-influence": f"{chosen['self_influence']:.3g}",
        "loss": f"{chosen['loss']:.2f}",
        "class": chosen["class"] or "–",
    }
    for column, (title, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(title, value)
    edited = st.text_area("Completion", completion, key=f"text-edit-{review.run}-{name}", height=80)

    def act(kind: str) -> Callable[[], None]:
        def callback() -> None:
            if st.session_state.get("text-seen") != name:
                return  # pressed while another example was still shown
            text = st.session_state.get(f"text-edit-{review.run}-{name}", edited)
            try:
                review.decide(name, kind, who, text if kind == "edit" else None)
                st.session_state["text-at"] = min(at + 1, len(order) - 1)
            except InputError as error:
                st.session_state["text-error"] = str(error)

        return callback

    def take_back() -> None:
        review.undo(who)

    def move(step: int) -> None:
        st.session_state["text-at"] = int(np.clip(at + step, 0, len(order) - 1))

    with st.container(horizontal=True):
        for kind, one in TEXT_VERDICTS.items():
            first = kind == "drop"
            st.button(
                one.title if kind != "edit" else "Keep the edited completion",
                key=f"text-{kind}",
                shortcut=one.key,
                on_click=act(kind),
                type="primary" if first else "secondary",
            )
        st.button("Undo", key="text-undo", shortcut="u", on_click=take_back)
        st.button("Back", key="text-back", shortcut="left", on_click=move, args=(-1,))
        st.button("Next", key="text-next", shortcut="right", on_click=move, args=(1,))
    if problem := st.session_state.pop("text-error", None):
        st.error(in_page_words(problem))


def show_list(review: TextReview, made: pd.DataFrame, order: np.ndarray, asked: Asked) -> None:
    """The first of the order, as a table."""
    rows = order[:SHOWN]
    verdicts = made["verdict"]
    table = review.training.iloc[rows]
    shown = pd.DataFrame(
        {
            "decision": [
                TEXT_VERDICTS[verdicts[name]].badge if name in verdicts else "" for name in table["id"]
            ],
            "prompt": table["prompt"].str.strip().str[-80:],
            "completion": table["completion"],
            "class": table["class"],
            "influence": asked.influence[rows],
            "self-influence": table["self_influence"],
        }
    )
    st.dataframe(shown, hide_index=True, height=320)


def offer_export(review: TextReview, made: pd.DataFrame) -> None:
    """The cleaned examples as a download, made only when it is asked for."""
    counts = made["verdict"].value_counts()
    said = ", ".join(
        f"{counts[kind]:,} {one.badge.lower()}" for kind, one in TEXT_VERDICTS.items() if kind in counts
    )
    st.caption(f"Decided: {said or 'nothing yet'}.")
    kept = len(review.training) - counts.get("drop", 0)
    st.download_button(
        f"Cleaned examples, JSON lines ({kept:,})",
        lambda: json_lines(review.cleaned()),
        "cleaned.jsonl",
        icon=":material/download:",
        on_click="ignore",
    )


def show_quality(review: TextReview) -> None:
    """How well methods find examples of the same class, where there are classes."""
    measured = {name: one for name, one in review.result.methods.items() if one.auc is not None}
    if not measured:
        return
    with st.expander("How well the class of a prompt is found", icon=":material/insights:"):
        rows = [{"method": name, "AUC": one.auc, "recall": one.recall} for name, one in measured.items()]
        formats = {title: st.column_config.NumberColumn(format="%.4f") for title in ("AUC", "recall")}
        st.dataframe(rows, hide_index=True, column_config=formats)
        st.caption(
            "For each trusted example: do training examples of its class have the most influence? Recall is "
            "the share of the class among as many of the most influential as it has. No method is given the "
            "classes."
        )


runs = text_runs()
st.page_link(
    "views/data.py", label="New run on text", icon=":material/add:", query_params={"kind": SOURCES[TEXT]}
)
if not runs:
    st.info("No run on text yet: choose prompts and completions on the Data page.")
    st.stop()
chosen = chosen_run(runs, "chosen_text_run")
row = next(row for row in runs if row.id == chosen)
for note in row.notes.splitlines():
    st.warning(plain(note))
if row.state not in FINISHED:
    wait_for(row.id)
    st.stop()
if row.state != "done":
    st.error(plain(row.message or "It was canceled; the Run page resumes it."))
    st.page_link(
        "views/run.py", label="Go to Run", icon=":material/play_circle:", query_params={"run": row.id}
    )
    st.stop()
try:
    review = open_text_review(workspace(), row.id)
except InputError as error:
    st.error(plain(str(error)))
    st.stop()
who, made = reviewer(), review.decisions()
left, right = st.columns([2, 3], gap="large")
with left:
    asked = choose_prompt(review)
    show_quality(review)
    offer_export(review, made)
with right:
    if asked is None:
        st.info("The training examples come here, once the prompt is answered.")
        st.stop()
    influence = asked.influence
    shown = st.segmented_control("Training examples", ORDERS, default=ORDERS[0], required=True)
    st.caption(ABOUT[shown])
    orders = {
        ORDERS[0]: lambda: review.most_influential(influence),
        ORDERS[1]: lambda: np.argsort(-influence, kind="stable"),
        ORDERS[2]: lambda: np.argsort(influence, kind="stable"),
        ORDERS[3]: lambda: np.argsort(review.training["rank"].to_numpy()),
    }
    order = orders[shown]()
    at = focus(review, order, f"{shown} {asked.prompt} {asked.completion}")
    show_example(review, made, at, order, asked, who)
    show_list(review, made, order, asked)
    # A key that comes before this point was meant for what was shown before.
    st.session_state["text-seen"] = str(review.training["id"].iloc[order[at]])
