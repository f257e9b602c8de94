"""The store: SQLite in WAL mode, one file a workspace; runs and datasets. Decisions are in decisions.py."""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields

import msgspec

from sharpeye.config import RunConfig
from sharpeye.errors import InputError
from sharpeye.progress import Progress
from sharpeye.runs.backups import back_up
from sharpeye.runs.result import RunResult, parse_result
from sharpeye.runs.text_result import TextResult
from sharpeye.runs.workspace import Workspace
from sharpeye.text.config import KIND as TEXT
from sharpeye.text.config import TextConfig

BUSY_SECONDS = 30.0
FINISHED = ("done", "failed", "canceled")
# What a command that waits for a run exits with; bad input makes it 2.
EXIT_CODES = {"done": 0, "failed": 1, "canceled": 1}

# Forward only: entry n takes a store from schema version n to n + 1.
MIGRATIONS = (
    """
    CREATE TABLE datasets (
        id TEXT PRIMARY KEY, source TEXT NOT NULL, options TEXT NOT NULL, registered REAL NOT NULL,
        images INTEGER, class_names TEXT, class_counts TEXT
    );
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, config TEXT NOT NULL, dataset TEXT NOT NULL REFERENCES datasets (id),
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'canceled')),
        position INTEGER NOT NULL, submitted REAL NOT NULL, started REAL, finished REAL,
        device TEXT, pid INTEGER, pid_started REAL, heartbeat REAL, deaths INTEGER NOT NULL DEFAULT 0,
        cancel_requested REAL, progress TEXT, notes TEXT NOT NULL DEFAULT '', message TEXT,
        exit_code INTEGER, result TEXT
    );
    CREATE INDEX runs_by_state ON runs (state, position);
    CREATE TABLE actions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL, dataset TEXT NOT NULL,
        run TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('decide', 'undo', 'redo')),
        target INTEGER REFERENCES actions (seq)
    );
    CREATE INDEX actions_by_target ON actions (target, seq);
    CREATE INDEX actions_by_dataset ON actions (dataset, seq);
    CREATE TABLE decisions (
        action INTEGER NOT NULL REFERENCES actions (seq), image TEXT NOT NULL, verdict TEXT NOT NULL
            CHECK (verdict IN ('accept', 'reject', 'relabel', 'skip')),
        from_label TEXT NOT NULL, to_label TEXT, PRIMARY KEY (action, image)
    ) WITHOUT ROWID;
    """,
    "CREATE INDEX decisions_by_image ON decisions (image, action)",
    """
    CREATE TABLE verdicts (
        action INTEGER NOT NULL REFERENCES actions (seq), image TEXT NOT NULL, verdict TEXT NOT NULL,
        from_label TEXT NOT NULL, to_label TEXT, PRIMARY KEY (action, image)
    ) WITHOUT ROWID;
    INSERT INTO verdicts
        SELECT action, image, CASE verdict WHEN 'reject' THEN 'keep' ELSE verdict END, from_label, to_label
        FROM decisions;
    DROP TABLE decisions;
    ALTER TABLE verdicts RENAME TO decisions;
    CREATE INDEX decisions_by_image ON decisions (image, action);
    CREATE TABLE tabs (tab TEXT PRIMARY KEY, entry INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID
    """,
    """
    ALTER TABLE actions ADD COLUMN blind INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE decisions ADD COLUMN note TEXT;
    ALTER TABLE runs ADD COLUMN name TEXT;
    ALTER TABLE runs ADD COLUMN remark TEXT;
    ALTER TABLE runs ADD COLUMN parent TEXT;
    CREATE INDEX actions_by_person ON actions (dataset, who, at);
    CREATE TABLE people (
        name TEXT PRIMARY KEY, role TEXT NOT NULL CHECK (role IN ('lead', 'reviewer')), at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE assignments (
        dataset TEXT NOT NULL, who TEXT NOT NULL, image TEXT NOT NULL, blind INTEGER NOT NULL,
        at REAL NOT NULL, PRIMARY KEY (dataset, who, image, blind)
    ) WITHOUT ROWID;
    CREATE TABLE gold (
        dataset TEXT NOT NULL, image TEXT NOT NULL, label TEXT NOT NULL, who TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (dataset, image)
    ) WITHOUT ROWID;
    CREATE TABLE added_classes (
        dataset TEXT NOT NULL, name TEXT NOT NULL, who TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (dataset, name)
    ) WITHOUT ROWID
    """,
)


@dataclass(frozen=True)
class RunRow:
    """A run as the store knows it; times are seconds since the epoch."""

    id: str
    config: str
    dataset: str
    state: str
    position: int
    submitted: float
    started: float | None
    finished: float | None
    device: str | None
    pid: int | None
    pid_started: float | None
    heartbeat: float | None
    deaths: int
    cancel_requested: float | None
    progress: str | None
    notes: str
    message: str | None
    exit_code: int | None
    result: str | None
    name: str | None
    remark: str | None
    parent: str | None

    def to_json(self) -> str:
        """For `--json`: everything but process details, JSON fields decoded."""
        hidden = ("position", "pid_started", "deaths")
        values: dict[str, object] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden
        }
        for name, text in (("config", self.config), ("progress", self.progress), ("result", self.result)):
            values[name] = None if text is None else json.loads(text)
        return json.dumps(values)

    def run_config(self) -> RunConfig:
        """The configuration of a run on images.

        Raises:
            InputError: it is one on text.
        """
        if self.is_text:
            raise InputError(f"run {self.id} is one on text: it is shown on the Text page")
        return RunConfig.from_json(self.config)

    def text_config(self) -> TextConfig:
        """The configuration of a run on text."""
        return TextConfig.from_json(self.config)

    @property
    def is_text(self) -> bool:
        return json.loads(self.config).get("kind") == TEXT

    @property
    def device_wanted(self) -> str:
        """The device that its configuration names."""
        return str(json.loads(self.config)["device"])

    def step(self) -> Progress | None:
        """How far the run is; None before it says so."""
        return None if self.progress is None else msgspec.json.decode(self.progress, type=Progress)

    def finished_result(self) -> RunResult:
        """The result of a run that is done; raises OutdatedResult where another version computed it."""
        assert self.result is not None
        return parse_result(self.result)

    @property
    def title(self) -> str:
        """The run in one line, for people."""
        if self.is_text:
            return f"{self.name or self.text_config().title} · {self.id[:6]}"
        config = self.run_config()
        how = f"head on {config.model}" if config.on_features else config.budget
        title = self.name or f"{config.data.train.title} · {config.methods[0]}, {how}"
        return f"{title} · {self.id[:6]}"


def connect(workspace: Workspace, patience: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open the store, made or migrated where needed; autocommit, waits for other writers so many seconds.

    Raises:
        InputError: the store was written by a newer version, is damaged, or is missing beside runs.
    """
    connection = sqlite3.connect(
        workspace.database, timeout=patience, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        known = _version(connection)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise InputError(
            f"{workspace.database}: damaged ({error}); `sharpeye doctor --repair` restores the last copy"
        ) from error
    if known == 0 and any(workspace.runs.glob("*/result.json")):
        connection.close()
        raise InputError(
            f"{workspace.database}: empty, though there are runs; `sharpeye doctor --repair` restores the "
            "last copy"
        )
    if known < len(MIGRATIONS):
        if known:
            back_up(connection, workspace)
        with transaction(connection):
            for script in MIGRATIONS[_version(connection) :]:
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    if _version(connection) > len(MIGRATIONS):
        connection.close()
        raise InputError(
            f"{workspace.database}: written by a newer version of Sharpeye; update, or use another "
            "--workspace"
        )
    return connection


@contextmanager
def store(workspace: Workspace, patience: float = BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
    """A connection for the length of a block; see `connect`."""
    with closing(connect(workspace, patience)) as connection:
        yield connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with the write lock taken at once so that what is read inside stays true.

    Inside another transaction it is a part of that one.
    """
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def register_dataset(
    connection: sqlite3.Connection, dataset: str, source: str, options: dict[str, str | None]
) -> None:
    """Record a dataset once; a changed source has another id."""
    connection.execute(
        "INSERT INTO datasets (id, source, options, registered) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO "
        "NOTHING",
        (dataset, source, json.dumps(options), time.time()),
    )


def describe_dataset(
    connection: sqlite3.Connection, dataset: str, class_names: Sequence[str], class_counts: Sequence[int]
) -> None:
    """Record what a decoded data set holds."""
    connection.execute(
        "UPDATE datasets SET images = ?, class_names = ?, class_counts = ? WHERE id = ?",
        (sum(class_counts), json.dumps(list(class_names)), json.dumps(list(class_counts)), dataset),
    )


def dataset_source(connection: sqlite3.Connection, dataset: str) -> tuple[str, list[str] | None]:
    """Where a dataset came from and its class names, if it was decoded."""
    source, names = connection.execute(
        "SELECT source, class_names FROM datasets WHERE id = ?", (dataset,)
    ).fetchone()
    return source, json.loads(names) if names else None


def submit(connection: sqlite3.Connection, run: str, config: RunConfig | TextConfig, dataset: str) -> RunRow:
    """Queue a run behind the others.

    One that is done, queued or running stays as it is, any other is queued again.
    """
    with transaction(connection):
        row = find_run(connection, run)
        if row is None:
            connection.execute(
                "INSERT INTO runs (id, config, dataset, state, position, submitted) VALUES (?, ?, ?, "
                "'queued', ?, ?)",
                (run, config.to_json(), dataset, _next_position(connection), time.time()),
            )
        elif row.state in ("failed", "canceled"):
            _queue_again(connection, run)
    return get_run(connection, run)


def resume(connection: sqlite3.Connection, run: str) -> RunRow:
    """Queue a failed or canceled run again; what it has computed is kept."""
    with transaction(connection):
        if get_run(connection, run).state in ("failed", "canceled"):
            _queue_again(connection, run)
    return get_run(connection, run)


def _queue_again(connection: sqlite3.Connection, run: str) -> None:
    connection.execute(
        "UPDATE runs SET state = 'queued', position = ?, finished = NULL, pid = NULL, deaths = 0, "
        "cancel_requested = NULL, "
        "message = NULL WHERE id = ?",
        (_next_position(connection), run),
    )


def _next_position(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(position), 0) + 1 FROM runs").fetchone()[0])


def get_run(connection: sqlite3.Connection, run: str) -> RunRow:
    """A run by its id or an unambiguous beginning of it.

    Raises:
        InputError: no run, or several.
    """
    row = find_run(connection, run)
    if row is None:
        raise InputError(f"no run {run!r} in this workspace; `sharpeye runs` lists them")
    return row


def find_run(connection: sqlite3.Connection, run: str) -> RunRow | None:
    """As `get_run`, but None where there is no such run."""
    rows = _select(connection, "WHERE substr(id, 1, length(?)) = ? LIMIT 2", (run, run)) if run else []
    if len(rows) > 1:
        raise InputError(f"several runs begin with {run!r}: give more of the id")
    return rows[0] if rows else None


def list_runs(connection: sqlite3.Connection) -> list[RunRow]:
    """All runs, in the order in which they were submitted."""
    return _select(connection, "ORDER BY position", ())


def runs_in(connection: sqlite3.Connection, state: str) -> list[RunRow]:
    """Runs in a state, in order."""
    return _select(connection, "WHERE state = ? ORDER BY position", (state,))


def _select(connection: sqlite3.Connection, clause: str, values: tuple[str, ...]) -> list[RunRow]:
    names = ", ".join(field.name for field in fields(RunRow))
    return [RunRow(*row) for row in connection.execute(f"SELECT {names} FROM runs {clause}", values)]


def describe_run(connection: sqlite3.Connection, run: str, name: str, remark: str) -> None:
    """Give a run a name and a remark of people's own; empty ones take them away."""
    own = name.strip() or None, remark.strip() or None
    connection.execute("UPDATE runs SET name = ?, remark = ? WHERE id = ?", (*own, run))


def link_run(connection: sqlite3.Connection, run: str, parent: str) -> None:
    """Note which run a run goes on from."""
    connection.execute("UPDATE runs SET parent = ? WHERE id = ? AND id != ?", (parent, run, parent))


def rounds_of(connection: sqlite3.Connection, run: str) -> list[RunRow]:
    """The runs that a run goes on from, the first one first, and itself."""
    known = {row.id: row for row in list_runs(connection)}
    rounds: list[RunRow] = []
    at: str | None = run
    while at in known and known[at] not in rounds:
        rounds.append(known[at])
        at = known[at].parent
    return rounds[::-1]


def request_cancel(connection: sqlite3.Connection, run: str) -> RunRow:
    """Cancel a queued run at once; ask the supervisor to stop a running one."""
    with transaction(connection):
        now = time.time()
        connection.execute(
            "UPDATE runs SET state = 'canceled', finished = ? WHERE id = ? AND state = 'queued'", (now, run)
        )
        connection.execute(
            "UPDATE runs SET cancel_requested = ? WHERE id = ? AND state = 'running'", (now, run)
        )
    return get_run(connection, run)


def claim(connection: sqlite3.Connection, run: str, device: str) -> bool:
    """Take a queued run; False where another was faster."""
    now = time.time()
    with transaction(connection):
        taken = connection.execute(
            "UPDATE runs SET state = 'running', device = ?, started = coalesce(started, ?), heartbeat = ?, "
            "pid = NULL "
            "WHERE id = ? AND state = 'queued'",
            (device, now, now, run),
        )
    return taken.rowcount == 1


def set_process(connection: sqlite3.Connection, run: str, pid: int, pid_started: float) -> None:
    """Record which process computes a run.

    The start time tells it from a later process of the same number.
    """
    connection.execute(
        "UPDATE runs SET pid = ?, pid_started = ?, heartbeat = ? WHERE id = ?",
        (pid, pid_started, time.time(), run),
    )


def beat(connection: sqlite3.Connection, run: str, progress: Progress | None) -> None:
    """Sign of life, with the latest progress."""
    text = None if progress is None else msgspec.json.encode(progress).decode()
    connection.execute(
        "UPDATE runs SET heartbeat = ?, progress = coalesce(?, progress) WHERE id = ?",
        (time.time(), text, run),
    )


def add_note(connection: sqlite3.Connection, run: str, note: str) -> None:
    """Append a line to what the user should know about a run."""
    connection.execute("UPDATE runs SET notes = notes || ? WHERE id = ?", (note + "\n", run))


def finish(
    connection: sqlite3.Connection,
    run: str,
    state: str,
    message: str | None = None,
    result: RunResult | TextResult | None = None,
    exit_code: int | None = None,
) -> None:
    """End a running run as done, failed (with one sentence) or canceled."""
    text = None if result is None else msgspec.json.encode(result).decode()
    connection.execute(
        "UPDATE runs SET state = ?, finished = ?, message = ?, exit_code = ?, result = ?, pid = NULL WHERE "
        "id = ? AND state = 'running'",
        (state, time.time(), message, EXIT_CODES[state] if exit_code is None else exit_code, text, run),
    )


def orphan(connection: sqlite3.Connection, run: str, deaths_allowed: int) -> None:
    """A running run's process is gone: end it where that was asked for or happens too often, else queue it
    where it was."""
    with transaction(connection):
        row = get_run(connection, run)
        if row.state != "running":
            return
        if row.cancel_requested is not None:
            finish(connection, run, "canceled")
        elif row.deaths + 1 >= deaths_allowed:
            finish(
                connection,
                run,
                "failed",
                f"The run's process died {row.deaths + 1} times, perhaps for lack of memory; see its log, "
                "then resume it.",
            )
        else:
            connection.execute(
                "UPDATE runs SET state = 'queued', pid = NULL, deaths = deaths + 1 WHERE id = ?", (run,)
            )
            add_note(connection, run, "The run's process died; it went on from its last checkpoint.")


def delete_run(connection: sqlite3.Connection, run: str) -> None:
    """Forget a finished run.

    Raises:
        InputError: it is queued or running.
    """
    with transaction(connection):
        if get_run(connection, run).state not in FINISHED:
            raise InputError(f"run {run} is not finished: cancel it first")
        connection.execute("DELETE FROM runs WHERE id = ?", (run,))
