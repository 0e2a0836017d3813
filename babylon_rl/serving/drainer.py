"""The drainer: brings the spool's calls into PostgreSQL, each once, usually within a tenth of a second.

    python -m babylon_rl.serving.drainer FOLDER        (the database's address on standard input)

The gateway runs it as a process of its own, so that neither decoding nor the database takes time from
answers. It ends when its standard input does, after everything that is there is stored. A call is one row of
`rl.llm_calls`, keyed by its response id, so repeating after a crash changes nothing. What PostgreSQL refuses,
and what is damaged, is kept in `rejected/`, never dropped silently.
"""

import asyncio
import fcntl
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import asyncpg
import msgspec

from babylon_rl.database.session import connect
from babylon_rl.errors import BabylonError
from babylon_rl.serving.calls import CapturedCall, content_of, why_untrainable
from babylon_rl.serving.spool import UnreadableError, has_writer, read_frames, segments

log = logging.getLogger(__name__)

ROLE = "babylon_gateway"
IDLE_SECONDS = 0.1
SMALL = 500
"""Calls at once after which there is no pause."""
LONGEST_PAUSE = 5.0
BATCH_BYTES = 1 << 20
"""Read from a segment at once."""

_COLUMNS = (
    "response_id, upstream_id, started_at, latency_ms, first_token_ms, agent_id, agent_verified, api_key,"
    " requested_model, version, variant, upstream, model, fallback, fallback_reason, attempts, stream,"
    " status, error, messages, tools, parameters, temperature, top_p, max_tokens, seed, answer,"
    " finish_reason, prompt_tokens, completion_tokens, prompt_token_ids, token_ids, logprobs, logprobs_of,"
    " chat_template_hash, capture_level, rollout_id, owner_id, content_sha256, untrainable"
)
# Arrays go as text: the driver's own encoding looks at every element for far longer than the server's parser.
_ARRAYS = {"prompt_token_ids": "integer[]", "token_ids": "integer[]", "logprobs": "real[]"}
_PLACES = ", ".join(
    f"${number}::text::{_ARRAYS[name]}" if name in _ARRAYS else f"${number}"
    for number, name in enumerate(_COLUMNS.split(", "), 1)
)
_INSERT = f"INSERT INTO rl.llm_calls ({_COLUMNS}) VALUES ({_PLACES}) ON CONFLICT (response_id) DO NOTHING"

_TEXTS = ("error", "fallback_reason", "agent_id", "requested_model", "model", "upstream_id", "owner_id")
"""What a client or an upstream chose, without JSON's escapes: PostgreSQL refuses NUL in it."""

_FIELDS = {field: index for index, field in enumerate(CapturedCall.__struct_fields__)}

_decoder = msgspec.msgpack.Decoder(CapturedCall)


class Cursor:
    """How far the spool is drained: kept in a file, written after each commit."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "cursor.json"
        try:
            self._offsets: dict[str, int] = msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.MsgspecError):  # repeating is harmless
            self._offsets = {}

    def get(self, segment: Path) -> int:
        return self._offsets.get(segment.name, 0)

    def advance(self, segment: Path, offset: int) -> None:
        self._offsets[segment.name] = offset
        self._write()

    def forget(self, segment: Path) -> None:
        if self._offsets.pop(segment.name, None) is not None:
            self._write()

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.write_bytes(msgspec.json.encode(self._offsets))
        os.replace(scratch, self._path)


class Drainer:
    """Drains one folder through one connection."""

    def __init__(self, folder: Path, rl: asyncpg.Connection) -> None:
        self._folder, self._rl = folder, rl
        self._cursor = Cursor(folder)

    async def drain(self) -> int:
        """Stores what is there now and removes finished segments; returns the number of calls read.

        Raises:
            asyncpg.PostgresError, OSError: the database is away; nothing is lost, try again.
        """
        return sum([await self._drain_segment(segment) for segment in segments(self._folder)])

    async def _drain_segment(self, segment: Path) -> int:
        ended = not has_writer(segment)  # before reading: what is written later is read next time
        count, offset = 0, self._cursor.get(segment)
        with segment.open("rb") as file:
            while True:
                batch = _read_batch(file, offset)
                if batch.payloads:
                    await self._store(batch.payloads)
                for start, payload in batch.damaged:
                    self._keep(f"{segment.name}@{start}", payload, "a checksum does not match")
                if batch.end == offset:
                    break
                count += len(batch.payloads)
                offset = batch.end
                self._cursor.advance(segment, offset)
            if ended:
                self._finish(segment, file, offset, batch.problem)
        return count

    def _finish(self, segment: Path, file: IO[bytes], offset: int, problem: str) -> None:
        """Removes a segment that nobody writes to any more; what cannot be read of it is kept."""
        file.seek(offset)
        if rest := file.read():
            self._keep(f"{segment.name}@{offset}", rest, problem)
        segment.unlink()
        self._cursor.forget(segment)

    async def _store(self, payloads: Sequence[bytes]) -> None:
        rows = [row for payload in payloads if (row := self._row(payload)) is not None]
        try:
            await self._rl.executemany(_INSERT, rows)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError):
            for row in rows:
                try:
                    await self._rl.execute(_INSERT, *row)
                except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError) as error:
                    self._keep(f"{row[0]}.json", msgspec.json.encode(row), str(error))

    def _row(self, payload: bytes) -> tuple[object, ...] | None:
        try:
            call = _decoder.decode(payload)
            return to_row(call)
        except (msgspec.MsgspecError, UnicodeError) as error:
            name = f"{hash(payload) & 0xFFFFFFFF:08x}.msgpack"
            self._keep(name, payload, f"not a call: {error}")
            return None

    def _keep(self, name: str, content: bytes, reason: str) -> None:
        folder = self._folder / "rejected"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        log.error("%d bytes of captured calls went to %s: %s", len(content), folder / name, reason)


@dataclass
class _Batch:
    end: int
    """Offset behind the last whole frame."""
    payloads: list[bytes]
    damaged: list[tuple[int, bytes]]
    problem: str = "the last frame was cut, so it was never acknowledged"
    """Why there is no frame at `end`, if the file goes on there."""


def _read_batch(file: IO[bytes], offset: int) -> _Batch:
    """Whole frames from `offset` on."""
    file.seek(offset)
    data, batch = b"", _Batch(offset, [], [])
    while batch.end == offset:  # one frame may be larger than one read
        more = file.read(BATCH_BYTES)
        if not more:
            break
        data += more
        try:
            for payload, end, whole in read_frames(data):
                if whole:
                    batch.payloads.append(payload)
                else:
                    batch.damaged.append((batch.end, payload))
                batch.end = offset + end
        except UnreadableError as error:
            batch.problem = str(error)
            break
    return batch


def to_row(call: CapturedCall) -> tuple[object, ...]:
    """The values of `_COLUMNS`."""
    values = list(msgspec.structs.astuple(call))
    fields = _FIELDS
    values[fields["started_at"]] = datetime.fromtimestamp(call.started_at, UTC)
    for name in ("messages", "tools", "parameters", "answer"):
        value = values[fields[name]]
        values[fields[name]] = None if value is None else value.decode()
    for name in _ARRAYS:
        value = values[fields[name]]
        values[fields[name]] = None if value is None else f"{{{str(value)[1:-1]}}}"
    for name in _TEXTS:
        value = values[fields[name]]
        values[fields[name]] = None if value is None else value.replace("\0", "\ufffd")
    return (*values, content_of(call), why_untrainable(call))


async def run(folder: Path, dsn: str, ended: asyncio.Event) -> None:
    """Drains until `ended` is set and nothing is left; a database that is away only delays it."""
    pause = 0.05
    with _only_one(folder):
        while True:
            try:
                rl = await connect(dsn, role=ROLE, command_timeout=60)
                try:
                    await _drain_until(Drainer(folder, rl), ended)
                    return
                finally:
                    await rl.close()
            except (BabylonError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                log.warning("captured calls wait in the spool: %s", error)
                if ended.is_set() and pause >= LONGEST_PAUSE:
                    return
                pause = min(LONGEST_PAUSE, 2 * pause)
                await asyncio.sleep(pause)


async def _drain_until(drainer: Drainer, ended: asyncio.Event) -> None:
    while True:
        last = ended.is_set()
        count = await drainer.drain()
        if last and not count:
            return
        if not last and count < SMALL:  # a few at a time would cost a commit each
            await asyncio.sleep(IDLE_SECONDS)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Waits until no other drainer works on this folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "drainer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def _main() -> None:
    folder = Path(sys.argv[1])
    dsn = sys.stdin.readline().strip()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    source = sys.stdin.fileno()

    def look() -> None:
        if not os.read(source, 4096):
            loop.remove_reader(source)
            ended.set()

    loop.add_reader(source, look)
    await run(folder, dsn, ended)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s babylon drainer: %(message)s")
    asyncio.run(_main())
