"""The policy server through the official OpenAI client."""

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import PolicyError, PortInUseError
from babylon_rl.policy.server import MAX_BODY_BYTES, PolicyServer, listen
from babylon_rl.simulation.trader import build_messages

MESSAGES: Any = build_messages([("AURUM", "surge"), ("BOREAL", "quiet")], 1000, 0)
BODY: dict[str, Any] = {"model": "any", "messages": MESSAGES, "max_tokens": 4}


class Watched:
    """A real engine that notes its batches, and waits at a gate while that is closed."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.engine = engine
        self.batches: list[int] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    @property
    def version(self) -> str:
        return self.engine.version

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        self.batches.append(len(requests))
        self.entered.set()
        await asyncio.to_thread(self.gate.wait)
        return await self.engine.complete(requests)


class Broken:
    """A policy whose machine has failed."""

    version = "v0.0.9"

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        raise RuntimeError("the accelerator is gone")


@pytest.fixture
def server(base_engine: EmbeddedEngine) -> Iterator[PolicyServer]:
    with PolicyServer(base_engine) as running:
        yield running


def client_of(server: PolicyServer, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, **options)


def post(server: PolicyServer, content: Any = None, **json: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {server.api_key}"}
    sent: dict[str, Any] = {"content": content} if content is not None else {"json": json}
    return httpx.post(f"{server.base_url}/chat/completions", headers=headers, timeout=30, **sent)


def test_the_client_gets_content_tokens_and_usage(server: PolicyServer, base_engine: EmbeddedEngine) -> None:
    answer = client_of(server).chat.completions.create(
        model="any", messages=MESSAGES, temperature=0.9, max_tokens=12, seed=11, logprobs=True
    )
    [expected] = base_engine.sample([ChatRequest(MESSAGES, 0.9, 12, seed=11)])
    [choice] = answer.choices
    assert choice.message.content == expected.content and choice.message.role == "assistant"
    assert choice.finish_reason == expected.finish_reason == "stop"
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [token.token for token in choice.logprobs.content] == [
        f"token_id:{token}" for token in expected.token_ids
    ]
    assert [token.logprob for token in choice.logprobs.content] == pytest.approx(expected.logprobs)
    assert answer.usage is not None and answer.usage.completion_tokens == len(expected.token_ids)
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "v0.0.0" and answer.id.startswith("chatcmpl-")
    assert [model.id for model in client_of(server).models.list()] == ["v0.0.0"]


@pytest.mark.anyio
async def test_the_asynchronous_client_too(server: PolicyServer) -> None:
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key=server.api_key)
    async with client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model="m", messages=MESSAGES, seed=i, max_completion_tokens=1)
                for i in range(20)
            )
        )
    assert len({answer.id for answer in answers}) == 20
    assert {answer.choices[0].finish_reason for answer in answers} == {"length"}


def test_a_wrong_key_is_refused(server: PolicyServer) -> None:
    client = openai.OpenAI(base_url=server.base_url, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refusal:
        client.chat.completions.create(model="any", messages=MESSAGES)
    assert refusal.value.status_code == 401 and refusal.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    missing = httpx.post(f"{server.base_url}/chat/completions", json=BODY)
    assert missing.status_code == 401 and missing.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 2.01}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "context is 256 tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "AURUM crash\n" * 200}]}, "context is 256 tokens"),
        ({"n": 2}, "n"),
        ({"stream": True}, "stream"),
        ({"seed": -1}, "seed"),
    ],
)
def test_requests_that_cannot_be_answered_name_the_field(
    server: PolicyServer, change: dict[str, Any], named: str
) -> None:
    answer = post(server, **(BODY | change))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_request_error" and named in error["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": [{"role": "user", "content": "\\ud800"}]}']
    + [
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": %s}' % n for n in (b"NaN", b"1e999")
    ],
)
def test_bodies_that_are_no_request_are_refused(server: PolicyServer, content: bytes) -> None:
    answer = post(server, content=content)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_huge_body_is_refused_and_not_kept(server: PolicyServer) -> None:
    assert post(server, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    address = urlsplit(server.base_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port or 0, timeout=30)
    headers = {"authorization": f"Bearer {server.api_key}", "transfer-encoding": "chunked"}
    chunks = (b"x" * 65536 for _ in range(2 * MAX_BODY_BYTES // 65536))
    connection.request("POST", "/v1/chat/completions", body=chunks, headers=headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert post(server, **BODY).status_code == 200


def test_concurrent_requests_share_batches_and_all_are_answered(base_engine: EmbeddedEngine) -> None:
    watched = Watched(base_engine)
    watched.gate.clear()
    with PolicyServer(watched) as server, ThreadPoolExecutor(40) as pool:
        first = pool.submit(post, server, **BODY, seed=0)
        assert watched.entered.wait(10)
        others = [pool.submit(post, server, **BODY, seed=seed) for seed in range(1, 40)]
        wait_for(lambda: waiting(server) == 39)
        watched.gate.set()
        answers = [future.result() for future in (first, *others)]
    assert watched.batches == [1, 39]
    expected = base_engine.sample([ChatRequest(MESSAGES, 1.0, 4, seed=seed) for seed in range(40)])
    contents = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert contents == [answer.content for answer in expected], "each gets the answer to its own question"


def test_a_bad_request_does_not_fail_its_neighbours(base_engine: EmbeddedEngine) -> None:
    watched = Watched(base_engine)
    watched.gate.clear()
    with PolicyServer(watched) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, server, **BODY)
        assert watched.entered.wait(10)
        good = [pool.submit(post, server, **BODY, seed=seed) for seed in range(5)]
        bad = pool.submit(lambda: post(server, **(BODY | {"max_tokens": 9999})))
        wait_for(lambda: waiting(server) == 6)
        watched.gate.set()
        assert [future.result().status_code for future in (first, *good)] == [200] * 6
        assert bad.result().status_code == 400


def test_swapping_under_load_loses_nothing(base_engine: EmbeddedEngine, base_checkpoint: Path) -> None:
    newer = EmbeddedEngine.load(base_checkpoint, "v0.0.1")
    with PolicyServer(base_engine) as server, ThreadPoolExecutor(8) as pool:
        done = threading.Event()

        def ask() -> list[str]:
            client, versions = client_of(server), []
            while not done.is_set():
                versions.append(client.chat.completions.create(**BODY).model)
            versions.append(client.chat.completions.create(**BODY).model)
            return versions

        futures = [pool.submit(ask) for _ in range(8)]
        for policy in (newer, base_engine) * 5 + (newer,):
            time.sleep(0.05)
            server.swap(policy)
        done.set()
        seen = [future.result() for future in futures]
    assert {version for versions in seen for version in versions} == {"v0.0.0", "v0.0.1"}
    assert all(versions[-1] == "v0.0.1" for versions in seen), "after the swap the new one answers"


def test_a_failed_policy_answers_with_an_error_and_recovers(base_engine: EmbeddedEngine) -> None:
    broken: Policy = Broken()
    with PolicyServer(broken) as server:
        with pytest.raises(openai.InternalServerError):
            client_of(server).chat.completions.create(**BODY)
        server.swap(base_engine)
        assert client_of(server).chat.completions.create(**BODY).model == "v0.0.0"


def test_an_occupied_port_is_said_at_once(base_engine: EmbeddedEngine, server: PolicyServer) -> None:
    port = urlsplit(server.base_url).port
    assert port is not None
    with pytest.raises(PortInUseError, match=rf"Port {port} on 127\.0\.0\.1 is in use\. Stop the program"):
        PolicyServer(base_engine, port=port)
    assert post(server, **BODY).status_code == 200


def test_an_address_of_another_machine_is_no_occupied_port() -> None:
    with pytest.raises(PolicyError, match=r"Cannot listen on 203\.0\.113\.7:0") as refusal:
        listen("203.0.113.7", 0)
    assert not isinstance(refusal.value, PortInUseError)


def test_stopping_answers_what_is_in_flight_and_frees_the_port(base_engine: EmbeddedEngine) -> None:
    watched = Watched(base_engine)
    watched.gate.clear()
    server = PolicyServer(watched)
    port = urlsplit(server.base_url).port
    assert port is not None
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, server, **BODY)
        assert watched.entered.wait(10)
        threading.Timer(0.2, watched.gate.set).start()
        server.close()
        assert asked.result().status_code == 200
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not any(thread.name == "policy-server" for thread in threading.enumerate())
    server.close()


def waiting(server: PolicyServer) -> int:
    return len(server._app.state.batcher._waiting)


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.01)
