"""What names a source of images or a validation split, parsed once from the text that users type."""

from dataclasses import dataclass
from glob import has_magic
from pathlib import Path, PurePosixPath

from sharpeye.data.remote import is_address
from sharpeye.errors import InputError


@dataclass(frozen=True)
class DemoSource:
    """The packaged demo: `demo`."""

    def __str__(self) -> str:
        return "demo"

    @property
    def title(self) -> str:
        return "demo"


@dataclass(frozen=True)
class FileSource:
    """A folder, an archive or a table, or several by a pattern: its path."""

    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def title(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class TorchvisionSource:
    """A torchvision data set, and one of its splits or None: `torchvision:NAME[/SPLIT]`."""

    name: str
    split: str | None = None

    def __str__(self) -> str:
        return f"torchvision:{self.name}" + (f"/{self.split}" if self.split else "")

    @property
    def title(self) -> str:
        return str(self)


@dataclass(frozen=True)
class RemoteSource:
    """A folder, an archive or a table elsewhere, or several by a pattern: its address, as `s3://bucket/photos`."""

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def title(self) -> str:
        return PurePosixPath(self.address).name


SourceSpec = DemoSource | FileSource | RemoteSource | TorchvisionSource


@dataclass(frozen=True)
class OwnSplit:
    """The split column or split folders of the training source: `split`."""

    def __str__(self) -> str:
        return "split"

    @property
    def title(self) -> str:
        return "its own split"


@dataclass(frozen=True)
class TrustedShare:
    """A stratified share of a training set whose labels can be trusted, between 0 and 1: `share:0.1`."""

    share: float

    def __str__(self) -> str:
        return f"share:{self.share:g}"

    @property
    def title(self) -> str:
        return f"{self.share:.0%} of the training labels"


@dataclass(frozen=True)
class TrustedList:
    """A CSV with the `id` and the trusted `label` of training images: `ids:FILE`."""

    path: str

    def __str__(self) -> str:
        return f"ids:{self.path}"

    @property
    def title(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class NoValidation:
    """No clean image at all: `none`."""

    def __str__(self) -> str:
        return "none"

    @property
    def title(self) -> str:
        return "no clean split"


ValidationSpec = SourceSpec | OwnSplit | TrustedShare | TrustedList | NoValidation


def parse_source(text: str) -> SourceSpec:
    """The source that a text names.

    A path that exists becomes absolute, so that it means the same from any folder.
    """
    if text == "demo":
        return DemoSource()
    if text.startswith("torchvision:"):
        name, _, split = text.removeprefix("torchvision:").partition("/")
        return TorchvisionSource(name, split or None)
    if text.startswith("hf:") and "://" not in text:
        # Of every public data set there, the Hub keeps a copy as Parquet.
        return RemoteSource(f"hf://datasets/{text.removeprefix('hf:')}@~parquet")
    return RemoteSource(text) if is_address(text) else FileSource(absolute(text))


def parse_validation(text: str) -> ValidationSpec:
    """The validation split that a text names.

    Raises:
        InputError: the share is no number between 0 and 1.
    """
    if text == "split":
        return OwnSplit()
    if text == "none":
        return NoValidation()
    if text.startswith("share:"):
        try:
            share = float(text.removeprefix("share:"))
        except ValueError as error:
            raise InputError(f"--validation {text}: expected a number, such as share:0.1") from error
        if not 0 < share <= 1:
            raise InputError(f"--validation {text}: the share must lie between 0 and 1")
        return TrustedShare(share)
    if text.startswith("ids:"):
        return TrustedList(absolute(text.removeprefix("ids:")))
    return parse_source(text)


def absolute(path: str) -> str:
    """An existing path, or a pattern with wildcards, as an absolute one; anything else as it is."""
    try:
        place = Path(path).expanduser()
        if path and has_magic(path) and not place.exists():
            return str(Path.cwd() / place)
        return str(place.resolve()) if path and place.exists() else path
    except (OSError, RuntimeError, ValueError):  # no name that a file could have
        return path
