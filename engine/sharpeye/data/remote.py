"""Files elsewhere, on object storage or web servers, by fsspec."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sharpeye.errors import InputError
from sharpeye.files import replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PROTOCOLS = ("s3", "gs", "gcs", "az", "abfs", "http", "https", "hf")
ADDRESS = re.compile(rf"({'|'.join(PROTOCOLS)})://.+")
# Of one image.
IMAGE_BYTES = 2**28
CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0
# What storages say of the state of a file, each by a name of its own.
STATE = ("size", "ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "last_modified", "mtime", "sha256")


def is_address(text: str) -> bool:
    """Whether a text is the address of a file elsewhere."""
    return ADDRESS.fullmatch(text) is not None


def joined(address: str, path: PurePosixPath) -> str:
    """The address of a path below a folder elsewhere."""
    return f"{address.rstrip('/')}/{path}"


@dataclass(frozen=True)
class RemoteFile:
    """An image elsewhere; fetched when it is decoded."""

    address: str

    def read(self) -> bytes:
        """Its content; raises InputError where it cannot be had, or is larger than IMAGE_BYTES."""
        with _reached(self.address), _storage(self.address).open(self.address, "rb") as file:
            content: bytes = file.read(IMAGE_BYTES + 1)
        if len(content) > IMAGE_BYTES:
            raise InputError(f"{self.address}: larger than {IMAGE_BYTES:,} bytes")
        return content


def files_below(address: str) -> dict[PurePosixPath, tuple[RemoteFile, list[str]]]:
    """All files below a folder elsewhere by their path relative to it, and the state of each.

    Raises:
        InputError: it cannot be reached, or nothing is there.
    """
    folder = address.rstrip("/") + "/"
    with _reached(address):
        storage = _storage(address)
        root = str(storage._strip_protocol(folder)).rstrip("/") + "/"
        found = storage.find(folder, detail=True)
        # Web servers write names as in a link.
        plain = unquote if address.startswith("http") else str
        files = {
            PurePosixPath(plain(name.removeprefix(root))): (
                RemoteFile(str(storage.unstrip_protocol(name))),
                _state(info),
            )
            for name, info in sorted(found.items())
            if name.startswith(root) and not name.endswith("/")
        }
    if not files:
        raise InputError(f"{address}: cannot be reached, or no file is there")
    return files


def matching(pattern: str) -> list[str]:
    """Addresses that a pattern with wildcards names, in order; raises InputError where it is not reached."""
    with _reached(pattern):
        storage = _storage(pattern)
        return sorted(str(storage.unstrip_protocol(name)) for name in storage.glob(pattern))


def local_copy(address: str) -> Path:
    """A file elsewhere as one of this machine, fetched again where it changed.

    Raises:
        InputError: it cannot be reached.
    """
    from sharpeye.config import digest

    with _reached(address):
        storage = _storage(address)
        key = digest(address, _state(storage.info(address)))
        place = cache_folder() / key / PurePosixPath(address).name
        if not place.exists():
            with replacing(place) as temporary:
                storage.get_file(address, str(temporary))
    return place


def cache_folder() -> Path:
    """Where copies of files elsewhere are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharpeye" / "files"


def _state(info: dict[str, Any]) -> list[str]:
    return [str(info[name]) for name in STATE if info.get(name) is not None]


def _storage(address: str) -> "AbstractFileSystem":
    import fsspec

    protocol = address.partition("://")[0]
    if protocol not in ("http", "https"):
        return fsspec.filesystem(protocol)
    from aiohttp import ClientTimeout

    # Else a server that does not answer holds a run for five minutes.
    patience = ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return fsspec.filesystem(protocol, client_kwargs={"timeout": patience})


@contextmanager
def _reached(address: str) -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(
            f"{address}: reading it takes packages that are not installed ({error}): "
            "pip install 'sharpeye[cloud]'"
        ) from error
    except Exception as error:  # each storage's package raises kinds of its own
        raise InputError(f"{address}: cannot be read ({type(error).__name__}: {error})") from error
