"""Plain HTTP beside Streamlit: pictures, the evidence on one image, and decisions.

Decisions take this way rather than a Streamlit rerun, so that a key press costs one small request and is
answered even while a page is being drawn.
"""

import sqlite3
from dataclasses import dataclass
from typing import Literal

import msgspec
import pandas as pd
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sharpeye.errors import InputError
from sharpeye.runs.decisions import Conflict, head, images_of, is_new, redo, undo
from sharpeye.runs.pictures import picture
from sharpeye.runs.review import STATES, Review, ReviewSummary, current_user
from sharpeye.runs.store import store, transaction
from sharpeye_app.pictures import picture_url
from sharpeye_app.readers import review, workspace

# Only a script of this app can send it: browsers do not let other sites' requests with such a header through.
OWN_HEADER = "x-sharpeye"
STEPS = {"undo": undo, "redo": redo}


@dataclass(frozen=True)
class Entry:
    """One thing that a user did in a tab.

    Attributes:
        tab: random name of the tab.
        n: number that only grows in the tab.
        kind: what was done.
        row: of the scores, to decide.
        verdict: to decide.
        label: class number, where the verdict takes one.
    """

    tab: str
    n: int
    kind: Literal["decide", "undo", "redo"]
    row: int = -1
    verdict: str = ""
    label: int | None = None


@dataclass(frozen=True)
class Entries:
    """What a tab sends.

    Attributes:
        head: the last action that the tab knows.
        shown: the rows that it shows.
        entries: what was done, in order.
    """

    head: int
    shown: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Step:
    """What an undo or redo touched: how many images, the first one's id, and its row here."""

    kind: str
    count: int
    first: str | None
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What a tab is answered.

    Attributes:
        head: the last action taken in.
        changes: row, verdict and label of every row shown.
        conflicts: rows that another tab decided meanwhile, and that were left alone.
        step: what the last undo or redo touched.
        summary: how far the review is.
    """

    head: int
    changes: tuple[tuple[int, str, int], ...]
    conflicts: tuple[int, ...]
    step: Step | None
    summary: ReviewSummary


@dataclass(frozen=True)
class EvidenceAnswer:
    """Evidence on one image: its candidate labels and their scores, and the addresses of images like it.

    These are trusted ones, or where there are none the surest of the training set.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    near_given: tuple[str, ...]
    near_suggested: tuple[str, ...]
    trusted: bool


def get_picture(request: Request) -> Response:
    """An image by data set and row."""
    try:
        content, kind = picture(workspace(), request.path_params["name"], request.path_params["row"])
    except InputError as error:
        return _refusal(str(error), 404)
    return Response(
        content, media_type=kind, headers={"Cache-Control": "private, max-age=31536000, immutable"}
    )


def get_picture_of_run(request: Request) -> Response:
    """An image by run and row of its scores."""
    try:
        opened, row = review(request.path_params["run"]), request.path_params["row"]
        if row >= len(opened):
            raise InputError(f"run {opened.run} has no image {row}")
    except InputError as error:
        return _refusal(str(error), 404)
    return RedirectResponse(picture_url(opened.decoded, int(opened.image_row[row])))


def get_evidence(request: Request) -> Response:
    """What speaks for and against an image's label: candidate scores, and the nearest trusted images."""
    try:
        return _json(evidence(review(request.path_params["run"]), request.path_params["row"]))
    except InputError as error:
        return _refusal(str(error), 404)


def evidence(opened: Review, row: int) -> EvidenceAnswer:
    """Evidence on one row of a run's scores; raises InputError where there is no such row."""
    known = opened.evidence(row)
    images = opened.result.images
    near_given, near_suggested = (
        tuple(picture_url(images.validation, one) for one in rows)
        for rows in (known.near_given, known.near_suggested)
    )
    return EvidenceAnswer(known.labels, known.scores, near_given, near_suggested, images.trusted)


async def post_decisions(request: Request) -> Response:
    """Append decisions, undos and redos; answers with how the images shown stand now."""
    if OWN_HEADER not in request.headers:
        return _refusal("not from this app", 403)
    try:
        entries = msgspec.json.decode(await request.body(), type=Entries)
        return _json(await run_in_threadpool(carry_out, request.path_params["run"], entries))
    except InputError as error:
        return _refusal(str(error), 404)
    except (ValueError, KeyError, IndexError) as error:
        return _refusal(f"not a list of decisions ({error})", 400)


def carry_out(run: str, sent: Entries) -> Answer:
    """Carry out a tab's entries in order, each once even where it is sent again.

    All of them are checked before the first one is carried out.

    Raises:
        InputError: no such run.
        KeyError: no such verdict.
        IndexError: no such row or class.
        ValueError: a verdict that takes a label has none.
    """
    opened = review(run)
    decisions = [
        opened.decision(entry.row, entry.verdict, entry.label) if entry.kind == "decide" else None
        for entry in sent.entries
    ]
    if any(not 0 <= row < len(opened) for row in sent.shown):
        raise IndexError("shown: no such row")
    step: Step | None = None
    conflicts: list[int] = []
    decided_here: set[int] = set()
    with store(workspace()) as connection:
        for entry, decision in zip(sent.entries, decisions, strict=True):
            with transaction(connection):
                if not is_new(connection, entry.tab, entry.n):
                    continue
                if decision is None:
                    action = STEPS[entry.kind](connection, opened.dataset, current_user())
                    step = touched(connection, opened, entry.kind, action)
                    continue
                try:
                    opened.decide(connection, [decision], None if entry.row in decided_here else sent.head)
                    decided_here.add(entry.row)
                except Conflict:
                    conflicts.append(entry.row)
        opened.refresh(connection)
        last = head(connection, opened.dataset)
    rows = sorted({*conflicts, *sent.shown})
    changes = tuple((row, STATES[opened.verdict[row]], int(opened.label[row])) for row in rows)
    return Answer(last, changes, tuple(conflicts), step, opened.summary())


def touched(connection: sqlite3.Connection, opened: Review, kind: str, action: int | None) -> Step:
    """The images that an undo or redo touched."""
    images = [] if action is None else images_of(connection, action)
    rows = opened.ids.get_indexer(pd.Index(images[:1])).tolist() if images else []
    return Step(kind, len(images), images[0] if images else None, tuple(rows))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _refusal(reason: str, status: int) -> Response:
    return JSONResponse({"error": reason}, status)


ROUTES = [
    Route("/pictures/{name}/{row:int}", get_picture),
    Route("/runs/{run}/pictures/{row:int}", get_picture_of_run),
    Route("/evidence/{run}/{row:int}", get_evidence),
    Route("/decisions/{run}", post_decisions, methods=["POST"]),
]
