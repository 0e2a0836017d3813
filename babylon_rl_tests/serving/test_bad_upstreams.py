"""Upstreams that misbehave in every way: retried, then the base model; after the first token an error."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from babylon_rl_tests.serving.doubles import (
    TEXT,
    Behaviour,
    UpstreamDouble,
    chunks,
    completion,
    drop,
    event,
    hang,
    head,
    reply,
    say,
    status,
    stream_of,
)
from babylon_rl_tests.serving.running import ACTIVE, BASE, Gateway, serving, upstream

ASK: dict[str, Any] = {"model": "babylon-agent", "messages": [{"role": "user", "content": "BTC?"}]}
SSE = head(200, {"content-type": "text/event-stream", "connection": "close"})
PIECES = [event(piece) for piece in chunks({"model": "m"})]
JSON_LENGTH = {"content-type": "application/json", "content-length": "500"}


def odd(**fields: Any) -> Behaviour:
    return reply(200, json.dumps(completion({"model": "m"}) | fields).encode())


WHOLE: dict[str, Behaviour] = {
    "500": status(500),
    "502": status(502),
    "503": status(503, retry_after="0"),
    "529, a status of its own": status(529),
    "429": status(429, retry_after="1"),
    "a wait that nobody has time for": status(503, retry_after="3600"),
    "401, our key is wrong": status(401, "bad key sk-secret"),
    "404, it does not have the model": status(404),
    "a redirect": status(302, location="http://127.0.0.1:1/"),
    "never answers": hang(),
    "stops within the headers": hang(b"HTTP/1.1 200 OK\r\ncontent-ty"),
    "stops within the body": hang(head(200, JSON_LENGTH) + b'{"id":'),
    "resets at once": drop(),
    "resets within the body": drop(head(200, JSON_LENGTH) + b'{"id":'),
    "closes within the body": say(head(200, JSON_LENGTH) + b'{"id":'),
    "closes without a word": say(b""),
    "not HTTP": say(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a broken header": say(b"HTTP/1.1 200 OK\r\nbad header\x00: \r\n\r\n"),
    "HTML": reply(200, b"<html>login</html>", "text/html"),
    "half a JSON": reply(200, b'{"choices": [{"mess'),
    "no UTF-8": reply(200, b'{"choices": [{"message": {"content": "\xff"}}]}'),
    "an empty body": reply(200, b""),
    "null": reply(200, b"null"),
    "a list": reply(200, b"[]"),
    "no choices": odd(choices=[]),
    "choices of another type": odd(choices="none"),
    "a choice without a message": odd(choices=[{"index": 0}]),
    "a message of another type": odd(choices=[{"index": 0, "message": "hi"}]),
    "log-probabilities of another type": odd(
        choices=[{"message": {"content": "x"}, "logprobs": {"content": [{"token": 1}]}}]
    ),
    "an error with status 200": reply(200, b'{"error": {"message": "out of memory"}}'),
    "an endless nesting": reply(200, b"[" * 100_000),
}
STREAMS: dict[str, Behaviour] = {
    "JSON instead of events": odd(),
    "HTML instead of events": reply(200, b"<html>", "text/html"),
    "events of garbage": stream_of(b"data: {{{\n\n"),
    "events of another type": stream_of(b"data: 7\n\n"),
    "a delta of another type": stream_of(event({"choices": [{"delta": [1]}]})),
    "only comments, then nothing": stream_of(b": ping\n\n" * 3),
    "the end at once": stream_of(b"data: [DONE]\n\n"),
    "only the role, then a reset": stream_of(PIECES[0], then=drop()),
    "only the role, then nothing more": stream_of(PIECES[0], then=hang()),
    "an error before the first token": stream_of(PIECES[0], event({"error": {"message": "overloaded"}})),
    "one endless event": stream_of(b"data: " + b"x" * (5 << 20)),
    "never a first token": hang(SSE),
    "500": status(500),
    "closes without a word": say(b""),
}
BROKEN_STREAMS: dict[str, Behaviour] = {
    "a reset": stream_of(*PIECES[:2], then=drop()),
    "the end without a finish reason": stream_of(*PIECES[:2]),
    "done without a finish reason": stream_of(*PIECES[:2], b"data: [DONE]\n\n"),
    "an error event": stream_of(*PIECES[:2], event({"error": {"message": "out of memory"}})),
    "garbage": stream_of(*PIECES[:2], b"data: {{{\n\n"),
    "nothing more": stream_of(*PIECES[:2], then=hang()),
}


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


@pytest.fixture
def base() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


@pytest.fixture
def gateway(double: UpstreamDouble, base: UpstreamDouble, tmp_path: Path) -> Iterator[Gateway]:
    state = serving(upstream(double.url), upstream(base.url, name="fallback"))
    with Gateway(state, spool=tmp_path / "spool") as started:
        yield started


@pytest.mark.parametrize("fault", WHOLE)
def test_the_base_model_answers_instead(gateway: Gateway, double: UpstreamDouble, fault: str) -> None:
    double.behave = WHOLE[fault]
    answer = gateway.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert answer.json()["model"] == f"babylon-agent-{BASE}"
    assert (answer.headers["x-model-version"], answer.headers["x-fallback"]) == (BASE, "true")
    assert answer.headers["x-variant"] == "active", "the variant that was to answer"
    [kept] = gateway.kept()
    assert kept.fallback and kept.fallback_reason and kept.version == BASE


@pytest.mark.parametrize("fault", STREAMS)
def test_the_base_model_streams_instead(gateway: Gateway, double: UpstreamDouble, fault: str) -> None:
    double.behave = STREAMS[fault]
    with gateway.client().chat.completions.with_streaming_response.create(**ASK, stream=True) as raw:
        pieces = list(raw.parse())
        assert (raw.headers["x-model-version"], raw.headers["x-fallback"]) == (BASE, "true")
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == TEXT
    [kept] = gateway.kept()
    assert kept.fallback and kept.stream and kept.token_ids == [11, 12, 0]


@pytest.mark.parametrize("fault", BROKEN_STREAMS)
def test_after_the_first_token_there_is_an_error_and_no_other_model(
    gateway: Gateway, double: UpstreamDouble, base: UpstreamDouble, fault: str
) -> None:
    double.behave = BROKEN_STREAMS[fault]
    text = ""
    with pytest.raises(openai.APIError, match="failed within its answer"):
        for piece in gateway.client().chat.completions.create(**ASK, stream=True):
            text += piece.choices[0].delta.content or ""
    assert text == " buy", "what had arrived"
    assert base.requests == []
    [kept] = gateway.kept()
    assert (kept.status, kept.error, kept.finish_reason) == (502, "upstream_error", None)
    assert kept.answer is not None and b" buy" in kept.answer


def test_what_fails_once_is_asked_again(
    gateway: Gateway, double: UpstreamDouble, base: UpstreamDouble
) -> None:
    for fault in ("500", "503", "429", "resets at once", "closes without a word", "half a JSON"):
        double.next(WHOLE[fault])
        answer = gateway.ask()
        assert (answer.headers["x-model-version"], answer.headers["x-fallback"]) == (ACTIVE, "false"), fault
    assert base.requests == []
    assert [call.attempts for call in gateway.kept()] == [2] * 6


def test_a_request_at_fault_is_refused_once_and_changes_nothing(
    gateway: Gateway, double: UpstreamDouble, base: UpstreamDouble
) -> None:
    double.behave = status(400, "messages: too many images")
    for _ in range(10):
        answer = gateway.ask()
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "message": "messages: too many images.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_request_error",
        }
    assert len(double.requests) == 10 and base.requests == []


def test_the_breaker_spares_a_dead_upstream_and_finds_it_again(
    gateway: Gateway, double: UpstreamDouble, base: UpstreamDouble
) -> None:
    double.die()
    began = time.monotonic()
    answers = [gateway.ask() for _ in range(20)]
    assert {answer.headers["x-model-version"] for answer in answers} == {BASE}
    circuit = gateway.get("/readyz").json()["versions"][ACTIVE]["circuit"]
    assert circuit == "open" and time.monotonic() - began < 2
    failed = 'babylon_gateway_upstream_failures_total{reason="connect",upstream="upstream",version="v0.0.1"}'
    [line] = [line for line in gateway.get("/metrics").text.splitlines() if line.startswith(failed)]
    assert float(line.split()[-1]) <= 10, "then it was left alone"

    double.start()
    limit = time.monotonic() + 10
    while gateway.ask().headers["x-model-version"] != ACTIVE:
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert gateway.get("/readyz").json()["versions"][ACTIVE]["circuit"] == "closed"


@pytest.mark.parametrize(
    ("fault", "code", "name"),
    [
        ("500", 502, "upstream_error"),
        ("never answers", 504, "upstream_error"),
        ("429", 503, "model_overloaded"),
    ],
)
def test_without_a_fallback_the_client_gets_an_error(
    double: UpstreamDouble, fault: str, code: int, name: str, tmp_path: Path
) -> None:
    double.behave = WHOLE[fault]
    state = serving(upstream(double.url), fallback=False)
    with Gateway(state, spool=tmp_path / "spool", retries=0) as gateway:
        for stream in (False, True):
            answer = gateway.ask(stream=stream)
            assert answer.status_code == code and answer.json()["error"]["code"] == name
            assert int(answer.headers["retry-after"]) >= 1
        for _ in range(4):
            gateway.ask()
        refused = gateway.ask()
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "model_unavailable"
        assert gateway.get("/readyz").json()["problems"] == ["no upstream answers"]
        assert [call.error for call in gateway.kept()][:2] == [name, name], "failed calls are recorded"


def test_secrets_and_addresses_of_an_upstream_stay_here(double: UpstreamDouble) -> None:
    double.behave = status(401, "Incorrect API key sk-secret for http://10.0.0.7")
    with Gateway(serving(upstream(double.url), fallback=False), retries=0) as gateway:
        text = gateway.ask().text
    assert "sk-secret" not in text and "10.0.0.7" not in text and str(double.port) not in text


def test_a_client_that_goes_away_frees_the_upstream(gateway: Gateway, double: UpstreamDouble) -> None:
    double.behave = stream_of(*PIECES[:2], then=hang())
    stream = gateway.client().chat.completions.create(**ASK, stream=True)
    next(iter(stream))
    stream.close()
    limit = time.monotonic() + 5
    while not (kept := gateway.kept()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert (kept[0].status, kept[0].error) == (499, "client_gone")
    assert "babylon_gateway_in_flight 0.0" in gateway.get("/metrics").text
