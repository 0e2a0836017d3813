"""Deleting agents from stored files: snapshots, groups, batches in the artifact store, and archives.

Stored files are never changed: a file that holds the agent gets a successor without, under its own hash,
and is deleted once everything that points to it has been told.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from babylon_rl.records.archive_files import (
    CALLS,
    GROUP,
    ROWS,
    SNAPSHOT,
    TABLES,
    Manifest,
    content_hash,
    line_file,
)
from babylon_rl.records.forgotten import Forgotten
from babylon_rl.records.line_files import LineFile, read_lines, write_lines
from babylon_rl.records.store import SUFFIX, ArtifactStore

TRAINING_BATCH = "training_batch"
"""The kind of artifact whose first record counts the others."""
_RESPONSE_ID = re.compile(r'"responseId"\s*:\s*"([^"\\]+)"')
TRAINED_AS = "trained_as"
"""Key in that record: the hash under which the batch was trained."""


class Replaced(msgspec.Struct, frozen=True):
    """A stored file that was replaced by one without the agents."""

    old_uri: str
    new_uri: str
    new_sha256: str
    response_ids: list[str]
    """Of the LLM calls that were taken out."""

    @property
    def old_sha256(self) -> str:
        return _sha256(self.old_uri)


def scrub_store(store: ArtifactStore, agents: Forgotten) -> Iterator[Replaced]:
    """Replaces every file of the store that holds one of the agents, whether something points to it or not.

    Yields each when its successor is there; the old one is deleted when the iteration goes on, so that a
    crash in between leaves two files and no gap.
    """
    for path in sorted(store.root.glob(f"*/*/*{SUFFIX}")):
        uri = str(path.relative_to(store.root))
        kind, name, _ = uri.split("/")
        records = store.get(uri)
        kept = [record for record in records if record.get("agent_id") not in agents]
        told = kind == TRAINING_BATCH and any(p["agent_id"] in agents for p in records[0].get("prompts", ()))
        if len(kept) == len(records) and not told:
            continue
        if kind == TRAINING_BATCH:
            kept[0] = _summary_without(kept, path, agents)
        artifact = store.put(kind, name, kept)
        dropped = [record for record in records if record.get("agent_id") in agents]
        yield Replaced(
            uri, artifact.uri, artifact.sha256, response_ids(msgspec.json.encode(dropped).decode())
        )
        path.unlink()


def response_ids(text: str) -> list[str]:
    """The response ids of the LLM calls in recorded steps, given as JSON."""
    return _RESPONSE_ID.findall(text)


def without_agents(folder: Path, manifest: Manifest, agents: Forgotten) -> Manifest:
    """Rewrites the files of a fetched archive without the agents; returns what it is then."""
    if not agents:
        return manifest
    dropped: set[str | None] = set()

    def kept(name: str) -> Iterator[bytes]:
        for line in read_lines(line_file(folder, name)):
            record = msgspec.json.decode(line)
            record = record.get("row", record)
            agent = record.get("agent_id") or record.get("agentId")
            trajectory = record.get("trajectory_id") or record.get("trajectoryId")
            if agent in agents:
                dropped.add(trajectory)
            elif trajectory is None or trajectory not in dropped:
                yield line

    files, artifacts = dict(manifest.files), dict(manifest.artifacts)
    for name in (ROWS, CALLS, SNAPSHOT, GROUP):
        if name in files:
            files[name] = _rewrite(folder, name, kept(name))
    for name, uri in artifacts.items():
        artifacts[name] = f"{uri.rsplit('/', 1)[0]}/{files[name].sha256}{SUFFIX}"
    moved = {_sha256(old): _sha256(artifacts[name]) for name, old in manifest.artifacts.items()}
    files[TABLES] = _rewrite(folder, TABLES, (_pointing(line, moved) for line in kept(TABLES)))
    if files == manifest.files:
        return manifest
    return msgspec.structs.replace(manifest, files=files, artifacts=artifacts, sha256=content_hash(files))


def _summary_without(records: list[dict[str, Any]], path: Path, agents: Forgotten) -> dict[str, Any]:
    summary, *episodes = records
    prompts = [prompt for prompt in summary.get("prompts", ()) if prompt["agent_id"] not in agents]
    return summary | {
        **({"prompts": prompts} if "prompts" in summary else {}),
        "episodes": len(episodes),
        "calls": sum(len(episode["calls"]) for episode in episodes),
        TRAINED_AS: summary.get(TRAINED_AS) or path.name.removesuffix(SUFFIX),
    }


def _pointing(line: bytes, moved: dict[str, str]) -> bytes:
    """A row of `rl` that names the artifacts by the hashes that they have now."""
    for old, new in moved.items():
        line = line.replace(old.encode(), new.encode())
    return line


def _sha256(uri: str) -> str:
    return uri.rsplit("/", 1)[1].removesuffix(SUFFIX)


def _rewrite(folder: Path, name: str, lines: Iterable[bytes]) -> LineFile:
    scratch = folder / "rewritten"
    result = write_lines(scratch, lines)
    os.replace(scratch, line_file(folder, name))
    return result
