"""Plain HTTP beside Streamlit: pictures, the evidence on one image, and decisions.

Decisions take this way rather than a Streamlit rerun, so that a key press costs one small request and is answered even
while a page is being drawn.
"""

import getpass
import sqlite3
import threading
from collections import OrderedDict
from typing import Any

import pandas as pd
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from app.readers import STATES, Review, picture, picture_url, review, workspace
from engine.errors import InputError
from engine.runs.decisions import Conflict, head, images_of, redo, undo
from engine.runs.store import store

# Only a script of this app can send it: other sites' requests with such a header are not let through by the browser.
OWN_HEADER = "x-sharpeye"
TABS_REMEMBERED = 1000
STEPS = {"undo": undo, "redo": redo}

_last_of_tab: "OrderedDict[str, int]" = OrderedDict()
_lock = threading.Lock()


def get_picture(request: Request) -> Response:
    """An image by dataset and row."""
    try:
        content, kind = picture(request.path_params["name"], request.path_params["row"])
    except InputError as error:
        return JSONResponse({"error": str(error)}, 404)
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=31536000, immutable"})


def get_picture_of_run(request: Request) -> Response:
    """An image by run and row of its scores."""
    try:
        found, row = review(request.path_params["run"]), request.path_params["row"]
        if row >= len(found):
            raise InputError(f"run {found.run} has no image {row}")
    except InputError as error:
        return JSONResponse({"error": str(error)}, 404)
    return RedirectResponse(picture_url(found.decoded, int(found.image_row[row])))


def get_evidence(request: Request) -> Response:
    """What speaks for and against an image's label: candidate scores, and the nearest trusted images."""
    try:
        return JSONResponse(evidence(review(request.path_params["run"]), request.path_params["row"]))
    except InputError as error:
        return JSONResponse({"error": str(error)}, 404)


def evidence(found: Review, row: int) -> dict[str, Any]:
    """Evidence on one row of a run's scores.

    Raises:
        InputError: no such row.
    """
    detail = found.row_details(row, found.folder.scores, ["candidate_classes", "candidate_scores"])
    pairs = sorted(zip(detail["candidate_scores"], detail["candidate_classes"], strict=True))
    result: dict[str, Any] = {"candidates": [{"label": label, "score": float(score)} for score, label in pairs]}
    if found.folder.embedding.exists():
        near = found.row_details(row, found.folder.embedding, ["near_given", "near_suggested"])
        name = found.result["images"]["validation"]
        for key in near:
            result[key] = [picture_url(name, number) for number in near[key] if number >= 0]
    return result


async def post_decisions(request: Request) -> Response:
    """Append decisions, undos and redos; answers with how the images shown stand now."""
    if OWN_HEADER not in request.headers:
        return JSONResponse({"error": "not from this app"}, 403)
    try:
        body = await request.json()
        return JSONResponse(await run_in_threadpool(take, request.path_params["run"], body))
    except InputError as error:
        return JSONResponse({"error": str(error)}, 404)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return JSONResponse({"error": f"not a list of decisions ({error})"}, 400)


def take(run: str, body: dict[str, Any]) -> dict[str, Any]:
    """Carry out a tab's entries in order, each once even where it is sent again.

    Args:
        run: whose suggestions were looked at.
        body: `seen`, the last action the tab knows; `shown`, the rows it shows; `entries`, each with its `tab` and a number `n`
            that only grows there, a `kind` (decide, undo, redo), and for decide a `row`, a `verdict` and, to relabel, a `label`
            (class number).

    Returns:
        `seen`; `changes`, [row, verdict, label] of every row shown; `conflicts`, rows that another tab decided
        meanwhile and that were left alone; `stepped`, what the last undo or redo touched; `summary`.

    Raises:
        InputError: no such run.
    """
    found = review(run)
    known = int(body["seen"])
    stepped: dict[str, Any] | None = None
    conflicts: list[int] = []
    here: set[int] = set()
    who = getpass.getuser()
    with _lock, store(workspace()) as connection:
        for entry in body["entries"]:
            tab = str(entry["tab"])
            if entry["n"] <= _last_of_tab.get(tab, -1):
                continue
            if entry["kind"] == "decide":
                row = int(entry["row"])
                if not 0 <= row < len(found):
                    raise IndexError(f"row {row}")
                decision = found.decision(row, entry["verdict"], entry.get("label"))
                try:
                    found.decide(connection, [decision], None if row in here else known)
                    here.add(row)
                except Conflict:
                    conflicts.append(row)
            elif entry["kind"] in STEPS:
                action = STEPS[entry["kind"]](connection, found.dataset, who)
                stepped = {"kind": entry["kind"], **touched(connection, found, action)}
            _last_of_tab[tab] = int(entry["n"])
            _last_of_tab.move_to_end(tab)
        while len(_last_of_tab) > TABS_REMEMBERED:
            _last_of_tab.popitem(last=False)
        found.refresh(connection)
        seen = head(connection, found.dataset)
    rows = sorted({*conflicts, *(int(row) for row in body["shown"])})
    changes = [[row, STATES[found.verdict[row]], int(found.label[row])] for row in rows]
    return {"seen": seen, "changes": changes, "conflicts": conflicts, "stepped": stepped, "summary": found.summary()}


def touched(connection: sqlite3.Connection, found: Review, action: int | None) -> dict[str, Any]:
    """The images of an action: their `count`, the `first` one's id, and its row here."""
    images = [] if action is None else images_of(connection, action)
    rows = found.ids.get_indexer(pd.Index(images[:1])).tolist() if images else []
    return {"count": len(images), "first": images[0] if images else None, "rows": rows}


ROUTES = [
    Route("/pictures/{name}/{row:int}", get_picture),
    Route("/runs/{run}/pictures/{row:int}", get_picture_of_run),
    Route("/evidence/{run}/{row:int}", get_evidence),
    Route("/decisions/{run}", post_decisions, methods=["POST"]),
]
