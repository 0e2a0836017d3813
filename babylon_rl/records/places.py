"""Places for archives and exports: addresses checked against an allow-list, and files that stay private.

    place = open_place("s3://bucket/babylon", settings)
    place.put("2026-10-01T14_00/manifest.json", local_file)

A place is a local folder or a prefix in an object store (through fsspec). It must lie under BABYLON_HOME's
`archives` or `exports`, or under a root that STORAGE_ROOTS names, after links and dots are resolved.
Credentials come from the store's own environment variables, never from an address.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from babylon_rl.errors import BabylonError
from babylon_rl.settings import Settings

SCHEMES = {"file": "", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""Allowed schemes, and the distribution that fsspec needs for each."""

_SEGMENT = re.compile(r"[A-Za-z0-9._=@+-]+")
_FOLDER, _FILE = 0o700, 0o600


class PlaceError(BabylonError):
    """An address that is not allowed, or a place that cannot be used."""


@dataclass(frozen=True)
class Place:
    """A folder, here or in an object store.

    Attributes:
        url: Its canonical address, without a slash at the end.
    """

    url: str
    _files: Any = field(repr=False)
    _path: str = field(repr=False)

    @property
    def is_local(self) -> bool:
        return self.url.startswith("file://")

    def at(self, name: str) -> str:
        """The address of a file or folder below."""
        return f"{self.url}/{_checked(name)}"

    def put(self, name: str, source: Path) -> None:
        """Stores a copy of a local file; readers see it whole or not at all, and nobody else sees it.

        Raises:
            PlaceError: It could not be written.
        """
        target = self._inside(name)
        with self._explained(f"{name} cannot be written"):
            if self.is_local:
                _put_local(source, Path(target))
            else:
                self._files.put_file(str(source), target)

    def get(self, name: str, target: Path) -> None:
        """Fetches a file to a local path.

        Raises:
            PlaceError: It is not there or cannot be read.
        """
        with self._explained(f"{name} cannot be read"):
            self._files.get_file(self._inside(name), str(target))

    def read(self, name: str) -> bytes:
        """The content of a small file; errors as in `get`."""
        with self._explained(f"{name} cannot be read"):
            return self._files.cat_file(self._inside(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._explained(f"{name} cannot be looked for"):
            return bool(self._files.exists(self._inside(name)))

    def names(self, folder: str | None = None) -> list[str]:
        """The names of what lies directly in a folder, sorted; empty where it does not exist."""
        with self._explained(f"{folder or 'the place'} cannot be listed"):
            try:
                found = self._files.ls(self._inside(folder) if folder else self._path, detail=False)
            except FileNotFoundError:
                return []
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def delete(self, folder: str) -> None:
        """Deletes a folder and all that lies in it; nothing happens where it does not exist."""
        with self._explained(f"{folder} cannot be deleted"):
            try:
                self._files.rm(self._inside(folder), recursive=True)
            except FileNotFoundError:
                pass

    def _inside(self, name: str) -> str:
        return f"{self._path}/{_checked(name)}"

    @contextmanager
    def _explained(self, problem: str) -> Iterator[None]:
        try:
            yield
        except BabylonError:
            raise
        except FileNotFoundError:
            raise PlaceError(f"{problem}: it is not at {self.url}", "Look at the address.") from None
        except Exception as error:  # each store's library raises classes of its own
            text = str(error).splitlines()
            reason = f"{type(error).__name__}: {text[0][:200] if text else ''}".rstrip(": ")
            raise PlaceError(
                f"{problem} at {self.url}: {reason}", "Check its address and the credentials for it."
            ) from error


def open_place(address: str, settings: Settings) -> Place:
    """Checks an address and returns the place; nothing is created.

    Args:
        address: A `file://`, `s3://`, `gs://` or `az://` URL, or a local path.

    Raises:
        PlaceError: It is malformed, of another scheme, or outside of the allowed roots.
    """
    url = canonical(address)
    roots = [canonical(root) for root in settings.storage_roots]
    own = [(settings.home / name).as_uri() for name in ("archives", "exports")]
    if not any(url == root or url.startswith(f"{root}/") for root in (*own, *roots)):
        allowed = ", ".join((*own, *roots))
        raise PlaceError(
            f"{url} is outside of the allowed roots ({allowed})",
            "Add it, or a folder above it, to STORAGE_ROOTS.",
        )
    scheme = urlsplit(url).scheme
    import fsspec

    try:
        options = {"use_listings_cache": False} if scheme != "file" else {}
        files = fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except ImportError:
        raise PlaceError(
            f"{scheme}:// needs the package {SCHEMES[scheme]}", f"pip install {SCHEMES[scheme]}"
        ) from None
    path = unquote(urlsplit(url).path) if scheme == "file" else url.partition("://")[2]
    return Place(url, files, path)


def canonical(address: str) -> str:
    """The one spelling of an address: links and dots resolved, no slash at the end.

    Raises:
        PlaceError: It is malformed, or its scheme is not allowed.
    """
    if not address or not address.isprintable() or "::" in address:
        raise PlaceError(f"{address!r} is no address", "Give a folder or a URL such as s3://bucket/prefix.")
    if "://" not in address:
        return Path(address).expanduser().resolve().as_uri()
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES:
        raise PlaceError(
            f"{parts.scheme}:// is not an allowed place",
            f"Use one of {', '.join(f'{s}://' for s in SCHEMES)}.",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: what stands there may be a secret.
        raise PlaceError(
            f"An address of {parts.scheme}:// holds more than a place (user, password, query or fragment)",
            "Give credentials in the store's own environment variables.",
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise PlaceError(f"{address} is no local address", "Write file:///absolute/path.")
        return Path(unquote(parts.path)).resolve().as_uri()
    path = parts.path.strip("/")
    if not parts.netloc:
        raise PlaceError(f"{address} names no bucket", f"Write {parts.scheme}://bucket/prefix.")
    return f"{parts.scheme}://{_checked('/'.join(filter(None, (parts.netloc, path))))}"


def _checked(name: str) -> str:
    """`name`, unless one of its parts could lead elsewhere."""
    for segment in name.split("/"):
        if not _SEGMENT.fullmatch(segment) or not segment.strip("."):
            raise PlaceError(
                f"{name!r} is not allowed as a path", "Use letters, digits and ._=@+- between slashes."
            )
    return name


def _put_local(source: Path, target: Path) -> None:
    for folder in (*reversed(target.parent.parents), target.parent):
        if not folder.exists():
            folder.mkdir(mode=_FOLDER, exist_ok=True)
    descriptor, staged = tempfile.mkstemp(dir=target.parent, prefix=".incoming-")
    try:
        with os.fdopen(descriptor, "wb") as out, source.open("rb") as content:
            shutil.copyfileobj(content, out)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(staged, _FILE)
        os.replace(staged, target)
    finally:
        Path(staged).unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
