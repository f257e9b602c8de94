import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpeye.errors import InputError
from sharpeye.runs import team
from sharpeye.runs.decisions import Decision, blind_decisions, current_decisions, decide, redo, undo
from sharpeye.runs.store import store
from sharpeye.runs.workspace import open_workspace


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with store(open_workspace(str(tmp_path))) as opened:
        yield opened


def label(connection: sqlite3.Connection, who: str, image: str, to: str | None, blind: bool = False) -> None:
    verdict = "keep" if to == "ant" else "relabel" if to else "ambiguous"
    decide(connection, "d", "r", who, [Decision(image, verdict, "ant", to)], blind=blind)


def test_who_comes_first_leads_and_one_lead_stays(connection: sqlite3.Connection) -> None:
    assert [team.join(connection, name) for name in ("ann", "bob", "ann")] == ["lead", "reviewer", "lead"]
    with pytest.raises(InputError, match="one person at least leads"):
        team.set_role(connection, "ann", "reviewer")
    assert team.people(connection) == {"ann": "lead", "bob": "reviewer"}
    team.set_role(connection, "bob", "lead")
    team.set_role(connection, "ann", "reviewer")
    with pytest.raises(InputError, match="nobody is called 'eve'"):
        team.set_role(connection, "eve", "lead")


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x00b", "a\u202eb"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InputError, match="a name has"):
        team.valid_name(name)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 4))
def test_shares_are_even_up_to_the_largest_group_and_keep_groups_whole(
    groups: list[int], people: int
) -> None:
    names = [f"p{number}" for number in range(people)]
    shares = team.share_out(groups, names)
    assert len({*zip(groups, shares, strict=True)}) == len({*groups})
    load = [shares.count(name) for name in names]
    assert max(load) - min(load) <= max(map(groups.count, groups))


def test_an_assignment_takes_the_place_of_the_last(connection: sqlite3.Connection) -> None:
    team.assign(connection, "d", ["a", "b"], ["ann", "bob"])
    team.assign(connection, "d", ["a"], ["bob"])
    team.assign(connection, "d", ["a"], ["ann"], blind=True)
    table = team.assigned(connection, "d").sort_values(["image", "blind"])
    assert table.to_numpy().tolist() == [["a", "bob", False], ["a", "ann", True], ["b", "bob", False]]


def test_second_opinions_are_of_somebody_else() -> None:
    seconds = team.second_opinions_from(["ann", "bob", "cy"], ["ann", "bob", "cy", None] * 25, seed=0)
    assert all(
        second != first for second, first in zip(seconds, ["ann", "bob", "cy", None] * 25, strict=True)
    )
    assert max(map(seconds.count, seconds)) - min(map(seconds.count, seconds)) <= 2


def test_a_blind_opinion_changes_nothing_and_is_undone_by_its_own_author(
    connection: sqlite3.Connection,
) -> None:
    label(connection, "ann", "a", "bee")
    known = connection.execute("SELECT max(seq) FROM actions").fetchone()[0]
    label(connection, "bob", "a", "ant", blind=True)
    assert current_decisions(connection, "d")["to_label"].tolist() == ["bee"]
    assert blind_decisions(connection, "d")[["image", "who", "to_label"]].to_numpy().tolist() == [
        ["a", "bob", "ant"]
    ]
    # Whoever decides next does not run into it.
    decide(connection, "d", "r", "ann", [Decision("a", "keep", "ant", "ant")], known_up_to=known)
    undo(connection, "d", "ann")
    assert team.disagreements(connection, "d") == ["a"]
    undo(connection, "d", "bob")
    assert blind_decisions(connection, "d").empty
    assert team.disagreements(connection, "d") == []
    redo(connection, "d", "bob")
    assert len(blind_decisions(connection, "d")) == 1


def test_a_disagreement_is_settled_by_the_next_decision(connection: sqlite3.Connection) -> None:
    for image, first, second in (
        ("a", "bee", "bee"),
        ("b", "bee", "ant"),
        ("c", None, "ant"),
        ("e", "ant", None),
    ):
        label(connection, "ann", image, first)
        label(connection, "bob", image, second, blind=True)
    assert team.disagreements(connection, "d") == ["b", "c", "e"]
    label(connection, "lea", "b", "ant")
    assert team.disagreements(connection, "d") == ["c", "e"]


def test_agreement_by_hand(connection: sqlite3.Connection) -> None:
    both = pd.DataFrame(
        {
            "from_label": ["ant", "ant", "bee", "bee"],
            "first": ["x", "x", "y", "y"],
            "second": ["x", "y", "y", "y"],
            "first_by": ["ann", "ann", "bob", "bob"],
            "second_by": ["bob", "bob", "ann", "cy"],
        }
    )
    [everything] = team.agreement(both).to_dict("records")
    # p_o = 3/4; p_e = 1/2 · 1/4 + 1/2 · 3/4 = 1/2.
    assert everything == {"": "all", "opinions": 4, "agree": 0.75, "kappa": pytest.approx(0.5)}
    by_label = team.agreement(both, "from_label").set_index("")
    assert by_label["agree"].to_dict() == {"ant": 0.5, "bee": 1.0}
    assert np.isnan(by_label.loc["bee", "kappa"])
    assert team.agreement(both, "pair").set_index("")["opinions"].to_dict() == {
        "ann and bob": 3,
        "bob and cy": 1,
    }


def test_progress_and_known_answers(connection: sqlite3.Connection) -> None:
    team.join(connection, "ann")
    team.assign(connection, "d", ["a", "b", "c"], ["bob", "bob", "bob"])
    team.assign(connection, "d", ["z"], ["bob"], blind=True)
    label(connection, "ann", "z", "bee")
    assert team.set_gold(connection, "d", ["z", "missing"], "ann") == 1
    label(connection, "bob", "a", "ant")
    label(connection, "bob", "z", "ant", blind=True)
    rows = team.progress(connection, "d").set_index("name")
    assert rows.loc["bob", ["assigned", "still open", "decided", "second opinions", "today"]].tolist() == [
        4,
        2,
        1,
        1,
        2,
    ]
    assert rows.loc["bob", ["known answers", "right"]].tolist() == [1, 0.0]
    assert rows.loc["ann", "role"] == "lead"


def test_a_pause_is_no_work() -> None:
    assert team.pace(np.array([0.0, 2.0, 4.0, 1000.0, 1002.0])) == 30.0
    assert np.isnan(team.pace(np.array([1.0])))


def test_classes_are_added_once(connection: sqlite3.Connection) -> None:
    team.add_class(connection, "d", " wasp ", ["ant", "bee"], "ann")
    team.add_class(connection, "d", "wasp", ["ant", "bee"], "ann")
    assert team.added_classes(connection, "d") == ["wasp"]
    with pytest.raises(InputError, match="'ant' is a class already"):
        team.add_class(connection, "d", "ant", ["ant", "bee"], "ann")
