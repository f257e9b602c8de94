"""A person's decisions: an append-only log of actions, folded into the current state.

An action decides one image or many at once. Undo and redo are actions too, which target an earlier one;
nothing is ever changed or removed.
"""

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sharpeye.errors import InputError
from sharpeye.runs.store import transaction


@dataclass(frozen=True)
class Verdict:
    """What a verdict means.

    Attributes:
        gives: which label the image then has: the `suggested`, the `given` or a `chosen` one; `none` leaves
            the given one, undecided.
        badge: what a card shows beside the label that the image gets.
        title: for people.
        key: that decides so.
        excludes: whether the image is left out of the cleaned copy.
    """

    gives: Literal["suggested", "given", "chosen", "none"]
    badge: str
    title: str
    key: str
    excludes: bool = False


VERDICTS = {
    "accept": Verdict("suggested", "✓", "Accept the suggestion", "a"),
    "keep": Verdict("given", "Keep", "Keep the label", "r"),
    "relabel": Verdict("chosen", "✓", "Another class", "/"),
    "skip": Verdict("none", "Skip", "Skip", "s"),
    "several": Verdict("none", "Several apply", "Several classes apply", "e"),
    "none": Verdict("none", "None of these", "None of the classes", "o", excludes=True),
    "ambiguous": Verdict("none", "Ambiguous", "Cannot be told", "q"),
    "bad image": Verdict("none", "Bad image", "Bad image", "b", excludes=True),
    "duplicate": Verdict("none", "Duplicate", "Duplicate", "d", excludes=True),
}
# Logs that earlier versions exported call it so.
EARLIER_NAMES = {"reject": "keep"}
LOG_COLUMNS = ("seq", "at", "who", "run", "kind", "target", "image", "verdict", "from_label", "to_label")
# Which logs of earlier versions lack.
LATER_COLUMNS = ("blind", "note")
INSERT_DECISION = (
    "INSERT INTO decisions (action, image, verdict, from_label, to_label, note) VALUES (?, ?, ?, ?, ?, ?)"
)
TAB_SECONDS = 30 * 24 * 3600.0

# An action holds unless the last undo or redo that targets it is an undo.
_LAST_STEP = "SELECT kind FROM actions u WHERE u.target = a.seq ORDER BY u.seq DESC LIMIT 1"
_HOLDS = f"coalesce(({_LAST_STEP}), 'redo') = 'redo'"


class Conflict(Exception):
    """Somebody decided on the same image since this tab last looked; `images` names them."""

    def __init__(self, images: list[str]):
        super().__init__(
            f"decided elsewhere meanwhile: {', '.join(images[:5])}{' …' if len(images) > 5 else ''}"
        )
        self.images = images


@dataclass(frozen=True)
class Decision:
    """What is decided of one image.

    Attributes:
        image: its id.
        verdict: one of VERDICTS.
        from_label: the given label.
        to_label: the label that the verdict gives; None for none.
        note: what the reviewer adds.
    """

    image: str
    verdict: str
    from_label: str
    to_label: str | None
    note: str | None = None


def decide(
    connection: sqlite3.Connection,
    dataset: str,
    run: str,
    who: str,
    decisions: Sequence[Decision],
    known_up_to: int | None = None,
    blind: bool = False,
) -> int:
    """Append one action that decides all the images; returns its sequence number.

    Args:
        connection: the store.
        dataset: whose images they are.
        run: whose suggestions were looked at.
        who: who decides.
        decisions: at most one an image.
        known_up_to: sequence number up to which the caller knows the log (see `head`); None does not ask.
        blind: a second opinion, given without seeing the first: it is compared with the decision that holds,
            and changes nothing.

    Raises:
        Conflict: an image was decided on after `known_up_to`; nothing is written.
    """
    with transaction(connection):
        if known_up_to is not None:
            newer = {
                image
                for (image,) in connection.execute(
                    "SELECT d.image FROM decisions d JOIN actions a ON a.seq = d.action WHERE a.dataset = ? "
                    f"AND a.seq > ? AND a.blind = 0 AND {_HOLDS}",
                    (dataset, known_up_to),
                )
            }
            clash = [decision.image for decision in decisions if decision.image in newer]
            if clash:
                raise Conflict(clash)
        action = _append(connection, dataset, run, who, "decide", None, blind=blind)
        connection.executemany(
            INSERT_DECISION,
            ((action, d.image, d.verdict, d.from_label, d.to_label, d.note) for d in decisions),
        )
    return action


def undo(connection: sqlite3.Connection, dataset: str, who: str) -> int | None:
    """Take back a person's last action that holds; its number, or None where there is none."""
    with transaction(connection):
        target = connection.execute(
            f"SELECT seq, run FROM actions a WHERE dataset = ? AND who = ? AND kind = 'decide' AND {_HOLDS} "
            "ORDER BY seq DESC LIMIT 1",
            (dataset, who),
        ).fetchone()
        if target is None:
            return None
        _append(connection, dataset, target[1], who, "undo", target[0])
    return int(target[0])


def redo(connection: sqlite3.Connection, dataset: str, who: str) -> int | None:
    """Bring back the action that a person undid last, unless they decided something since.

    Its number, or None.
    """
    with transaction(connection):
        target = connection.execute(
            "SELECT a.seq, a.run FROM actions a WHERE dataset = ? AND who = ? AND kind = 'decide' AND NOT "
            f"{_HOLDS} "
            "ORDER BY (SELECT max(u.seq) FROM actions u WHERE u.target = a.seq) DESC LIMIT 1",
            (dataset, who),
        ).fetchone()
        last = connection.execute(
            "SELECT max(seq) FROM actions WHERE dataset = ? AND who = ? AND kind = 'decide'", (dataset, who)
        ).fetchone()[0]
        if (
            target is None
            or connection.execute(
                "SELECT max(seq) < ? FROM actions WHERE target = ?", (last, target[0])
            ).fetchone()[0]
        ):
            return None
        _append(connection, dataset, target[1], who, "redo", target[0])
    return int(target[0])


def is_new(connection: sqlite3.Connection, tab: str, entry: int) -> bool:
    """Whether a browser's tab sends an entry for the first time.

    Called in the transaction that carries it out.

    Args:
        connection: the store.
        tab: random name of the tab.
        entry: number that only grows in a tab.
    """
    now = time.time()
    connection.execute("DELETE FROM tabs WHERE at < ?", (now - TAB_SECONDS,))
    written = connection.execute(
        "INSERT INTO tabs (tab, entry, at) VALUES (?, ?, ?) "
        "ON CONFLICT (tab) DO UPDATE SET entry = excluded.entry, at = excluded.at WHERE excluded.entry > "
        "tabs.entry",
        (tab, entry, now),
    )
    return written.rowcount == 1


def images_of(connection: sqlite3.Connection, action: int) -> list[str]:
    """The images that an action decides."""
    return [
        image
        for (image,) in connection.execute(
            "SELECT image FROM decisions WHERE action = ? ORDER BY image", (action,)
        )
    ]


def head(connection: sqlite3.Connection, dataset: str) -> int:
    """Sequence number of the last action on a dataset; 0 where there is none."""
    return int(
        connection.execute(
            "SELECT coalesce(max(seq), 0) FROM actions WHERE dataset = ?", (dataset,)
        ).fetchone()[0]
    )


def changes_since(
    connection: sqlite3.Connection, dataset: str, seq: int
) -> list[tuple[str, str | None, str | None, int | None]]:
    """The images that actions after `seq` touched, each with the verdict and label that hold now, and the
    action that gave them.

    None where none does.
    """
    return connection.execute(
        "WITH touched AS (SELECT DISTINCT d.image AS image FROM actions a JOIN decisions d ON d.action = "
        "coalesce(a.target, a.seq) "
        "WHERE a.dataset = :dataset AND a.seq > :seq) "
        "SELECT t.image, d.verdict, d.to_label, d.action FROM touched t LEFT JOIN decisions d "
        "ON d.image = t.image AND d.action = ("
        # A cross join keeps this order: else the actions of a whole dataset are gone through for each image.
        "SELECT a.seq FROM decisions e CROSS JOIN actions a ON a.seq = e.action "
        f"WHERE e.image = t.image AND a.dataset = :dataset AND a.blind = 0 AND {_HOLDS} ORDER BY a.seq DESC "
        "LIMIT 1)",
        {"dataset": dataset, "seq": seq},
    ).fetchall()


def count_since(connection: sqlite3.Connection, dataset: str, who: str, at: float) -> int:
    """How many images a person decided on since a time, in seconds since 1970."""
    return int(
        connection.execute(
            "SELECT count(*) FROM actions a JOIN decisions d ON d.action = a.seq WHERE a.dataset = ? AND "
            f"a.who = ? AND a.at >= ? AND a.kind = 'decide' AND {_HOLDS}",
            (dataset, who, at),
        ).fetchone()[0]
    )


def current_decisions(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """The last decision that holds for each image: columns image, verdict, from_label, to_label, note, at,
    who, run."""
    return _last_decisions(connection, "SELECT ?", dataset)


def blind_decisions(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """The last second opinion of each person on each image, columns as of `current_decisions`."""
    return _last_decisions(connection, "SELECT ?", dataset, blind=True)


def earlier_decisions(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """As `current_decisions`, of the same source in other states: before its files changed, or with other
    columns chosen."""
    others = (
        "SELECT o.id FROM datasets n JOIN datasets o ON o.source = n.source AND o.id != n.id WHERE n.id = ?"
    )
    return _last_decisions(connection, others, dataset)


def _last_decisions(
    connection: sqlite3.Connection, datasets: str, dataset: str, blind: bool = False
) -> pd.DataFrame:
    """Of each image; of each image and person where they are blind."""
    rows = connection.execute(
        "SELECT d.image, d.verdict, d.from_label, d.to_label, d.note, a.at, a.who, a.run, max(a.seq) "
        f"FROM decisions d JOIN actions a ON a.seq = d.action WHERE a.dataset IN ({datasets}) "
        f"AND a.blind = ? AND {_HOLDS} GROUP BY d.image{', a.who' if blind else ''}",
        (dataset, blind),
    )
    columns = ["image", "verdict", "from_label", "to_label", "note", "at", "who", "run", "seq"]
    return pd.DataFrame(rows.fetchall(), columns=columns).drop(columns="seq")


def read_log(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """The whole log of a dataset, one row an image and action.

    Undo and redo rows have a target and no image.
    """
    columns = [*LOG_COLUMNS, *LATER_COLUMNS]
    rows = connection.execute(
        "SELECT a.seq, a.at, a.who, a.run, a.kind, a.target, d.image, d.verdict, d.from_label, d.to_label, "
        "a.blind, d.note FROM actions a "
        "LEFT JOIN decisions d ON d.action = a.seq WHERE a.dataset = ? ORDER BY a.seq, d.image",
        (dataset,),
    )
    log = pd.DataFrame(rows.fetchall(), columns=columns)
    return log.astype({"target": "Int64"})


def write_log(connection: sqlite3.Connection, dataset: str, log: pd.DataFrame) -> int:
    """Append a log read elsewhere (see `read_log`), renumbered; returns how many actions were added.

    All or nothing.

    Raises:
        InputError: a row that is not of a decision log.
    """
    log = log.assign(**{name: log.get(name) for name in LATER_COLUMNS})
    log = log.assign(blind=log["blind"].isin([1, "1", "True", True]))
    numbers: dict[int, int] = {}
    with transaction(connection):
        for seq, rows in log.groupby("seq", sort=True):
            first = rows.iloc[0]
            target = None if pd.isna(first["target"]) else numbers.get(int(first["target"]))
            if first["kind"] not in ("decide", "undo", "redo") or (target is None) != (
                first["kind"] == "decide"
            ):
                raise InputError(
                    f"decision log, action {seq}: kind {first['kind']!r} with target {first['target']!r} "
                    "makes no sense"
                )
            verdicts = rows["verdict"].replace(EARLIER_NAMES)
            if first["kind"] == "decide" and not set(verdicts) <= set(VERDICTS):
                raise InputError(f"decision log, action {seq}: verdicts are {', '.join(VERDICTS)}")
            numbers[int(str(seq))] = action = _append(
                connection,
                dataset,
                str(first["run"]),
                str(first["who"]),
                str(first["kind"]),
                target,
                float(first["at"]),
                bool(first["blind"]),
            )
            if first["kind"] == "decide":
                columns = ["image", "verdict", "from_label", "to_label", "note"]
                values = rows.assign(verdict=verdicts)[columns].astype(object)
                try:
                    connection.executemany(
                        INSERT_DECISION,
                        (
                            (action, *(None if pd.isna(v) else v for v in row))
                            for row in values.itertuples(index=False)
                        ),
                    )
                except sqlite3.IntegrityError as error:
                    raise InputError(
                        f"decision log, action {seq}: an image is there twice, or a field is empty"
                    ) from error
    return len(numbers)


def _append(
    connection: sqlite3.Connection,
    dataset: str,
    run: str,
    who: str,
    kind: str,
    target: int | None,
    at: float | None = None,
    blind: bool = False,
) -> int:
    cursor = connection.execute(
        "INSERT INTO actions (at, who, dataset, run, kind, target, blind) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (time.time() if at is None else at, who, dataset, run, kind, target, blind),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid
