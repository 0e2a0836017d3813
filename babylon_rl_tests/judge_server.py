"""A judge for the tests: real HTTP on 127.0.0.1, chat completions with structured output, honest or not.

    with judge_server() as judge:
        judge.then("rate_limited:1", "fenced")     # the next two requests; afterwards judge.manner again
        judge.url                                  # http://127.0.0.1:…/v1

`MANNERS` lists how it can answer; `fuzz` answers request n with `judge_fuzz.fuzz(n, …)`.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from babylon_rl_tests.judge_fuzz import fuzz
from babylon_rl_tests.judge_reading import MARK, demands, lenient, owner, reply_text, strict, worth

KEY = "judge-key-of-the-tests"


@dataclass
class Seen:
    """One request."""

    body: dict[str, Any]
    key: str
    at: float

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body["messages"]

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.messages)

    def honest(self) -> dict[str, Any]:
        return {name: worth(body) for name, body in strict(self.messages).items()}

    @property
    def id_key(self) -> str:
        return "id" if MARK.search(self.messages[0]["content"]) else "trajectory_id"


@dataclass
class Load:
    """Requests at the same time; a new one after a reset, so that left-over requests count nowhere."""

    now: int = 0
    most: int = 0


@dataclass
class JudgeServer:
    """What a test sees of the server."""

    manner: str = "honest"
    delay: float = 0.0
    models: tuple[str, ...] = ()
    """Names that it knows; empty for all."""
    key: str | None = None
    """The only key that it takes; None for any."""
    seen: list[Seen] = field(default_factory=list)
    keep: bool = True
    by_model: dict[str, str] = field(default_factory=dict)
    """Manner of a model, instead of `manner`."""
    port: int = 0
    calls: int = 0
    load: Load = field(default_factory=Load)
    _script: list[str] = field(default_factory=list)

    @property
    def most_at_once(self) -> int:
        return self.load.most

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def reset(self) -> None:
        """As new, on the same port."""
        self.__dict__.update(JudgeServer(port=self.port).__dict__)

    def then(self, *manners: str) -> None:
        """How the next requests are answered, one each."""
        self._script += manners

    def choose(self, body: dict[str, Any]) -> str:
        if self._script:
            return self._script.pop(0)
        return self.by_model.get(str(body.get("model")), self.manner)


def answer(
    text: str | None, *, finish: str = "stop", refusal: str | None = None, seen: Seen | None = None
) -> Response:
    sent = sum(len(message["content"]) for message in seen.messages) // 4 if seen else 0
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return JSONResponse(
        {
            "id": "chatcmpl-judge",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "judge",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": sent,
                "completion_tokens": len(text or "") // 4,
                "total_tokens": sent + len(text or "") // 4,
            },
        }
    )


def error(status: int, code: str, message: str, **headers: str) -> Response:
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return JSONResponse(body, status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def _scores(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Seen], Response]:
    return lambda seen: answer(reply_text(change(seen.honest()), seen.id_key), seen=seen)


def _text(change: Callable[[str], str], finish: str = "stop") -> Callable[[Seen], Response]:
    return lambda seen: answer(change(reply_text(seen.honest(), seen.id_key)), finish=finish, seen=seen)


def _replace_first(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda scores: {**scores, next(iter(scores)): value}


def _duplicate(seen: Seen) -> Response:
    entries = json.loads(reply_text(seen.honest(), seen.id_key))["scores"]
    return answer(json.dumps({"scores": [entries[0], *entries[:-1]]}), seen=seen)


def _gullible(seen: Seen, *, own_data: bool) -> Response:
    """Believes tags that it only thinks it sees, and obeys demands that it finds outside of the data."""
    scores, bodies, read = seen.honest(), strict(seen.messages), lenient(seen.messages)
    for name, body in bodies.items():
        attacker = owner(body)
        others = {block: text for block, text in read.blocks.items() if block not in (name, "ground_truth")}
        foreign = read.outside + "".join(others.values())
        if attacker and attacker in demands(foreign):
            scores[name] = 1.0
        if own_data and re.search(r"scored?\W{0,3}1\.0", body):
            scores[name] = 1.0
    return answer(reply_text(scores, seen.id_key), seen=seen)


def _by_position(seen: Seen) -> Response:
    names = list(seen.honest())
    return answer(reply_text({n: 1 - i / len(names) for i, n in enumerate(names)}, seen.id_key), seen=seen)


def _without(option: str, message: str) -> Callable[[Seen], Response]:
    def respond(seen: Seen) -> Response:
        if option in seen.body:
            return error(400, "unsupported_parameter", message)
        return MANNERS["honest"](seen)

    return respond


def _too_long(limit: int) -> Callable[[Seen], Response]:
    def respond(seen: Seen) -> Response:
        if len(strict(seen.messages)) > limit:
            return error(400, "context_length_exceeded", "This model's maximum context length is exceeded")
        return MANNERS["honest"](seen)

    return respond


MANNERS: dict[str, Callable[[Seen], Response]] = {
    "honest": _scores(lambda scores: scores),
    "reordered": _scores(lambda scores: dict(reversed(scores.items()))),
    "inverted": _scores(lambda scores: {name: 1 - score for name, score in scores.items()}),
    "flat": _scores(lambda scores: dict.fromkeys(scores, 0.5)),
    "missing": _scores(lambda scores: dict(list(scores.items())[1:])),
    "extra": _scores(lambda scores: {**scores, "nobody": 0.5}),
    "out_of_range": _scores(_replace_first(7.0)),
    "negative": _scores(_replace_first(-3.0)),
    "nan": _scores(_replace_first(float("nan"))),
    "null": _scores(_replace_first(None)),
    "strings": _scores(lambda scores: {name: str(score) for name, score in scores.items()}),
    "words": _scores(_replace_first("high")),
    "duplicate": _duplicate,
    "fenced": _text(lambda text: f"```json\n{text}\n```"),
    "prose": _text(lambda text: f"Here is my judgment:\n{text}\nI hope this helps."),
    "thinking": _text(lambda text: f"<think>First {{draft}} ideas.</think>\n{text}"),
    "truncated": _text(lambda text: text[: len(text) // 2]),
    "cut": _text(lambda text: text[: len(text) // 2], finish="length"),
    "empty": lambda seen: answer("", seen=seen),
    "nothing": lambda seen: answer(None, seen=seen),
    "refusal": lambda seen: answer(None, refusal="I cannot judge people.", seen=seen),
    "filtered": lambda seen: answer(None, finish="content_filter", seen=seen),
    "no_choices": lambda seen: JSONResponse({"id": "x", "object": "chat.completion", "choices": []}),
    "html": lambda seen: PlainTextResponse("<html>proxy login</html>", media_type="text/html"),
    "list": lambda seen: JSONResponse([1, 2, 3]),
    "wrong_key": lambda seen: error(401, "invalid_api_key", f"Incorrect API key provided: {seen.key}"),
    "unknown_model": lambda seen: error(404, "model_not_found", "The model does not exist"),
    "no_credit": lambda seen: error(429, "insufficient_quota", "You exceeded your current quota"),
    "overloaded": lambda seen: error(503, "overloaded", "The server is overloaded"),
    "broken": lambda seen: error(500, "server_error", "The server had an error"),
    "too_long": lambda seen: error(400, "context_length_exceeded", "maximum context length is 8192 tokens"),
    "bad_request": lambda seen: error(400, "invalid_request", "no"),
    "no_schema": _without("response_format", "'response_format' is not supported by this model"),
    "no_temperature": _without("temperature", "Unsupported value: 'temperature' does not support 0.0"),
    "redirect": lambda seen: RedirectResponse("http://example.com/v1/chat/completions", 307),
    "gullible": lambda seen: _gullible(seen, own_data=False),
    "obedient": lambda seen: _gullible(seen, own_data=True),
    "by_position": _by_position,
}


def make_app(judge: JudgeServer) -> Starlette:
    async def complete(request: Request) -> Response:
        judge.calls += 1
        load = judge.load
        load.now += 1
        load.most = max(load.most, load.now)
        try:
            body = await request.json()
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
            seen = Seen(body, key, time.monotonic())
            if judge.keep:
                judge.seen.append(seen)
            if judge.key is not None and key != judge.key:
                return MANNERS["wrong_key"](seen)
            if judge.models and body.get("model") not in judge.models:
                return MANNERS["unknown_model"](seen)
            if judge.delay:
                await asyncio.sleep(judge.delay)
            return await _respond(judge, seen, judge.choose(body))
        finally:
            load.now -= 1

    async def stats(request: Request) -> Response:
        return JSONResponse({"calls": judge.calls, "most_at_once": judge.most_at_once})

    return Starlette(
        routes=[Route("/v1/chat/completions", complete, methods=["POST"]), Route("/stats", stats)]
    )


async def _respond(judge: JudgeServer, seen: Seen, manner: str) -> Response:
    name, _, value = manner.partition(":")
    if name == "fuzz":
        text, finish = fuzz(judge.calls - 1, seen.honest(), seen.id_key)
        return answer(text, finish=finish, seen=seen)
    if name == "rate_limited":
        return error(
            429, "rate_limit_exceeded", "Rate limit reached", **({"retry_after": value} if value else {})
        )
    if name == "hang":
        await asyncio.sleep(float(value or 3600))
        return MANNERS["honest"](seen)
    if name == "fits":
        return _too_long(int(value))(seen)
    if name in ("drip", "drop", "huge"):
        return StreamingResponse(_badly(name), media_type="application/json")
    return MANNERS[name](seen)


async def _badly(name: str) -> AsyncIterator[bytes]:
    yield b'{"id": "x", '
    if name == "drop":
        raise ConnectionResetError("on purpose")
    for _ in range(3600 if name == "drip" else 12):
        yield b" " if name == "drip" else b" " * 2**20
        await asyncio.sleep(0.05 if name == "drip" else 0)


@contextlib.contextmanager
def judge_server(**options: Any) -> Iterator[JudgeServer]:
    """Runs the server in a thread of this process on a free port."""
    judge = JudgeServer(**options)
    config = uvicorn.Config(
        make_app(judge),
        host="127.0.0.1",
        port=0,
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=0,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    judge.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield judge
    finally:
        server.should_exit = server.force_exit = True
        thread.join(5)


def main() -> None:
    """Runs the server in a process of its own, until it is terminated; prints its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manner", default="honest")
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    with judge_server(manner=arguments.manner, delay=arguments.delay, keep=False) as judge:
        print(judge.url, flush=True)
        while True:
            time.sleep(random.random() + 1)


if __name__ == "__main__":
    main()
