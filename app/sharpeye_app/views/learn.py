"""Learn: seven short steps from influence to flat minima, every number computed on the spot on a part of
the packaged demo."""

import streamlit as st

from sharpeye.runs.lesson import Lesson, lesson_folder, read_lesson, start_lesson
from sharpeye.runs.pair_lesson import pair_lesson
from sharpeye_app import lesson_plots
from sharpeye_app.parts import plain, wait_for_report
from sharpeye_app.pictures import picture_grid, picture_tag
from sharpeye_app.readers import workspace

STEPS = (
    "1 Influence",
    "2 Sharp and flat",
    "3 How flat?",
    "4 Why classical fades",
    "5 Leverage",
    "6 Influence and loss",
    "7 Pairs",
)
OPTIMIZERS = {"lpf-sgd": "noise (LPF-SGD), σ", "sam": "ascent (SAM), ρ"}
STRENGTHS = {"lpf-sgd": (0.1, 0.2, 0.4, 0.8), "sam": (0.02, 0.05, 0.1, 0.2)}
PLAIN = ("erm", 0.0)

Way = tuple[str, float]


def lesson(way: Way) -> Lesson:
    """The experiment for one way to the minimum; where it is not there yet, the page waits for it here."""
    report = read_lesson(workspace(), *way)
    if report is None:
        start_lesson(workspace(), *way)
    if report is None or report.state == "running":
        wait_for_report(lambda: read_lesson(workspace(), *way), "Training a small network on this machine")
        st.stop()
    if report.result is None:
        st.error(f"The experiment failed: {plain(report.message)}")
        if st.button("Try again"):
            lesson_folder(workspace(), *way).report.unlink(missing_ok=True)
            st.rerun()
        st.stop()
    return report.result


def choose_way(name: str = "", first: int = 1) -> Way:
    """How the minimum is reached: chosen once for all steps, or for the step of this name; `first` is the
    place of the strength that it begins with."""
    left, right = st.columns([2, 3])
    optimizer = left.segmented_control(
        "Flat training by",
        list(OPTIMIZERS),
        default="lpf-sgd",
        format_func=OPTIMIZERS.__getitem__,
        required=True,
        key=f"optimizer{name}",
    )
    strengths = STRENGTHS[optimizer or "lpf-sgd"]
    strength = right.select_slider(
        "Its strength", strengths, strengths[first], key=f"strength-{optimizer}{name}"
    )
    return str(optimizer), float(strength)


def what_influence_is() -> None:
    """Step 1."""
    st.markdown(
        "A network was trained on 1,500 images, a fifth of them wrongly labelled, then on 500 clean "
        "*validation* images. "
        "**Influence** asks how strongly an image's label pulls at that network: $g^\\top (H + \\lambda "
        "I)^{-1} g$, with "
        "$g$ the gradient of the image's loss and $H$ the curvature of the validation risk. A label that "
        "fits what the "
        "clean images taught pulls little. So Sharpeye tries **every** label on every image. The one that "
        "pulls least is "
        "the suggestion."
    )
    shown = lesson(PLAIN)
    names, suspects = shown.classes, shown.suspects
    picture_grid(shown.decoded, [suspect.row for suspect in suspects], "Training image")
    one = suspects[st.slider("Suspect", 1, len(suspects), 1) - 1]
    left, right = st.columns([1, 4])
    left.html(f'<div style="max-width:200px">{picture_tag(shown.decoded, one.row, "The suspect")}</div>')
    pulls = lesson_plots.pulls(names, one.scores, one.given)
    right.plotly_chart(pulls, alt="Influence of every label", key="pulls")
    best = names[min(range(len(names)), key=one.scores.__getitem__)]
    st.caption(f"Given: {names[one.given]}. The label that pulls least: {best}.")


def sharp_and_flat() -> None:
    """Step 2."""
    st.markdown(
        "Influence is a statement about a small step: *what if this label weighed a little more?* At a "
        "**sharp** minimum "
        "the risk changes abruptly, and a straight-line estimate of that step goes wrong. Flat training "
        "looks for a place "
        "where the surroundings are low too: LPF-SGD shakes the weights at every step, SAM takes its "
        "gradient where the "
        "risk nearby is worst."
    )
    way = choose_way()
    sharp, flat = lesson(PLAIN), lesson(way)
    shaken = lesson_plots.risks_under_noise({"plain minimum": sharp.noise, "flat minimum": flat.noise})
    st.plotly_chart(shaken, alt="Risk under noise", key="shaken")
    st.latex(
        r"R_\sigma(\theta) = \mathbb{E}_\varepsilon R(\theta + \varepsilon),\quad "
        r"\lVert\varepsilon_f\rVert = \sigma\lVert\theta_f\rVert \text{ for each filter } f"
    )
    before, after = (one.checkpoints[-1].sharpness for one in (sharp, flat))
    flatter = (
        "the flat minimum is flatter" if after < before else "here it is no flatter: choose more strength"
    )
    st.caption(
        f"Mean rise of the validation risk under noise of a fifth of each filter's length: {before:.3f} at "
        "the plain "
        f"minimum, {after:.3f} at the flat one: {flatter}."
    )


def how_flat() -> None:
    """Step 3."""
    st.markdown(
        "Move the strength. Sharpness falls as it grows; yet a network that is shaken too hard forgets what "
        "the clean "
        "images taught. Watch the two hills, influence of right and of wrong labels, and the AUC: the chance "
        "that a wrong "
        "label ranks above a right one."
    )
    way = choose_way()
    sharp, flat = lesson(PLAIN), lesson(way)
    before, after = sharp.checkpoints[-1], flat.checkpoints[-1]
    facts = {
        "detection AUC": (before.new, after.new),
        "sharpness": (before.sharpness, after.sharpness),
        "validation risk": (before.risk, after.risk),
        "gradient": (before.gradient, after.gradient),
    }
    for column, (title, (old, new)) in zip(st.columns(len(facts)), facts.items(), strict=True):
        change = f"{new - old:+.3f} to plain"
        column.metric(title, f"{new:.3f}", change, delta_color="off", delta_arrow="off")
    st.caption(
        f"At this strength, flat training {gains(after.new - before.new)} over plain training, on one seed "
        "and 1,500 images: differences of a few thousandths mean little here."
    )
    hills = lesson_plots.hills(flat.histogram)
    st.plotly_chart(hills, alt="Influence of right and of wrong labels", key="hills")
    tried: dict[Way, Lesson] = {}
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            report = read_lesson(workspace(), name, strength)
            if report is not None and report.result is not None:
                tried[name, strength] = report.result
    so_far = lesson_plots.tried_so_far(sharp, tried)
    st.plotly_chart(so_far, alt="Sharpness and AUC of every strength tried", key="tried")
    st.caption("Every strength that you tried so far, and the plain minimum as a cross.")


def why_classical_fades() -> None:
    """Step 4."""
    st.markdown(
        "Classical influence asks another question: does this image help the **validation risk**? It "
        "compares the image's "
        "gradient with the *mean* validation gradient. At a minimum of that very risk, this mean is zero by "
        "definition: "
        "the better the network fits the clean images, the less there is to compare with. The new influence "
        "does not need "
        "it, since it measures each image against the curvature."
    )
    # From this strength on, the mean gradient gets small.
    checkpoints = lesson(choose_way("-fading", 2)).checkpoints
    st.plotly_chart(lesson_plots.fading(checkpoints), alt="AUC and gradient along training", key="fading")
    first, last = checkpoints[0], checkpoints[-1]
    st.caption(
        f"From the noisily trained network (epoch 0) to the minimum, the mean gradient's length goes from "
        f"{first.gradient:.2f} to {last.gradient:.2f}. Classical influence (LiSSA) goes from an AUC of "
        f"{first.classical:.3f} to {last.classical:.3f}, the new influence from {first.new:.3f} to "
        f"{last.new:.3f}."
        + (
            ""
            if last.classical < first.classical
            else " Here the classical one does not fade: training "
            "stops before the gradient is small enough. Try another strength."
        )
    )


def leverage() -> None:
    """Step 5."""
    st.markdown(
        "Influence is large for two reasons: the label does not fit, or the image is **unusual**, so that "
        "any label would "
        "pull hard. The second, *leverage*, is common to all labels of an image. It never changes the "
        "suggestion, only "
        "the ranking; `fvm_normalized` divides it out."
    )
    shown = lesson(choose_way())
    for title, ranking in (
        ("With leverage (fvm): the most suspicious", shown.with_leverage),
        ("Leverage divided out (fvm_normalized)", shown.without_leverage),
    ):
        st.markdown(f"**{title}**: AUC {ranking.auc:.4f}")
        picture_grid(shown.decoded, ranking.rows, "Training image", ranking.wrong)
    better = "hurts" if shown.without_leverage.auc < shown.with_leverage.auc else "helps"
    st.caption(
        f"Red frames: wrong labels. On these images dividing it out {better}; on others it may not. Compare "
        "both on your "
        "own data, on the Compare page."
    )


def influence_and_loss() -> None:
    """Step 6."""
    st.markdown(
        "The plain **loss** at the same minimum ranks about as well as influence, often better. That is no "
        "accident: they are the two ends of one family. Let the image bring its own curvature "
        "$H_z = J^\\top F J$, $F = \\operatorname{diag} p - pp^\\top$, with a weight $w$, as when it joins "
        "the risk and the minimum moves by one Newton step:"
    )
    st.latex(
        r"I_w = g^\top (H + \lambda I + w H_z)^{-1} g \;=\; (p - e_y)^\top (M^{-1} + wF)^{-1} (p - e_y), "
        r"\qquad M = J (H + \lambda I)^{-1} J^\top"
    )
    st.markdown(
        "With $w = 0$ this is influence. For $w \\to \\infty$, $w I_w \\to (p - e_y)^\\top F^{+} (p - e_y) = "
        "1/p_y - 1$, which ranks exactly as the loss $-\\log p_y$ does. Influence weighs an image by its "
        "leverage. That helps where the errors of a class are systematic, and hurts where the images are "
        "merely unusual."
    )
    shown = lesson(choose_way())
    members = shown.family
    titles = [lesson_plots.weight_title(member) for member in members]
    chosen = titles.index(st.select_slider("w", titles, titles[3]))
    st.plotly_chart(lesson_plots.family(members, chosen), alt="AUC from influence to loss", key="family")
    ranking = members[chosen].ranking
    st.markdown(f"**w = {titles[chosen]}**: AUC {ranking.auc:.4f}. The most suspicious:")
    picture_grid(shown.decoded, ranking.rows, "Training image", ranking.wrong)
    best = max(range(len(members)), key=lambda number: members[number].ranking.auc)
    st.caption(
        f"Red frames: wrong labels. On these images w = {titles[best]} ranks best; `fvm_newton` takes 0.1."
    )
    st.page_link("views/run.py", label="Now with your own images: go to Run", icon=":material/play_circle:")


def pairs() -> None:
    """Step 7."""
    st.markdown(
        "So far each image was judged by itself. On the **Text** page the question is about a *pair*: which "
        "training example $i$ taught the model what it says to a trusted prompt $v$? A step on example $i$ "
        "moves the parameters by $(H + \\lambda I)^{-1} g_i$, and the loss of $v$ falls by"
    )
    st.latex(r"a(i, v) = g_v^\top (H + \lambda I)^{-1} g_i, \qquad I(i, v) = \tfrac12\, a(i, v)^2")
    st.markdown(
        "$a > 0$ helps $v$, $a < 0$ harms it; $I$, the paper's influence with $g_v g_v^\\top$ for the "
        "Hessian of $v$, says how much, either way. With $i = v$ it is the self-influence of step 1. Here "
        "the model is a line between points of two classes, so that every pair can be checked: train again "
        "with $i$, and see how far the loss of $v$ falls."
    )
    shown = pair_lesson()
    at = st.slider("Trusted point", 1, len(shown.trusted), 1) - 1
    left, right = st.columns(2)
    left.plotly_chart(lesson_plots.pair_plane(shown, at), alt="Influence on one point", key="plane")
    right.plotly_chart(
        lesson_plots.pair_retraining(shown, at), alt="Influence and training again", key="again"
    )
    st.caption(
        f"Red rings: wrong labels. Over all pairs the rank correlation with training again is "
        f"{shown.rank_correlation:.3f}. Of the {shown.wrong.sum()} points that harm the trusted ones most, "
        f"{shown.wrong_among_harmful} have a wrong label."
    )
    st.page_link("views/text.py", label="Now with your own text: go to Text", icon=":material/notes:")


def gains(difference: float) -> str:
    """A difference in AUC, in words."""
    return f"gains {difference:.3f} in AUC" if difference >= 0 else f"loses {-difference:.3f} in AUC"


PAGES = dict(
    zip(
        STEPS,
        (
            what_influence_is,
            sharp_and_flat,
            how_flat,
            why_classical_fades,
            leverage,
            influence_and_loss,
            pairs,
        ),
        strict=True,
    )
)
st.subheader("Why flat minima make influence work")
st.caption(
    "On a part of the packaged demo, computed live; each of the first six takes some seconds the first time."
)
step = st.segmented_control(
    "Step",
    STEPS,
    default=STEPS[0],
    required=True,
    key="step",
    bind="query-params",
    label_visibility="collapsed",
)
PAGES[step or STEPS[0]]()
