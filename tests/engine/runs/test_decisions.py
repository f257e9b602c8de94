import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharpeye.errors import InputError
from sharpeye.runs.decisions import (
    Conflict,
    Decision,
    current_decisions,
    decide,
    earlier_decisions,
    head,
    read_log,
    redo,
    undo,
    write_log,
)
from sharpeye.runs.store import MIGRATIONS, register_dataset, store
from sharpeye.runs.workspace import open_workspace


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with store(open_workspace(str(tmp_path / "ws"))) as opened:
        yield opened


def accept(*images: str, to: str = "cat") -> list[Decision]:
    return [Decision(image, "accept", "dog", to) for image in images]


def state(connection: sqlite3.Connection, dataset: str = "d") -> dict[str, str]:
    return current_decisions(connection, dataset).set_index("image")["to_label"].to_dict()


def test_the_last_decision_counts_and_undo_brings_the_earlier_one_back(
    connection: sqlite3.Connection,
) -> None:
    decide(connection, "d", "r", "me", accept("a", "b"))
    decide(connection, "d", "r", "me", accept("a", to="cow"))
    assert state(connection) == {"a": "cow", "b": "cat"}
    undo(connection, "d", "me")
    assert state(connection) == {"a": "cat", "b": "cat"}
    undo(connection, "d", "me")
    assert state(connection) == {}
    assert undo(connection, "d", "me") is None
    redo(connection, "d", "me")
    assert state(connection) == {"a": "cat", "b": "cat"}
    redo(connection, "d", "me")
    assert state(connection) == {"a": "cow", "b": "cat"}
    assert redo(connection, "d", "me") is None


def test_decisions_made_before_the_files_changed(connection: sqlite3.Connection) -> None:
    for dataset, source in (("old", "photos"), ("newer", "photos"), ("d", "photos"), ("other", "scans")):
        register_dataset(connection, dataset, source, {})
    decide(connection, "old", "r", "me", accept("a", "b"))
    decide(connection, "newer", "r", "me", accept("a", to="cow"))
    decide(connection, "newer", "r", "me", accept("b", to="cow"))
    undo(connection, "newer", "me")
    decide(connection, "other", "r", "me", accept("c"))
    decide(connection, "d", "r", "me", accept("d"))
    assert earlier_decisions(connection, "d").set_index("image")["to_label"].to_dict() == {
        "a": "cow",
        "b": "cat",
    }
    assert state(connection) == {"d": "cat"}


def test_a_new_decision_ends_redo(connection: sqlite3.Connection) -> None:
    decide(connection, "d", "r", "me", accept("a"))
    undo(connection, "d", "me")
    decide(connection, "d", "r", "me", accept("b"))
    assert redo(connection, "d", "me") is None
    assert state(connection) == {"b": "cat"}


def test_undo_takes_back_one_s_own(connection: sqlite3.Connection) -> None:
    decide(connection, "d", "r", "me", accept("a"))
    decide(connection, "d", "r", "you", accept("b"))
    decide(connection, "other", "r", "me", accept("c"))
    undo(connection, "d", "me")
    assert state(connection) == {"b": "cat"}
    assert state(connection, "other") == {"c": "cat"}


def test_two_tabs_do_not_overwrite_each_other_silently(connection: sqlite3.Connection) -> None:
    last = head(connection, "d")
    decide(connection, "d", "r", "me", accept("a"), last)
    with pytest.raises(Conflict) as caught:
        decide(connection, "d", "r", "me", accept("a", "b", to="cow"), last)
    assert caught.value.images == ["a"]
    assert state(connection) == {"a": "cat"}
    decide(connection, "d", "r", "me", accept("b", to="cow"), last)
    decide(connection, "d", "r", "me", accept("a", to="cow"), head(connection, "d"))
    assert state(connection) == {"a": "cow", "b": "cow"}


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("decide"),
            st.lists(st.sampled_from("abcd"), min_size=1, unique=True),
            st.sampled_from(["x", "y", "z"]),
        ),
        st.just(("undo",)),
        st.just(("redo",)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions)
def test_log_follows_a_model_and_survives_a_round_trip(
    connection: sqlite3.Connection, steps: list[tuple]
) -> None:
    dataset = f"d{connection.execute('SELECT count(*) FROM actions').fetchone()[0]}-{id(steps)}"
    done: list[tuple] = []
    undone: list[tuple] = []
    for step in steps:
        if step[0] == "decide":
            decide(connection, dataset, "r", "me", accept(*step[1], to=step[2]))
            done, undone = [*done, step], []
        elif step[0] == "undo":
            assert (undo(connection, dataset, "me") is not None) == bool(done)
            if done:
                undone.append(done.pop())
        else:
            assert (redo(connection, dataset, "me") is not None) == bool(undone)
            if undone:
                done.append(undone.pop())
        assert state(connection, dataset) == {image: step[2] for step in done for image in step[1]}
    log = read_log(connection, dataset)
    write_log(connection, f"{dataset}-copy", log)
    copy = read_log(connection, f"{dataset}-copy")
    pd.testing.assert_frame_equal(copy.drop(columns=["seq", "target"]), log.drop(columns=["seq", "target"]))
    assert state(connection, f"{dataset}-copy") == state(connection, dataset)


def test_a_log_that_makes_no_sense_is_refused_whole(connection: sqlite3.Connection) -> None:
    decide(connection, "d", "r", "me", accept("a"))
    undo(connection, "d", "me")
    log = read_log(connection, "d")
    log.loc[1, "target"] = 99
    with pytest.raises(InputError, match="makes no sense"):
        write_log(connection, "copy", log)
    assert read_log(connection, "copy").empty


def test_decisions_of_an_earlier_version_keep_their_meaning(tmp_path: Path) -> None:
    """A store and a log that still call the verdict `reject`."""
    workspace = open_workspace(str(tmp_path))
    with closing(sqlite3.connect(workspace.database)) as earlier, earlier:
        earlier.executescript(";".join(MIGRATIONS[:2]))
        earlier.execute("PRAGMA user_version = 2")
        earlier.execute(
            "INSERT INTO actions (at, who, dataset, run, kind) VALUES (1, 'me', 'd', 'run', 'decide')"
        )
        earlier.execute("INSERT INTO decisions VALUES (1, 'a', 'reject', 'ant', 'ant')")
    with store(workspace) as migrated:
        assert current_decisions(migrated, "d")["verdict"].tolist() == ["keep"]
        log = read_log(migrated, "d").assign(verdict="reject")
        assert write_log(migrated, "other", log) == 1
        assert current_decisions(migrated, "other")["verdict"].tolist() == ["keep"]
