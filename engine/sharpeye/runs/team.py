"""People who review together: their roles, who looks at which images, and how far they agree. Never torch."""

import sqlite3
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from sharpeye.errors import InputError
from sharpeye.runs.decisions import blind_decisions, current_decisions
from sharpeye.runs.store import transaction

Role = Literal["lead", "reviewer"]
ROLES: tuple[Role, ...] = ("lead", "reviewer")
NAME_LENGTH = 60
# A pause that ends a stretch of work, when the pace is taken.
PAUSE_SECONDS = 300.0


def valid_name(text: str) -> str:
    """A person's name as it is kept; raises InputError where it is empty, too long or not printable."""
    name = " ".join(text.split())
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise InputError(f"a name has 1 to {NAME_LENGTH} characters")
    return name


def join(connection: sqlite3.Connection, name: str) -> Role:
    """A person's role; whoever comes first leads."""
    with transaction(connection):
        known = connection.execute("SELECT role FROM people WHERE name = ?", (name,)).fetchone()
        if known is None:
            first = connection.execute("SELECT count(*) FROM people").fetchone()[0] == 0
            known = ("lead" if first else "reviewer",)
            connection.execute(
                "INSERT INTO people (name, role, at) VALUES (?, ?, ?)", (name, *known, time.time())
            )
    role: Role = known[0]
    return role


def set_role(connection: sqlite3.Connection, name: str, role: Role) -> None:
    """Give a person a role.

    Raises:
        InputError: nobody of that name is known, or no lead would be left.
    """
    with transaction(connection):
        if connection.execute("UPDATE people SET role = ? WHERE name = ?", (role, name)).rowcount == 0:
            raise InputError(f"nobody is called {name!r} here")
        if connection.execute("SELECT count(*) FROM people WHERE role = 'lead'").fetchone()[0] == 0:
            raise InputError("one person at least leads")


def people(connection: sqlite3.Connection) -> dict[str, Role]:
    """Everybody's role, by name, in the order in which they came."""
    return dict(connection.execute("SELECT name, role FROM people ORDER BY at, name").fetchall())


def share_out(groups: Sequence[Hashable], names: Sequence[str]) -> list[str]:
    """Who looks at which image: groups of images, the largest first, each to who has the fewest images so
    far.

    Args:
        groups: of each image: a class, a slice of the ranking, or the image itself for dealing one by one.
        names: of the people.
    """
    counts = Counter(groups)
    load = dict.fromkeys(names, 0)
    of_group = {}
    for group, count in sorted(counts.items(), key=lambda item: -item[1]):
        least = min(load, key=lambda name: load[name])
        of_group[group] = least
        load[least] += count
    return [of_group[group] for group in groups]


def assign(
    connection: sqlite3.Connection,
    dataset: str,
    images: Sequence[str],
    names: Sequence[str],
    blind: bool = False,
) -> None:
    """Have people look at images, in the place of who had to before; blind: for a second opinion."""
    now = time.time()
    with transaction(connection):
        connection.executemany(
            "DELETE FROM assignments WHERE dataset = ? AND image = ? AND blind = ?",
            ((dataset, image, blind) for image in images),
        )
        connection.executemany(
            "INSERT INTO assignments (dataset, who, image, blind, at) VALUES (?, ?, ?, ?, ?)",
            ((dataset, name, image, blind, now) for image, name in zip(images, names, strict=True)),
        )


def add_second_opinions(
    connection: sqlite3.Connection, dataset: str, images: Sequence[str], who: str
) -> None:
    """Have a person give a second opinion on images, beside whoever else does."""
    connection.executemany(
        "INSERT OR IGNORE INTO assignments (dataset, who, image, blind, at) VALUES (?, ?, ?, 1, ?)",
        ((dataset, who, image, time.time()) for image in images),
    )


def decided_by(connection: sqlite3.Connection, dataset: str, who: str) -> list[str]:
    """The images whose label a person decided."""
    made = current_decisions(connection, dataset)
    return made["image"][(made["who"] == who) & made["to_label"].notna()].tolist()


def assigned(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """Who looks at which image: columns image, who and blind."""
    rows = connection.execute("SELECT image, who, blind FROM assignments WHERE dataset = ?", (dataset,))
    return pd.DataFrame(rows.fetchall(), columns=["image", "who", "blind"]).astype({"blind": bool})


def second_opinions_from(names: Sequence[str], firsts: Sequence[str | None], seed: int) -> list[str]:
    """Who gives a second opinion on each image: anybody but who looks at it first, drawn evenly."""
    rng = np.random.default_rng(seed)
    load = dict.fromkeys(names, 0)
    chosen = []
    for first in firsts:
        others = [name for name in names if name != first] or list(names)
        least = min(load[name] for name in others)
        name = str(rng.choice([name for name in others if load[name] == least]))
        load[name] += 1
        chosen.append(name)
    return chosen


def set_gold(connection: sqlite3.Connection, dataset: str, images: Sequence[str], who: str) -> int:
    """Take the labels decided of some images as known answers; how many have one."""
    made = current_decisions(connection, dataset)
    made = made[made["image"].isin(list(images)) & made["to_label"].notna()]
    with transaction(connection):
        connection.executemany(
            "INSERT OR REPLACE INTO gold (dataset, image, label, who, at) VALUES (?, ?, ?, ?, ?)",
            (
                (dataset, image, label, who, time.time())
                for image, label in made[["image", "to_label"]].to_numpy()
            ),
        )
    return len(made)


def gold(connection: sqlite3.Connection, dataset: str) -> dict[str, str]:
    """The known answers, by image."""
    rows = connection.execute("SELECT image, label FROM gold WHERE dataset = ?", (dataset,))
    return dict(rows.fetchall())


def add_class(
    connection: sqlite3.Connection, dataset: str, name: str, known: Sequence[str], who: str
) -> None:
    """Add a class that the data set lacks.

    Raises:
        InputError: it is there already, or is no name.
    """
    name = valid_name(name)
    if name in known:
        raise InputError(f"{name!r} is a class already")
    with transaction(connection):
        connection.execute(
            "INSERT OR IGNORE INTO added_classes (dataset, name, who, at) VALUES (?, ?, ?, ?)",
            (dataset, name, who, time.time()),
        )


def added_classes(connection: sqlite3.Connection, dataset: str) -> list[str]:
    """Classes that people added, in that order."""
    rows = connection.execute(
        "SELECT name FROM added_classes WHERE dataset = ? ORDER BY at, name", (dataset,)
    )
    return [name for (name,) in rows]


def answer_of(decisions: pd.DataFrame) -> "pd.Series[str]":
    """What each decision says: its label, or where it gives none its verdict."""
    return decisions["to_label"].fillna(decisions["verdict"])


def opinions(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """Images with a decision and a blind second opinion of somebody else: columns image, from_label, first,
    first_by, second, second_by. A skip is no opinion."""
    made, blind = current_decisions(connection, dataset), blind_decisions(connection, dataset)
    sides = []
    for table, name in ((made, "first"), (blind, "second")):
        said = table[table["verdict"] != "skip"]
        side = said[["image", "from_label", "at"]].assign(
            **{name: answer_of(said), f"{name}_by": said["who"]}
        )
        sides.append(side)
    both = sides[0].merge(sides[1].drop(columns="from_label"), on="image", suffixes=("", "_second"))
    both = both[both["first_by"] != both["second_by"]]
    columns = ["image", "from_label", "first", "first_by", "second", "second_by"]
    return both.assign(settled=both["at"] > both["at_second"])[[*columns, "settled"]].reset_index(drop=True)


def disagreements(connection: sqlite3.Connection, dataset: str) -> list[str]:
    """Images on which a second opinion differs from the decision, and that nobody decided again since."""
    return unsettled(opinions(connection, dataset))


def unsettled(both: pd.DataFrame) -> list[str]:
    """The images of `opinions` whose two opinions differ, and that nobody decided again since."""
    return sorted(set(both["image"][(both["first"] != both["second"]) & ~both["settled"]]))


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two opinions an image beyond chance, (p_o − p_e) / (1 − p_e); NaN where all say the same
    (Cohen 1960)."""
    from sklearn.metrics import cohen_kappa_score

    if len(set(first) | set(second)) < 2:
        return float("nan")
    return float(cohen_kappa_score(list(first), list(second)))


def agreement(both: pd.DataFrame, by: Literal["from_label", "pair"] | None = None) -> pd.DataFrame:
    """How often first and second opinions agree: columns opinions, agree (share) and kappa; a row for each
    given label, or for each pair of people, or one for all.

    Args:
        both: see `opinions`.
        by: what a row stands for.
    """
    pairs = [" and ".join(sorted(pair)) for pair in both[["first_by", "second_by"]].to_numpy()]
    keys = {"from_label": both["from_label"], "pair": pd.Series(pairs, dtype=object, index=both.index)}
    groups = [("all", both)] if by is None else list(both.groupby(keys[by], sort=True))
    rows = [
        {
            "": name,
            "opinions": len(group),
            "agree": float((group["first"] == group["second"]).mean()) if len(group) else float("nan"),
            "kappa": cohens_kappa(group["first"].tolist(), group["second"].tolist()),
        }
        for name, group in groups
    ]
    return pd.DataFrame(rows, columns=["", "opinions", "agree", "kappa"])


def progress(connection: sqlite3.Connection, dataset: str) -> pd.DataFrame:
    """One row a person: role, images assigned and open, decisions that hold, second opinions, today's,
    images a minute while at work, and the share of known answers that they gave."""
    made, blind = current_decisions(connection, dataset), blind_decisions(connection, dataset)
    own, answers = assigned(connection, dataset), gold(connection, dataset)
    roles = people(connection)
    rows = []
    for name in dict.fromkeys([*roles, *made["who"], *blind["who"]]):
        first, second = made[made["who"] == name], blind[blind["who"] == name]
        mine = own[own["who"] == name]
        done = np.where(
            mine["blind"], mine["image"].isin(second["image"]), mine["image"].isin(made["image"])
        ).astype(bool)
        times = np.sort(np.concatenate([first["at"], second["at"]]).astype(float))
        known = second[second["image"].isin(list(answers))]
        right = [answers[image] == said for image, said in zip(known["image"], answer_of(known), strict=True)]
        rows.append(
            {
                "name": name,
                "role": roles.get(name, "reviewer"),
                "assigned": len(mine),
                "still open": int((~done).sum()),
                "decided": len(first),
                "second opinions": len(second),
                "today": int((times >= midnight()).sum()),
                "images a minute": pace(times),
                "known answers": len(known),
                "right": float(np.mean(right)) if right else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def midnight() -> float:
    """When today began on this machine, in seconds since 1970."""
    now = time.localtime()
    return time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))


def pace(times: np.ndarray) -> float:
    """Decisions a minute over the gaps shorter than PAUSE_SECONDS; NaN where there is none.

    Args:
        times: of the decisions, in seconds, ascending. Those of one action have one time, and count as one.
    """
    gaps = np.diff(np.unique(times))
    gaps = gaps[gaps < PAUSE_SECONDS]
    return float(60 / gaps.mean()) if len(gaps) else float("nan")
