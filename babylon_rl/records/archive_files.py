"""The folder of an archive: its manifest, how it is published, and how it is fetched and checked."""

import hashlib
from datetime import datetime
from pathlib import Path

import msgspec

from babylon_rl import windows
from babylon_rl.errors import BabylonError
from babylon_rl.records.line_files import LineFile, verify
from babylon_rl.records.places import Place

FORMAT = 1
MANIFEST = "manifest.json"
ROWS, CALLS, SNAPSHOT, GROUP, TABLES = "trajectories", "llm_calls", "snapshot", "group", "tables"
"""Names of the files: rows of the game, its call logs, two files of the artifact store, rows of `rl`."""
ARTIFACTS = {SNAPSHOT: "snapshot_uri", GROUP: "group_uri"}
"""Files of the artifact store, and the column of `rl.window_state` that names each."""


class ArchiveError(BabylonError):
    """A window that cannot be archived or restored."""


class Manifest(msgspec.Struct, frozen=True):
    """What an archive holds."""

    format: int
    window_id: str
    sha256: str
    """Of all files together: the folder's name."""
    archived_at: datetime
    code_version: str
    files: dict[str, LineFile]
    artifacts: dict[str, str]
    """Addresses of the snapshot and the group in the artifact store that they came from."""


def folder_of(window_id: str) -> str:
    """The folder of a window's archives; file names with colons are not portable."""
    return window_id.replace(":", "_")


def content_hash(files: dict[str, LineFile]) -> str:
    """The hash of an archive's content."""
    return hashlib.sha256(msgspec.json.encode({n: files[n].sha256 for n in sorted(files)})).hexdigest()


def publish(place: Place, folder: Path, manifest: Manifest) -> bool:
    """Copies staged files to a place and reads them back. Returns whether they were not there before."""
    target = f"{folder_of(manifest.window_id)}/{manifest.sha256}"
    if place.exists(f"{target}/{MANIFEST}"):
        return False
    returned = folder / "returned"
    for name, file in manifest.files.items():
        place.put(f"{target}/{line_file(folder, name).name}", line_file(folder, name))
        place.get(f"{target}/{line_file(folder, name).name}", returned)
        verify(returned, file.sha256)
    path = folder / MANIFEST
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    place.put(f"{target}/{MANIFEST}", path)
    return True


def fetch(place: Place, window_id: str, folder: Path, sha256: str | None = None) -> Manifest:
    """Copies an archive into a folder and checks it.

    Raises:
        ArchiveError: There is no such archive, or it is of a newer format.
        LineFileError: A file is damaged.
    """
    windows.parse_window(window_id)
    home = folder_of(window_id)
    found = [sha256] if sha256 else place.names(home)
    whole = [name for name in found if place.exists(f"{home}/{name}/{MANIFEST}")]
    manifests = [msgspec.json.decode(place.read(f"{home}/{n}/{MANIFEST}"), type=Manifest) for n in whole]
    if not manifests:
        raise ArchiveError(
            f"there is no archive of {window_id} at {place.url}", "Name another place or window."
        )
    newest = max(manifests, key=lambda manifest: manifest.archived_at)
    if newest.format > FORMAT:
        raise ArchiveError(
            f"the archive of {window_id} has format {newest.format}", "Restore it with a newer babylon_rl."
        )
    for name, file in newest.files.items():
        place.get(f"{home}/{newest.sha256}/{line_file(folder, name).name}", line_file(folder, name))
        verify(line_file(folder, name), file.sha256)
    return newest


def line_file(folder: Path, name: str) -> Path:
    """Where one of an archive's files lies in a local folder."""
    return folder / f"{name}.jsonl.zst"
