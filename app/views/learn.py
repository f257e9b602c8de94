"""Learn: five short steps from influence to flat minima, every number computed on the spot on a part of the packaged demo."""

import time
from typing import Any

import streamlit as st

from app import figures
from app.readers import picture_url, workspace
from engine.diagnostics.lesson import lesson_path, read_lesson, start_lesson

STEPS = ("1 Influence", "2 Sharp and flat", "3 How flat?", "4 Why classical fades", "5 Leverage")
OPTIMIZERS = {"lpf-sgd": "noise (LPF-SGD), σ", "sam": "ascent (SAM), ρ"}
STRENGTHS = {"lpf-sgd": (0.1, 0.2, 0.4, 0.8), "sam": (0.02, 0.05, 0.1, 0.2)}
PLAIN = ("erm", 0.0)
PATIENCE = 120

Way = tuple[str, float]
Lesson = dict[str, Any]


def lesson(way: Way) -> Lesson:
    """The experiment for one way to the minimum; where it is not there yet, the page waits for it here and runs again."""
    found = read_lesson(workspace(), *way)
    if found is None:
        wait_for(way)
        st.stop()
    if "error" in found:
        st.error(f"The experiment failed: {found['error']}. Its log is in {workspace().lessons}.")
        if st.button("Try again"):
            lesson_path(workspace(), *way).unlink(missing_ok=True)
            st.rerun()
        st.stop()
    return found


@st.fragment(run_every=0.5)
def wait_for(way: Way) -> None:
    """Start the experiment once, and watch for its end."""
    started = st.session_state.setdefault("lessons", {})
    if way not in started:
        started[way] = time.time()
        start_lesson(workspace(), *way)
    seconds = time.time() - started[way]
    if read_lesson(workspace(), *way) is not None:
        del started[way]
        st.rerun()
    elif seconds > PATIENCE:
        del started[way]
        st.error("The experiment does not come to an end. Open this page again to start it anew.")
    else:
        st.progress(min(seconds / 10, 0.95), text=f"Training a small network on this machine … {seconds:.0f} s")


def choose_way() -> Way:
    """How the minimum shall be reached."""
    left, right = st.columns([2, 3])
    optimizer = left.segmented_control(
        "Flat training by",
        list(OPTIMIZERS),
        default="lpf-sgd",
        format_func=OPTIMIZERS.__getitem__,
        required=True,
        key="optimizer",
    )
    strengths = STRENGTHS[optimizer or "lpf-sgd"]
    strength = right.select_slider("Its strength", strengths, strengths[1], key=f"strength-{optimizer}")
    return str(optimizer), float(strength)


def pictures(found: Lesson, rows: list[int], wrong: list[bool] | None = None) -> None:
    """Small pictures side by side; those with a wrong label in red where that is told."""
    edges = ["#d1343a" if bad else "transparent" for bad in wrong] if wrong else ["transparent"] * len(rows)
    tags = "".join(
        f'<img src="{picture_url(found["decoded"], row)}" alt="Training image" style="width:100%;aspect-ratio:1;object-fit:contain;'
        f'border-radius:4px;border:3px solid {edge}">'
        for row, edge in zip(rows, edges, strict=True)
    )
    st.html(f'<div style="display:grid;grid-template-columns:repeat(12,1fr);gap:4px;max-width:1000px">{tags}</div>')


def what_influence_is() -> None:
    """Step 1."""
    st.markdown(
        "A network was trained on 1,500 images, a fifth of them wrongly labelled, then on 500 clean *validation* images. **Influence** asks how "
        "strongly an image's label pulls at that network: $g^\\top (H + \\lambda I)^{-1} g$, with $g$ the gradient of the image's loss and $H$ the "
        "curvature of the validation risk. A label that fits what the clean images taught pulls little. So Sharpeye tries **every** label on every "
        "image: the given one should pull little, and the one that pulls least is the suggestion."
    )
    found = lesson(PLAIN)
    names, suspects = found["classes"], found["suspects"]
    pictures(found, [suspect["row"] for suspect in suspects])
    at = st.slider("Look at suspect", 1, len(suspects), 1) - 1
    one = suspects[at]
    left, right = st.columns([1, 4])
    left.html(f'<img src="{picture_url(found["decoded"], one["row"])}" alt="The suspect" style="width:100%;max-width:200px">')
    right.plotly_chart(figures.pulls(names, one["scores"], one["given"]), alt="Influence of every label", key="pulls")
    best = names[min(range(len(names)), key=one["scores"].__getitem__)]
    st.caption(f"Given: {names[one['given']]}. The label that pulls least: {best}.")


def sharp_and_flat() -> None:
    """Step 2."""
    st.markdown(
        "Influence is a statement about a small step: *what if this label weighed a little more?* At a **sharp** minimum the risk changes abruptly, "
        "and a straight-line estimate of that step goes wrong. Flat training looks for a place where the surroundings are low too: LPF-SGD shakes the "
        "weights at every step, SAM takes its gradient where the risk nearby is worst."
    )
    way = choose_way()
    plain, flat = lesson(PLAIN), lesson(way)
    st.plotly_chart(
        figures.slices({"plain minimum": plain["slice"], "flat minimum": flat["slice"]}),
        alt="Risk along one direction",
        key="slices",
    )
    ends = [found["checkpoints"][-1]["sharpness"] for found in (plain, flat)]
    st.caption(
        f"Mean rise of the validation risk under noise of a fifth of each filter's length: {ends[0]:.3f} at the plain minimum, {ends[1]:.3f} at the "
        f"flat one. The curves follow one random direction; {'the flat minimum is flatter' if ends[1] < ends[0] else 'here it is no flatter: choose more strength'}."
    )


def how_flat() -> None:
    """Step 3."""
    st.markdown(
        "Move the strength. Sharpness falls as it grows; yet a network that is shaken too hard forgets what the clean images taught. Watch the two "
        "hills, influence of right and of wrong labels, and the AUC: the chance that a wrong label ranks above a right one."
    )
    way = choose_way()
    plain, flat = lesson(PLAIN), lesson(way)
    ends = {"plain": plain["checkpoints"][-1], "flat": flat["checkpoints"][-1]}
    columns = st.columns(4)
    for column, (title, key) in zip(
        columns,
        (("detection AUC", "new"), ("sharpness", "sharpness"), ("validation risk", "risk"), ("gradient", "gradient")),
        strict=True,
    ):
        column.metric(
            title,
            f"{ends['flat'][key]:.3f}",
            f"{ends['flat'][key] - ends['plain'][key]:+.3f} to plain",
            delta_color="off",
            delta_arrow="off",
        )
    st.plotly_chart(figures.hills(flat["histogram"]), alt="Influence of right and of wrong labels", key="hills")
    known = [(name, strength) for name in STRENGTHS for strength in STRENGTHS[name]]
    tried = {one: found for one in known if (found := read_lesson(workspace(), *one)) is not None and "error" not in found}
    st.plotly_chart(figures.tried_so_far(plain, tried), alt="Sharpness and AUC of every strength tried", key="tried")
    st.caption("Every strength that you tried so far, and the plain minimum as a cross.")


def why_classical_fades() -> None:
    """Step 4."""
    st.markdown(
        "Classical influence asks another question: does this image help the **validation risk**? It compares the image's gradient with the *mean* "
        "validation gradient. At a minimum of that very risk, this mean is zero by definition: the better the network fits the clean images, the less "
        "there is to compare with. The new influence does not need it, since it measures each image against the curvature."
    )
    way = choose_way()
    found = lesson(way)
    st.plotly_chart(figures.fading(found["checkpoints"]), alt="AUC and gradient along training", key="fading")
    first, last = found["checkpoints"][0], found["checkpoints"][-1]
    st.caption(
        f"From the noisily trained network (epoch 0) to the minimum, the mean gradient's length goes from {first['gradient']:.2f} to {last['gradient']:.2f}, the AUC "
        f"of classical influence (DataInf) from {first['classical']:.3f} to {last['classical']:.3f}, that of the new influence from {first['new']:.3f} to {last['new']:.3f}."
    )


def leverage() -> None:
    """Step 5."""
    st.markdown(
        "Influence is large for two reasons: the label does not fit, or the image is **unusual**, so that any label would pull hard. The second, "
        "*leverage*, is common to all labels of an image. It never changes the suggestion, only the ranking; `fvm_normalized` divides it out."
    )
    found = lesson(choose_way())
    both = found["leverage"]
    for title, name in (
        ("With leverage (fvm): the most suspicious", "with"),
        ("Leverage divided out (fvm_normalized)", "without"),
    ):
        st.markdown(f"**{title}**: AUC {both[name]['auc']:.4f}")
        pictures(found, both[name]["rows"], both[name]["wrong"])
    better = "hurts" if both["without"]["auc"] < both["with"]["auc"] else "helps"
    st.caption(
        f"Red frames: wrong labels. On these images dividing it out {better}; on others it may not. Compare both on your own data, on the Compare page."
    )
    st.page_link("views/run.py", label="Now with your own images: go to Run", icon=":material/play_circle:")


st.subheader("Why flat minima make influence work")
st.caption("On a part of the packaged demo, computed live; each experiment takes some seconds the first time.")
step = st.segmented_control(
    "Step", STEPS, default=STEPS[0], required=True, key="step", bind="query-params", label_visibility="collapsed"
)
{STEPS[0]: what_influence_is, STEPS[1]: sharp_and_flat, STEPS[2]: how_flat, STEPS[3]: why_classical_fades, STEPS[4]: leverage}[
    step or STEPS[0]
]()
