"""Plain HTTP beside Streamlit: pictures, the evidence on one image, and decisions.

Decisions take this way rather than a Streamlit rerun, so that a key press costs one small request and is
answered even while a page is being drawn.
"""

import sqlite3
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import msgspec
import pandas as pd
from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sharpeye.errors import InputError
from sharpeye.runs.decisions import Conflict, head, images_of, is_new, redo, undo
from sharpeye.runs.originals import original
from sharpeye.runs.pictures import picture
from sharpeye.runs.review import STATES, Review, ReviewSummary
from sharpeye.runs.store import store, transaction
from sharpeye.runs.team import add_class, people
from sharpeye_app.pictures import picture_url
from sharpeye_app.readers import review, workspace
from sharpeye_app.reviewer import is_signed

# Only a script of this app can send it: browsers do not let other sites' requests with such a header through.
OWN_HEADER = "x-sharpeye"
NOTE_LENGTH = 2000
BODY_BYTES = 2**20
# How long a request waits for other writers of the store.
STORE_SECONDS = 3.0
DECIDING_THREADS = 8
STEPS = {"undo": undo, "redo": redo}


@dataclass(frozen=True)
class Entry:
    """One thing that a user did in a tab.

    Attributes:
        tab: random name of the tab.
        n: number that only grows in the tab.
        kind: what was done.
        rows: of the scores, to decide, all by one action.
        verdict: to decide.
        label: class number, where the verdict takes one.
        note: to decide.
    """

    tab: str
    n: int
    kind: Literal["decide", "undo", "redo"]
    rows: tuple[int, ...] = ()
    verdict: str = ""
    label: int | None = None
    note: Annotated[str, msgspec.Meta(max_length=NOTE_LENGTH)] = ""


@dataclass(frozen=True)
class Entries:
    """What a tab sends.

    Attributes:
        who: whose tab it is.
        signature: of that name, see `sharpeye_app.reviewer`.
        blind: whether these are second opinions.
        head: the last action that the tab knows.
        shown: the rows that it shows.
        entries: what was done, in order.
    """

    who: str
    signature: str
    blind: bool
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
    """Evidence on one image, see `sharpeye.runs.review.Evidence`, with the addresses of images like it.

    These are trusted ones, or where there are none the surest of the training set.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    candidates: tuple[str, ...]
    scores: tuple[float, ...]
    near_labels: tuple[str, ...]
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
    return EvidenceAnswer(
        known.labels,
        known.probabilities,
        known.candidates,
        known.scores,
        known.near_labels,
        near_given,
        near_suggested,
        images.trusted,
    )


def get_original(request: Request) -> Response:
    """The file of an image as its source has it, or as PNG where browsers do not show its format."""
    try:
        opened, row = review(request.path_params["run"]), request.path_params["row"]
        if row >= len(opened):
            raise InputError(f"run {opened.run} has no image {row}")
        content, kind = original(workspace(), opened.run, int(opened.image_row[row]))
    except InputError as error:
        return _refusal(str(error), 404)
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


def get_classes(request: Request) -> Response:
    """A picture of each class: of the image whose given label is the surest; null where there is none."""
    try:
        opened = review(request.path_params["run"])
    except InputError as error:
        return _refusal(str(error), 404)
    surest = opened.surest_of_classes()
    return _json(
        [None if row < 0 else picture_url(opened.decoded, int(opened.image_row[row])) for row in surest]
    )


@dataclass(frozen=True)
class NewClass:
    """A class that a lead adds."""

    who: str
    signature: str
    name: str


async def post_class(request: Request) -> Response:
    """Add a class to the data set of a run; answers with all names."""
    if OWN_HEADER not in request.headers:
        return _refusal("not from this app", 403)
    try:
        wanted = msgspec.json.decode(await request.body(), type=NewClass)
        return await run_in_threadpool(_add_class, request.path_params["run"], wanted)
    except (InputError, msgspec.MsgspecError) as error:
        return _refusal(str(error), 400)


def _add_class(run: str, wanted: NewClass) -> Response:
    if not is_signed(wanted.who, wanted.signature):
        return _refusal("this name was not given by this app; load the page again", 403)
    opened = review(run)
    with store(workspace()) as connection:
        if people(connection).get(wanted.who) != "lead":
            return _refusal("only a lead adds classes", 403)
        add_class(connection, opened.dataset, wanted.name, opened.classes, wanted.who)
        opened.refresh(connection)
    return _json(opened.classes)


async def post_decisions(request: Request) -> Response:
    """Append decisions, undos and redos; answers with how the images shown stand now."""
    if OWN_HEADER not in request.headers:
        return _refusal("not from this app", 403)
    try:
        entries = msgspec.json.decode(await bounded_body(request), type=Entries)
        if not is_signed(entries.who, entries.signature):
            return _refusal("this name was not given by this app; load the page again", 403)
        run = request.path_params["run"]
        # Threads of their own, so that pictures never wait behind decisions.
        return _json(await to_thread.run_sync(carry_out, run, entries, limiter=deciding()))
    except TooLarge:
        return _refusal(f"more than {BODY_BYTES:,} bytes", 413)
    except InputError as error:
        return _refusal(str(error), 404)
    except (ValueError, KeyError, IndexError, RecursionError, OverflowError) as error:
        return _refusal(f"not a list of decisions ({error})", 400)
    except sqlite3.OperationalError as error:
        return _refusal(f"the store cannot take it now ({error})", 503)


class TooLarge(Exception):
    """A request's body has more than BODY_BYTES."""


async def bounded_body(request: Request) -> bytes:
    """The body of a request; raises TooLarge."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            raise TooLarge
    return bytes(body)


@cache
def deciding() -> CapacityLimiter:
    """How many decisions are taken at once."""
    return CapacityLimiter(DECIDING_THREADS)


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
        [opened.decision(row, entry.verdict, entry.label, entry.note) for row in sorted(set(entry.rows))]
        for entry in sent.entries
    ]
    if any(entry.kind == "decide" and not entry.rows for entry in sent.entries):
        raise ValueError("a decision on no image")
    if any(not 0 <= row < len(opened) for row in sent.shown):
        raise IndexError("shown: no such row")
    step: Step | None = None
    conflicts: list[int] = []
    decided_here: set[int] = set()
    with store(workspace(), STORE_SECONDS) as connection:
        # All or nothing: what is sent again was never half done.
        with transaction(connection):
            for entry, made in zip(sent.entries, decisions, strict=True):
                if not is_new(connection, entry.tab, entry.n):
                    continue
                if entry.kind != "decide":
                    action = STEPS[entry.kind](connection, opened.dataset, sent.who)
                    step = touched(connection, opened, entry.kind, action)
                    continue
                known = None if sent.blind or decided_here.issuperset(entry.rows) else sent.head
                try:
                    opened.decide(connection, made, sent.who, known, sent.blind)
                    decided_here.update(entry.rows)
                except Conflict:
                    conflicts.extend(entry.rows)
        opened.refresh(connection)
        last = head(connection, opened.dataset)
        summary = opened.summary(connection, sent.who)
        own = opened.second_opinions(connection, sent.who) if sent.blind else None
    rows = sorted({*conflicts, *sent.shown})
    changes = tuple((row, *state_of(opened, row, own)) for row in rows)
    return Answer(last, changes, tuple(conflicts), step, summary)


def state_of(opened: Review, row: int, own: dict[int, tuple[int, int]] | None) -> tuple[str, int]:
    """How an image stands: its verdict and label; in a view for second opinions, the person's own."""
    verdict, label = (
        (int(opened.verdict[row]), int(opened.label[row])) if own is None else own.get(row, (0, -1))
    )
    return STATES[verdict], label


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
    Route("/originals/{run}/{row:int}", get_original),
    Route("/classes/{run}", get_classes),
    Route("/classes/{run}", post_class, methods=["POST"]),
    Route("/decisions/{run}", post_decisions, methods=["POST"]),
]
