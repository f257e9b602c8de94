import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from sharpeye.data.previews import open_previews
from sharpeye.runs.decisions import read_log
from sharpeye.runs.review import Review
from sharpeye.runs.store import store
from sharpeye_app import readers
from sharpeye_app.routes import OWN_HEADER, ROUTES
from tests.app.conftest import forget


@pytest.fixture
def client(review: Review) -> TestClient:
    return TestClient(Starlette(routes=ROUTES))


def entry(n: int, row: int, verdict: str = "accept", **more: Any) -> dict[str, Any]:
    return {"n": n, "kind": "decide", "row": row, "verdict": verdict, **more}


def send(
    client: TestClient, review: Review, entries: list[dict[str, Any]], head: int = 0, tab: str = "one"
) -> dict[str, Any]:
    body = {
        "head": head,
        "entries": [{"tab": tab, **e} for e in entries],
        "shown": [e["row"] for e in entries if "row" in e],
    }
    answer = client.post(f"/decisions/{review.run}", json=body, headers={OWN_HEADER: "1"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def log(review: Review) -> list[tuple[str, str]]:
    with store(readers.workspace()) as connection:
        return list(
            read_log(connection, review.dataset)[["image", "verdict"]].itertuples(index=False, name=None)
        )


def test_decisions_are_taken_in_order_and_once(client: TestClient, review: Review) -> None:
    entries = [entry(1, 0), entry(2, 1, "keep"), entry(3, 2, "relabel", label=4), entry(4, 3, "skip")]
    answer = send(client, review, entries)
    assert answer["changes"] == [
        [0, "accept", review.suggested[0]],
        [1, "keep", review.given[1]],
        [2, "relabel", 4],
        [3, "skip", -1],
    ]
    assert answer["summary"]["decided"] == 4
    again = send(client, review, [*entries, entry(5, 4)])
    assert again["summary"]["decided"] == 5
    assert log(review) == [
        (str(review.ids[row]), e["verdict"]) for row, e in enumerate([*entries, entry(5, 4)])
    ]


def test_undo_and_redo(client: TestClient, review: Review) -> None:
    send(client, review, [entry(1, 0)])
    answer = send(client, review, [{"n": 2, "kind": "undo"}])
    assert answer["summary"]["decided"] == 0
    assert answer["step"] == {"kind": "undo", "count": 1, "first": str(review.ids[0]), "rows": [0]}
    answer = send(client, review, [{"n": 3, "kind": "redo"}])
    assert answer["summary"]["decided"] == 1
    assert answer["step"]["kind"] == "redo"
    assert send(client, review, [{"n": 4, "kind": "redo"}])["step"]["count"] == 0


def test_an_undo_sent_again_after_a_restart_takes_back_nothing_more(
    client: TestClient, review: Review
) -> None:
    send(client, review, [entry(1, 0), entry(2, 1)])
    undo = [{"n": 3, "kind": "undo"}]
    assert send(client, review, undo)["summary"]["decided"] == 1
    forget()  # as after a restart, nothing of the tab is in memory
    assert send(client, review, undo)["summary"]["decided"] == 1
    assert send(client, review, undo, tab="two")["summary"]["decided"] == 0


def test_what_another_tab_decided_is_not_overruled_unseen(client: TestClient, review: Review) -> None:
    first = send(client, review, [entry(1, 0, "keep")], tab="one")
    second = send(client, review, [entry(1, 0, "accept"), entry(2, 1, "accept")], tab="two")
    assert second["conflicts"] == [0]
    assert second["changes"][0] == [0, "keep", int(review.given[0])]
    third = send(client, review, [entry(3, 0, "accept")], head=second["head"], tab="two")
    assert third["conflicts"] == []
    assert third["head"] > second["head"] > first["head"]


def sending(*entries: dict[str, Any], shown: Sequence[int] = ()) -> bytes:
    numbered = [{"tab": "x", "n": n, "kind": "decide", **one} for n, one in enumerate(entries)]
    return json.dumps({"head": 0, "shown": list(shown), "entries": numbered}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        sending({"row": 9999, "verdict": "accept"}),
        sending({"row": -1, "verdict": "accept"}),
        sending({"row": 0, "verdict": "nonsense"}),
        sending({"row": 0, "verdict": "relabel", "label": 99}),
        sending({"row": 0, "verdict": "relabel", "label": -1}),
        sending({"row": 0, "verdict": "relabel"}),
        sending({"row": 0, "verdict": "accept"}, {"row": 1, "verdict": "nonsense"}),
        sending({"row": 0, "verdict": "accept"}, shown=[9999]),
        sending({"row": 0, "verdict": "accept", "kind": "nonsense"}),
    ],
)
def test_nonsense_is_refused_and_leaves_no_trace(client: TestClient, review: Review, body: bytes) -> None:
    answer = client.post(f"/decisions/{review.run}", content=body, headers={OWN_HEADER: "1"})
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert log(review) == []


def test_other_sites_cannot_decide(client: TestClient, review: Review) -> None:
    assert client.post(f"/decisions/{review.run}", json={"entries": []}).status_code == 403
    assert (
        client.post(
            "/decisions/nosuchrun", json={"head": 0, "entries": [], "shown": []}, headers={OWN_HEADER: "1"}
        ).status_code
        == 404
    )


def test_pictures_come_by_number_only(client: TestClient, review: Review) -> None:
    answer = client.get(f"/runs/{review.run}/pictures/7")
    assert answer.status_code == 200
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    pixels, _ = open_previews(readers.workspace().decoded / review.decoded)
    assert (shown == pixels[review.image_row[7]]).all()
    for path in (
        f"/runs/{review.run}/pictures/999999",
        "/runs/nosuchrun/pictures/0",
        f"/pictures/{review.decoded}/999999",
        "/pictures/..%2f..%2fetc/0",
        "/pictures/0123456789abcdef/0",
    ):
        assert client.get(path).status_code == 404, path


def test_evidence(client: TestClient, review: Review) -> None:
    row = 5
    evidence = client.get(f"/evidence/{review.run}/{row}").json()
    scores = evidence["scores"]
    assert scores == sorted(scores)
    assert len(scores) == len(evidence["labels"]) == len(review.classes)
    assert evidence["near_given"] == [f"/pictures/{review.decoded}/{number}" for number in range(4)]
    assert client.get(f"/evidence/{review.run}/999999").status_code == 404
