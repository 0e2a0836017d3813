"""Clients that send too much, too slowly, too often, with a wrong key or nonsense: each gets an error."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from babylon_rl.serving.callers import Keyring
from babylon_rl.serving.chat import Limits
from babylon_rl.serving.errors import GatewaySetupError
from babylon_rl_tests.serving.doubles import TEXT, UpstreamDouble, answer, hang
from babylon_rl_tests.serving.running import Gateway, serving, upstream

SHARED, BOUND = "key-for-everybody-0123456789", "key-of-agent-7-0123456789"


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


@pytest.fixture
def gateway(double: UpstreamDouble, tmp_path: Path) -> Iterator[Gateway]:
    limits = Limits(body_bytes=10_000, client_seconds=0.5, in_flight=4)
    with Gateway(serving(upstream(double.url)), spool=tmp_path / "spool", limits=limits) as started:
        yield started


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, "The body is not JSON"),
        (b"{", None, "The body is not JSON"),
        (b'{"messages": NaN}', None, "The body is not JSON"),
        (b"\xff\xfe", None, "The body is not JSON"),
        (b'{"x":' + b"[" * 5000, None, "The body is not JSON"),
        (b"[]", None, "expected `object`, got `array`"),
        (b"{}", "messages", "missing required field `messages`"),
        (b'{"messages": []}', "messages", "length >= 1"),
        (b'{"messages": [{"content": "x"}]}', "messages", "missing required field `role`"),
        (b'{"messages": [{"role": "user"}], "temperature": 2.1}', "temperature", "<= 2.0"),
        (b'{"messages": [{"role": "user"}], "temperature": "hot"}', "temperature", "got `str`"),
        (b'{"messages": [{"role": "user"}], "max_tokens": 0}', "max_tokens", ">= 1"),
        (b'{"messages": [{"role": "user"}], "max_tokens": 1e99}', "max_tokens", "max_tokens"),
        (b'{"messages": [{"role": "user"}], "seed": 9223372036854775808}', "seed", "seed"),
        (b'{"messages": [{"role": "user"}], "n": 2}', "n", "only one answer"),
        (b'{"messages": [{"role": "user"}], "stream": "yes"}', "stream", "got `str`"),
        (b'{"messages": [{"role": "user"}], "stop": [1]}', "stop", "got `int`"),
    ],
)
def test_a_body_at_fault_is_named(gateway: Gateway, body: bytes, param: str | None, words: str) -> None:
    refused = gateway.post(body)
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and words in error["message"]


def test_a_cut_emoji_is_repaired(gateway: Gateway, double: UpstreamDouble) -> None:
    answered = gateway.post(b'{"messages": [{"role": "user", "content": "moon \\ud83d"}], "top_k": 3}')
    assert answered.status_code == 200
    assert double.requests[0].body["messages"][0]["content"] == "moon �"
    assert double.requests[0].body["top_k"] == 3


def test_nul_and_other_odd_text_is_passed_on_as_it_is(gateway: Gateway, double: UpstreamDouble) -> None:
    text = "a\u0000b </s> <|im_end|> \u202e \U0001f680 ```"
    gateway.ask(messages=[{"role": "user", "content": text}])
    assert double.requests[0].body["messages"][0]["content"] == text


def test_an_unknown_model_lists_the_known_ones(gateway: Gateway) -> None:
    for name in ("gpt-4", "latest", "v9.9.9", "babylon-agent-latest", "../../etc/passwd", "x" * 5000):
        refused = gateway.ask(model=name)
        error = refused.json()["error"]
        assert refused.status_code == 404 and error["code"] == "model_not_found"
        assert "babylon-agent-v0.0.1" in error["message"] and len(error["message"]) < 400


def test_a_large_body_is_refused_before_it_is_read(gateway: Gateway) -> None:
    refused = gateway.ask(messages=[{"role": "user", "content": "x" * 20_000}])
    assert refused.status_code == 413 and refused.json()["error"]["code"] == "request_too_large"
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")
        assert b"413" in raw.recv(4096)
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        raw.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n2710\r\n" + b"x" * 10_000)
        assert b"413" in raw.recv(4096)


def test_a_slow_body_is_not_waited_for(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        began = time.monotonic()
        assert b"408" in raw.recv(4096) and time.monotonic() - began < 3


def test_other_methods_and_paths_get_the_envelope(gateway: Gateway) -> None:
    got = gateway.get("/v1/chat/completions")
    assert got.status_code == 405 and got.headers["allow"] == "POST"
    assert got.json()["error"]["code"] == "method_not_allowed"
    assert gateway.get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_too_many_at_once_are_told_to_come_back(gateway: Gateway, double: UpstreamDouble) -> None:
    double.behave = answer(delay=0.8)
    sockets = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(8)]
    body = b'{"messages":[{"role":"user","content":"x"}]}'
    for raw in sockets:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
    statuses = sorted(raw.recv(65536).split(b" ")[1] for raw in sockets)
    assert statuses == [b"200"] * 4 + [b"503"] * 4
    for raw in sockets:
        raw.close()


def test_keys(double: UpstreamDouble) -> None:
    with Gateway(serving(upstream(double.url)), keys=f"{SHARED},agent-7={BOUND}") as gateway:
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            gateway.client(key="wrong").chat.completions.create(
                model="babylon-agent", messages=[{"role": "user", "content": "x"}]
            )
        for headers in ({}, {"authorization": SHARED}, {"authorization": f"Basic {SHARED}"}):
            assert gateway.post(b"{}", **headers).status_code == 401
        for path in ("/v1/models", "/v1/models/babylon-agent", "/metrics"):
            assert gateway.get(path).status_code == 401
            assert gateway.get(path, authorization=f"Bearer {SHARED}").status_code == 200
        assert gateway.get("/healthz").status_code == 200, "open, for probes"

        body = {"messages": [{"role": "user", "content": "x"}]}
        assert gateway.post(body, authorization=f"bearer {SHARED}", x_agent_id="agent-9").status_code == 200
        assert gateway.post(body, authorization=f"Bearer {BOUND}", x_agent_id="agent-7").status_code == 200
        refused = gateway.post(body, authorization=f"Bearer {BOUND}", x_agent_id="agent-9")
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "agent_mismatch"
        assert gateway.post(body, authorization=f"Bearer {SHARED}", x_agent_id="a" * 200).status_code == 400


def test_a_bound_key_speaks_for_its_agent(double: UpstreamDouble, tmp_path: Path) -> None:
    state = serving(upstream(double.url))
    with Gateway(state, keys=f"{SHARED},agent-7={BOUND}", spool=tmp_path / "spool") as gateway:
        body = {"messages": [{"role": "user", "content": "x"}]}
        gateway.post(body, authorization=f"Bearer {BOUND}")
        gateway.post(body, authorization=f"Bearer {SHARED}", x_agent_id="agent-7")
        bound, claimed = gateway.kept()
    assert (bound.agent_id, bound.agent_verified) == ("agent-7", True)
    assert (claimed.agent_id, claimed.agent_verified) == ("agent-7", False)
    assert bound.api_key != claimed.api_key and BOUND not in str(bound)


@pytest.mark.parametrize("keys", ["short", "a=short", f"{SHARED},{SHARED}", f"x={SHARED},y={SHARED}"])
def test_keys_that_would_not_protect_are_refused(keys: str) -> None:
    with pytest.raises(GatewaySetupError, match="GATEWAY_API_KEYS"):
        Keyring(keys)


def test_a_key_may_end_in_padding() -> None:
    keyring = Keyring("c2VjcmV0LXNlY3JldC1zZWNyZXQ=")
    assert keyring.identify(b"Bearer c2VjcmV0LXNlY3JldC1zZWNyZXQ=", b"").agent_id is None


def test_each_agent_has_its_own_rate(double: UpstreamDouble) -> None:
    with Gateway(serving(upstream(double.url)), per_minute=30) as gateway:
        body = {"messages": [{"role": "user", "content": "x"}]}
        statuses = [gateway.post(body, x_agent_id="busy").status_code for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        refused = gateway.post(body, x_agent_id="busy")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] in ("1", "2")
        assert gateway.post(body, x_agent_id="calm").status_code == 200


def test_a_reader_that_stops_reading_is_let_go(gateway: Gateway, double: UpstreamDouble) -> None:
    double.behave = hang()
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        body = b'{"messages":[{"role":"user","content":"x"}],"stream":true}'
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(0.1)
    limit = time.monotonic() + 3
    while "babylon_gateway_in_flight 0.0" not in gateway.get("/metrics").text:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_full_spool_refuses_before_it_asks(double: UpstreamDouble, tmp_path: Path) -> None:
    state = serving(upstream(double.url))
    with Gateway(state, spool=tmp_path / "spool", spool_bytes=3000) as gateway:
        answers = [gateway.ask() for _ in range(20)]
        good = [one for one in answers if one.status_code == 200]
        refused = [one for one in answers if one.status_code == 503]
        assert len(good) + len(refused) == 20 and refused
        assert len(gateway.kept()) == len(good) == len(double.requests), "no answer without a record"
        assert refused[0].json()["error"]["code"] == "capture_unavailable"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert "full" in gateway.get("/readyz").json()["problems"][0]


def test_a_disk_that_fails_is_no_answer(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.ask().json()["choices"][0]["message"]["content"] == TEXT
    spool = gateway.capture.spool  # type: ignore[attr-defined]
    spool._end_segment()
    (tmp_path / "spool").rename(tmp_path / "elsewhere")
    refused = gateway.ask()
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "capture_unavailable"
    with pytest.raises(openai.APIError, match="could not be kept"):
        list(
            gateway.client().chat.completions.create(
                model="babylon-agent", messages=[{"role": "user", "content": "x"}], stream=True
            )
        )
    (tmp_path / "elsewhere").rename(tmp_path / "spool")
    assert gateway.ask().status_code == 200
