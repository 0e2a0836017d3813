"""An OpenAI-compatible upstream behind a real socket that can be told to misbehave.

with UpstreamDouble() as upstream:
    upstream.next(status(503), hang())      # the next two requests; later ones are answered well
    ... upstream.url ...
    upstream.requests                        # bodies that arrived
"""

import asyncio
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Behaviour = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]

PROMPT_IDS = [1, 2, 3]
TOKENS = [(11, " buy", -0.5), (12, " it", -0.25), (0, "", -0.125)]
TEXT = "".join(text for _, text, _ in TOKENS)


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class UpstreamDouble:
    """Answers every model by name; log-probabilities differ by model, as different weights' would."""

    behave: Behaviour | None = None
    """What it does unless told otherwise by `next`."""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._script: deque[Behaviour] = deque()
        self._loop = asyncio.new_event_loop()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        ready = threading.Event()
        self._loop.call_soon(ready.set)
        self._thread.start()
        ready.wait()
        self.start()

    def next(self, *behaviours: Behaviour) -> None:
        self._script.extend(behaviours)

    def start(self) -> None:
        """Listens (again)."""
        self._call(self._listen())

    def die(self) -> None:
        """Like kill -9: nobody listens, open connections are reset."""
        self._call(self._die())

    def __enter__(self) -> "UpstreamDouble":
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        self._loop.run_forever()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=5)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)

    async def _die(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            reset(writer)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                behaviour = self._script.popleft() if self._script else self.behave or answer()
                await behaviour(request, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    first = await reader.readline()
    if not first:
        return None
    headers: dict[str, str] = {}
    while (line := (await reader.readline()).decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(first.decode().split()[1], headers, json.loads(body or b"{}"))


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """A good answer; with vLLM's token ids if asked for."""
    shift = sum(body.get("model", "").encode()) % 97 / 1000
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": TEXT},
        "finish_reason": "stop",
        "logprobs": {"content": [_logprob(text, value - shift) for _, text, value in TOKENS]}
        if body.get("logprobs")
        else None,
    }
    if body.get("tools"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"size":2}'}
        call = {"id": "call_1", "type": "function", "function": function}
        choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice["finish_reason"] = "tool_calls"
    whole = {
        "id": "upstream-id",
        "object": "chat.completion",
        "created": 1,
        "model": body.get("model", ""),
        "choices": [choice],
        "usage": _usage(),
    }
    if body.get("return_token_ids"):
        whole["prompt_token_ids"] = PROMPT_IDS
        choice["token_ids"] = [token for token, _, _ in TOKENS]
    return whole


def chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The same as a stream."""
    whole = completion(body)
    [choice] = whole["choices"]
    head = {"id": whole["id"], "object": "chat.completion.chunk", "created": 1, "model": whole["model"]}
    first = head | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    first |= {name: whole[name] for name in ("prompt_token_ids",) if name in whole}
    pieces = [first]
    if "tool_calls" in choice["message"]:
        function = choice["message"]["tool_calls"][0]["function"]
        starts = {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": function["name"], "arguments": ""},
        }
        parts = [starts, *({"index": 0, "function": {"arguments": part}} for part in ('{"size"', ":2}"))]
        pieces += [head | {"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts]
    else:
        for number, (token, text, _) in enumerate(TOKENS):
            one: dict[str, Any] = {"index": 0, "delta": {"content": text}}
            if choice["logprobs"]:
                one["logprobs"] = {"content": [choice["logprobs"]["content"][number]]}
            if "token_ids" in choice:
                one["token_ids"] = [token]
            pieces.append(head | {"choices": [one]})
    pieces.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        pieces.append(head | {"choices": [], "usage": _usage()})
    return pieces


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def _logprob(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}


def event(piece: Any) -> bytes:
    return b"data: " + json.dumps(piece).encode() + b"\n\n"


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer(delay: float = 0.0, piece_delay: float = 0.0) -> Behaviour:
    """Answers well, whole or as a stream."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay)
        if not request.body.get("stream"):
            body = json.dumps(completion(request.body)).encode()
            return await reply(200, body)(request, writer)
        writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        for piece in chunks(request.body):
            writer.write(chunk(event(piece)))
            await writer.drain()
            await asyncio.sleep(piece_delay)
        writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))

    return behave


def reply(code: int, body: bytes, content_type: str = "application/json", **headers: str) -> Behaviour:
    """Answers with exactly this."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        sent = {"content-type": content_type, "content-length": str(len(body))}
        writer.write(
            head(code, sent | {name.replace("_", "-"): value for name, value in headers.items()}) + body
        )

    return behave


def status(code: int, message: str = "no", **headers: str) -> Behaviour:
    """An error as OpenAI's servers write it."""
    return reply(code, json.dumps({"error": {"message": message}}).encode(), **headers)


def say(raw: bytes) -> Behaviour:
    """Writes these bytes, whatever they are, and closes the connection."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return behave


def hang(first: bytes = b"") -> Behaviour:
    """Writes `first` and then nothing."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await writer.drain()
        await asyncio.sleep(3600)

    return behave


def drop(first: bytes = b"") -> Behaviour:
    """Writes `first` and resets the connection."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)

    return behave


def stream_of(*events: bytes, then: Behaviour | None = None) -> Behaviour:
    """A stream of these raw events, closed at its end unless `then` goes on."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, {"content-type": "text/event-stream", "connection": "close"}))
        for one in events:
            writer.write(one)
            await writer.drain()
            await asyncio.sleep(0.02)
        if then is not None:
            await then(request, writer)
        else:
            writer.close()

    return behave
