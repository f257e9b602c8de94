import io
import json
import sqlite3
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
from sharpeye.runs.team import join
from sharpeye_app import readers, routes
from sharpeye_app.reviewer import signature
from sharpeye_app.routes import OWN_HEADER, ROUTES
from tests.app.conftest import forget


@pytest.fixture
def client(review: Review) -> TestClient:
    return TestClient(Starlette(routes=ROUTES))


def entry(n: int, row: int, verdict: str = "accept", **more: Any) -> dict[str, Any]:
    return {"n": n, "kind": "decide", "rows": [row], "verdict": verdict, **more}


def signed(who: str = "ann", blind: bool = False) -> dict[str, Any]:
    return {"who": who, "signature": signature(who), "blind": blind, "head": 0, "shown": [], "entries": []}


def send(
    client: TestClient,
    review: Review,
    entries: list[dict[str, Any]],
    head: int = 0,
    tab: str = "one",
    **more: Any,
) -> dict[str, Any]:
    body = {
        **signed(**more),
        "head": head,
        "entries": [{"tab": tab, **e} for e in entries],
        "shown": [row for e in entries for row in e.get("rows", ())],
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
    first = int(np.argmax(review.suggested != review.given))
    same = int(np.argmax(review.suggested == review.given))
    free = sorted({*range(20)} - {first, same})[:4]
    other = (int(review.given[free[1]]) + 1) % 10
    made = [
        (first, "accept", None, "accept", int(review.suggested[first])),
        (free[0], "keep", None, "keep", int(review.given[free[0]])),
        (free[1], "relabel", other, "relabel", other),
        (free[2], "bad image", None, "bad image", -1),
        # To accept or choose the given label is to keep it.
        (same, "accept", None, "keep", int(review.given[same])),
        (free[3], "relabel", int(review.given[free[3]]), "keep", int(review.given[free[3]])),
    ]
    entries = [entry(n, row, verdict, label=label) for n, (row, verdict, label, *_) in enumerate(made)]
    answer = send(client, review, entries)
    assert answer["changes"] == sorted([row, kept, label] for row, _, _, kept, label in made)
    assert answer["summary"]["decided"] == 6
    row = max(same, first, *free) + 1
    again = send(client, review, [*entries, entry(6, row, "skip")])
    assert again["summary"]["decided"] == 7
    kept = [*((row, kept) for row, _, _, kept, _ in made), (row, "skip")]
    assert log(review) == [(str(review.ids[row]), verdict) for row, verdict in kept]


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
    second = send(client, review, [entry(1, 0, "skip"), entry(2, 1, "skip")], tab="two")
    assert second["conflicts"] == [0]
    assert second["changes"][0] == [0, "keep", int(review.given[0])]
    third = send(client, review, [entry(3, 0, "skip")], head=second["head"], tab="two")
    assert third["conflicts"] == []
    assert third["head"] > second["head"] > first["head"]


def sending(*entries: dict[str, Any], shown: Sequence[int] = ()) -> bytes:
    numbered = [{"tab": "x", "n": n, "kind": "decide", **one} for n, one in enumerate(entries)]
    return json.dumps({"shown": list(shown), "entries": numbered}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        sending({"rows": [9999], "verdict": "accept"}),
        sending({"rows": [-1], "verdict": "accept"}),
        sending({"rows": [0], "verdict": "nonsense"}),
        sending({"rows": [0], "verdict": "relabel", "label": 99}),
        sending({"rows": [0], "verdict": "relabel", "label": -1}),
        sending({"rows": [0], "verdict": "relabel"}),
        sending({"rows": [0], "verdict": "accept"}, {"rows": [1], "verdict": "nonsense"}),
        sending({"rows": [0], "verdict": "accept"}, shown=[9999]),
        sending({"rows": [0], "verdict": "accept", "kind": "nonsense"}),
        sending({"rows": [], "verdict": "accept"}),
        sending({"rows": [0], "verdict": "accept", "note": "x" * 2001}),
        sending({"rows": [2**70], "verdict": "accept"}),
    ],
)
def test_nonsense_is_refused_and_leaves_no_trace(client: TestClient, review: Review, body: bytes) -> None:
    if body.startswith(b"{"):
        body = json.dumps(signed() | json.loads(body)).encode()
    answer = client.post(f"/decisions/{review.run}", content=body, headers={OWN_HEADER: "1"})
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert log(review) == []


def test_other_sites_cannot_decide(client: TestClient, review: Review) -> None:
    assert client.post(f"/decisions/{review.run}", json=signed()).status_code == 403
    own = {OWN_HEADER: "1"}
    assert client.post("/decisions/nosuchrun", json=signed(), headers=own).status_code == 404


def test_nobody_decides_under_a_name_that_no_page_gave_them(client: TestClient, review: Review) -> None:
    body = signed("ann") | {"who": "bob", "entries": [{"tab": "x", **entry(1, 0)}]}
    assert client.post(f"/decisions/{review.run}", json=body, headers={OWN_HEADER: "1"}).status_code == 403
    assert log(review) == []


def test_everybody_undoes_their_own(client: TestClient, review: Review) -> None:
    send(client, review, [entry(1, 0)], tab="a", who="ann")
    send(client, review, [entry(1, 1)], tab="b", who="bob")
    answer = send(client, review, [{"n": 2, "kind": "undo"}], tab="a", who="ann")
    assert answer["step"]["first"] == str(review.ids[0])
    assert send(client, review, [{"n": 3, "kind": "undo"}], tab="a", who="ann")["step"]["count"] == 0
    assert send(client, review, [{"n": 2, "kind": "undo"}], tab="b", who="bob")["step"]["count"] == 1


def test_second_opinions_are_blind_and_change_nothing(client: TestClient, review: Review) -> None:
    send(client, review, [entry(1, 0, "relabel", label=4)], tab="a", who="ann")
    answer = send(client, review, [entry(1, 0, "skip"), entry(2, 1, "keep")], tab="b", who="bob", blind=True)
    assert answer["conflicts"] == []
    assert answer["changes"] == [[0, "skip", -1], [1, "keep", int(review.given[1])]]
    assert answer["summary"]["decided"] == 1
    assert send(client, review, [{"n": 3, "kind": "undo"}], tab="b", who="bob", blind=True)["step"][
        "rows"
    ] == [1]


def test_many_are_decided_by_one_action_with_a_note_on_it(client: TestClient, review: Review) -> None:
    rows = [row for row in range(20) if review.suggested[row] != review.given[row]][:3]
    send(client, review, [entry(1, 0) | {"rows": rows, "note": "all alike"}])
    with store(readers.workspace()) as connection:
        table = read_log(connection, review.dataset)
    assert table["seq"].nunique() == 1
    assert table["verdict"].tolist() == ["accept"] * 3
    assert table["note"].tolist() == ["all alike"] * 3
    assert send(client, review, [{"n": 2, "kind": "undo"}])["step"]["count"] == 3


def test_a_lead_adds_a_class_that_everybody_can_choose(client: TestClient, review: Review) -> None:
    body = {"who": "ann", "signature": signature("ann"), "name": "wasp"}
    place, own = f"/classes/{review.run}", {OWN_HEADER: "1"}
    assert client.post(place, json=body, headers=own).status_code == 403
    with store(readers.workspace()) as connection:
        join(connection, "ann")
    assert client.post(place, json=body, headers=own).json()[-1] == "wasp"
    assert client.post(place, json=body | {"name": "class 1"}, headers=own).status_code == 400
    number = len(review.classes) - 1
    answer = send(client, review, [entry(1, 0, "relabel", label=number)])
    assert answer["changes"] == [[0, "relabel", number]]
    pictures = client.get(place).json()
    assert len(pictures) == number + 1
    assert pictures[number] is None
    assert pictures[0].startswith(f"/pictures/{review.decoded}/")


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
    scores, probabilities = evidence["scores"], evidence["probabilities"]
    assert scores == sorted(scores)
    assert len(scores) == len(evidence["candidates"]) == len(review.classes)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert len(evidence["near_labels"]) == 20
    assert evidence["near_given"] == [f"/pictures/{review.decoded}/{number}" for number in range(4)]
    assert client.get(f"/evidence/{review.run}/999999").status_code == 404


def test_evidence_suggestion_and_button_agree(client: TestClient, review: Review) -> None:
    """The bars' first label is the suggestion, and their share of the given one is 1 − P(wrong)."""
    for row in range(60):
        evidence = client.get(f"/evidence/{review.run}/{row}").json()
        assert evidence["labels"][0] == review.classes[review.suggested[row]]
        given = evidence["labels"].index(review.classes[review.given[row]])
        assert 1 - evidence["probabilities"][given] == pytest.approx(float(review.wrong[row]), abs=1e-5)
        assert evidence["probabilities"][0] == pytest.approx(float(review.confidence[row]), abs=1e-5)


def test_a_body_that_is_too_large_is_refused(client: TestClient, review: Review) -> None:
    body = json.dumps(signed() | {"entries": [{"tab": "x" * 2**20, **entry(1, 0)}]})
    answer = client.post(f"/decisions/{review.run}", content=body, headers={OWN_HEADER: "1"})
    assert answer.status_code == 413
    assert log(review) == []


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"entries": ' + b"[" * 100_000, b"\xff\xfe"])
def test_deep_and_binary_bodies_are_refused(client: TestClient, review: Review, body: bytes) -> None:
    answer = client.post(f"/decisions/{review.run}", content=body, headers={OWN_HEADER: "1"})
    assert answer.status_code == 400


def test_a_store_that_is_busy_or_full_says_so_and_takes_the_same_later(
    client: TestClient, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "STORE_SECONDS", 0.2)
    body = signed() | {"entries": [{"tab": "x", **entry(n, n, "skip")} for n in range(3)]}
    with store(readers.workspace()) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post(f"/decisions/{review.run}", json=body, headers={OWN_HEADER: "1"})
        other.execute("ROLLBACK")
    assert answer.status_code == 503
    assert "locked" in answer.json()["error"]
    real = review.decide
    calls = 0

    def full(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise sqlite3.OperationalError("database or disk is full")
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Review, "decide", lambda self, *arguments: full(*arguments))
        answer = client.post(f"/decisions/{review.run}", json=body, headers={OWN_HEADER: "1"})
    assert (answer.status_code, "disk is full" in answer.text) == (503, True)
    # A batch is stored or not, never half.
    assert log(review) == []
    assert client.post(f"/decisions/{review.run}", json=body, headers={OWN_HEADER: "1"}).status_code == 200
    assert len(log(review)) == 3
