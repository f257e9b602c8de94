"""The workspace on disk: every path of it is decided here."""

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from sharpeye.errors import InputError

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "afpfs",
    "lustre",
    "gluster",
    "ceph",
    "fuse.sshfs",
    "davfs",
    "fuse.rclone",
)
RESERVE_BYTES = 4 * 2**20
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def checked_id(text: str) -> str:
    """The id of a run, an inspection, a lesson or a selection, which may come from an address.

    Raises:
        InputError: it could be a path, or is no id.
    """
    if not IDENTIFIER.fullmatch(text):
        raise InputError(f"{text[:80]!r} is no id")
    return text


@dataclass(frozen=True)
class Workspace:
    """The folder that holds the store, decoded datasets, checkpoints shared between runs, and the runs."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "workspace.db"

    @property
    def backups(self) -> Path:
        """Daily copies of the store."""
        return self.root / "backups"

    @property
    def decoded(self) -> Path:
        return self.root / "decoded"

    @property
    def supervisor_lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def reserve(self) -> Path:
        """Room kept so that, on a full disk, a run can still be recorded as failed."""
        return self.root / "reserve"

    def secret(self) -> bytes:
        """A key that only this workspace has; made where there is none."""
        path = self.root / "secret"
        if not path.exists():
            own = path.with_name(f".secret-{secrets.token_hex(6)}.tmp")
            own.touch(mode=0o600)
            own.write_text(secrets.token_hex(32))
            # Of several that make one at once, the first one's counts.
            with suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
        return path.read_bytes()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that is kept lies in one of these."""
        return (self.decoded, self.artifacts, self.runs, self.inspections, self.lessons, self.trusted)

    @property
    def artifacts(self) -> Path:
        return self.root / "stages"

    def artifact(self, name: str, key: str, suffix: str) -> Path:
        """What a stage leaves; runs with the same configuration up to that stage share it."""
        return self.artifacts / f"{name}-{key}{suffix}"

    @property
    def trusted(self) -> Path:
        return self.root / "trusted"

    def trusted_list(self, key: str) -> Path:
        """Images that a second round trusts, by the digest of the list."""
        return self.trusted / f"{key}.csv"

    @property
    def uploads(self) -> Path:
        """Files that came from a browser, a folder for each set of them."""
        return self.root / "uploads"

    @property
    def inspections(self) -> Path:
        return self.root / "inspections"

    def inspection(self, key: str) -> "InspectionFolder":
        return InspectionFolder(self.inspections / checked_id(key))

    @property
    def lessons(self) -> Path:
        """What the Learn page computed."""
        return self.root / "lessons"

    def lesson(self, key: str) -> "ReportFolder":
        return ReportFolder(self.lessons / checked_id(key))

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run(self, run: str) -> "RunFolder":
        return RunFolder(self.runs / checked_id(run))


@dataclass(frozen=True)
class RunFolder:
    """What one run leaves behind."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def lock(self) -> Path:
        return self.root / "run.lock"

    @property
    def scores(self) -> Path:
        return self.root / "scores.parquet"

    @property
    def embedding(self) -> Path:
        return self.root / "embedding.parquet"

    @property
    def diagnostics(self) -> Path:
        """The data of the figures."""
        return self.root / "diagnostics.parquet"

    @property
    def transition(self) -> Path:
        """How true labels turn into given ones."""
        return self.root / "transition.parquet"

    @property
    def canaries(self) -> Path:
        """Quality estimated without true labels."""
        return self.root / "canaries.json"

    @property
    def skipped(self) -> Path:
        return self.root / "skipped.csv"

    @property
    def trusted(self) -> Path:
        """The list of trusted images as it was when the run began; only where it was given one."""
        return self.root / "trusted.csv"

    @property
    def validation_examples(self) -> Path:
        """Of a run on text: its validation examples, with what the model says before and after training."""
        return self.root / "validation.parquet"

    @property
    def pairs(self) -> Path:
        """Of a run on text: influence of every training example on every validation example."""
        return self.root / "pairs.npy"

    def question(self, key: str) -> "QuestionFolder":
        """What was asked of a run on text, by the question's digest."""
        return QuestionFolder(self.root / "questions" / checked_id(key))

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def selection(self, key: str) -> Path:
        """Images chosen on the map, by the digest of their ids."""
        return self.root / "selections" / f"{checked_id(key)}.json"


@dataclass(frozen=True)
class ReportFolder:
    """What a process leaves that computes a report."""

    root: Path

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def lock(self) -> Path:
        return self.root / "report.lock"


@dataclass(frozen=True)
class QuestionFolder(ReportFolder):
    """What a question to a run on text leaves."""

    @property
    def question(self) -> Path:
        return self.root / "question.json"


@dataclass(frozen=True)
class InspectionFolder(ReportFolder):
    """What the inspection of a data set leaves."""

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def skipped(self) -> Path:
        return self.root / "skipped.csv"

    def answers(self, decoded: str) -> Path:
        """What a person answered so far about the images to confirm, by their rows among these decoded
        ones."""
        return self.root / f"answers-{decoded}.json"

    def confirmed(self, key: str) -> Path:
        """Training images whose labels a person confirmed, by the digest of the list."""
        return self.root / f"confirmed-{key}.csv"


def open_workspace(folder: str) -> Workspace:
    """The workspace at `folder`, made where it does not exist.

    Raises:
        InputError: it cannot be written, or lies on a network file system, where SQLite's write-ahead log is
            unsafe.
    """
    try:
        root = Path(folder).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"--workspace {folder}: is no folder ({error})") from error
    kind = _file_system(root)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        raise InputError(
            f"--workspace {root}: lies on a network file system ({kind}), where the run store is unsafe; use "
            "a local disk"
        )
    workspace = Workspace(root)
    try:
        if not root.is_dir():
            root.mkdir(parents=True)
            # Pictures and decisions are nobody else's business.
            root.chmod(0o700)
    except OSError as error:
        raise InputError(f"--workspace {root}: cannot be made ({error.strerror})") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise InputError(f"--workspace {root}: cannot be written to; choose another folder")
    keep_reserve(workspace)
    return workspace


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def keep_reserve(workspace: Workspace) -> None:
    """Set room aside again where it was given up; quietly not on a full disk."""
    if not workspace.reserve.exists():
        try:
            workspace.reserve.write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            with suppress(OSError):
                workspace.reserve.unlink(missing_ok=True)


def _file_system(path: Path) -> str:
    """File system type of the nearest existing mount point above a path."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[str(parent)] for parent in (path, *path.parents) if str(parent) in mounts), "")
