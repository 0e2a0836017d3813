"""A registered model behind an address as a policy: the real client against real sockets."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import PromptTooLongError
from babylon_rl.policy.server import PolicyServer
from babylon_rl.serving.target_policy import UnansweredError, open_policy
from babylon_rl.settings import Settings
from babylon_rl.simulation.trader import build_messages
from babylon_rl_tests.serving.doubles import UpstreamDouble, reply, status

pytestmark = pytest.mark.anyio

BASE = ModelRecord(
    "v0.0.0",
    "babylon-agent-v0.0.0",
    None,
    "tiny",
    None,
    None,
    None,
    None,
    "ready",
    None,
    {},
    {},
    datetime(2026, 10, 1, tzinfo=UTC),
    None,
    None,
)
WORDS = [("AURUM", "surge"), ("BOREAL", "quiet")]
REQUEST = ChatRequest(build_messages(WORDS, 1000.0, 0), 1.0, 12, seed=2**40 + 5)


def behind(url: str, key: str = "key") -> Settings:
    return Settings.model_validate(
        {"gateway_upstream_url": url, "gateway_upstream_api_key": key, "gateway_upstream_kind": "vllm"}
    )


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as upstream:
        yield upstream


def said(**choice: Any) -> bytes:
    answer = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "HOLD"}}
    return json.dumps(
        {"id": "r", "object": "chat.completion", "model": "m", "choices": [answer | choice]}
    ).encode()


async def test_tokens_and_log_probabilities_are_those_of_the_engine(base_engine: EmbeddedEngine) -> None:
    with PolicyServer(base_engine) as server:
        async with open_policy(behind(server.base_url, server.api_key), BASE) as policy:
            assert policy.version == BASE.version
            first, again = await policy.complete([REQUEST, REQUEST])
    [local] = await base_engine.complete([ChatRequest(REQUEST.messages, 1.0, 12, seed=(2**40 + 5) % 2**31)])
    assert first.token_ids == local.token_ids == again.token_ids, "equal seeds, equal answers"
    assert first.logprobs == pytest.approx(local.logprobs, abs=1e-4)
    assert first.policy_version == BASE.version


async def test_answers_without_log_probabilities_or_ids_say_so(double: UpstreamDouble) -> None:
    text = {"content": [{"token": "HO", "logprob": -0.1}, {"token": "LD", "logprob": -0.2}]}
    double.next(reply(200, said()), reply(200, said(logprobs=text)))
    async with open_policy(behind(double.url), BASE) as policy:
        [silent] = await policy.complete([REQUEST])
        [text_only] = await policy.complete([REQUEST])
    assert (silent.content, silent.token_ids, silent.logprobs) == ("HOLD", [], [])
    assert text_only.token_ids == [], "ids are never guessed from text"


async def test_a_passing_failure_is_tried_again_and_a_refusal_is_not(double: UpstreamDouble) -> None:
    async with open_policy(behind(double.url), BASE) as policy:
        double.next(status(503), reply(200, said()))
        assert (await policy.complete([REQUEST]))[0].content == "HOLD"
        asked = len(double.requests)
        double.next(status(400, "no such model"))
        with pytest.raises(UnansweredError, match="no such model"):
            await policy.complete([REQUEST])
        assert len(double.requests) == asked + 1


async def test_a_prompt_over_the_context_is_told_apart(
    double: UpstreamDouble, base_engine: EmbeddedEngine
) -> None:
    async with open_policy(behind(double.url), BASE) as policy:
        double.next(status(400, "This model's maximum context length is 8192 tokens"))
        with pytest.raises(PromptTooLongError, match="8192"):
            await policy.complete([REQUEST])
    long = ChatRequest([{"role": "user", "content": "AURUM surge " * 2000}], 1.0, 12)
    with PolicyServer(base_engine) as server:
        async with open_policy(behind(server.base_url, server.api_key), BASE) as policy:
            with pytest.raises(PromptTooLongError):
                await policy.complete([long])
