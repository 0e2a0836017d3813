"""The embedded engine as a server: streams equal whole answers, seeds decide, bad requests fail alone."""

import asyncio
from typing import Any

import msgspec
import pytest

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.serving.answers import Answer, StreamRecord
from babylon_rl.serving.engine_upstream import EngineUpstream
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.protocol import ChatCall, parse_chat
from babylon_rl.serving.upstream import Timeouts
from babylon_rl.simulation.trader import build_messages

pytestmark = pytest.mark.anyio

MESSAGES = build_messages([("AURUM", "crash"), ("COBALT", "crash")], 1000.0, 1)


def call(**fields: Any) -> ChatCall:
    return parse_chat(msgspec.json.encode({"messages": MESSAGES, "seed": 3, **fields}))


def text(answer: Answer) -> str:
    return msgspec.json.decode(answer.message)["content"]


async def streamed(upstream: EngineUpstream, asked: ChatCall) -> tuple[Answer, list[str]]:
    record, pieces = StreamRecord(upstream.logprobs_of), []
    async for arrived in await upstream.open_stream(asked, "any", {}):
        for piece in arrived:
            record.add(piece)
            pieces.append(piece.content)
    return record.answer(complete=True), pieces


@pytest.fixture
def upstream(base_engine: EmbeddedEngine) -> EngineUpstream:
    return EngineUpstream(base_engine)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": True},
        {"temperature": 0},
        {"top_p": 0.5},
        {"max_tokens": 3},
        {"stop": " crash"},
        {"stop": ["crash S", "crash B", " 3", ""]},
        {"temperature": 2, "max_tokens": 40, "seed": 9},
    ],
)
async def test_a_stream_says_the_same_as_a_whole_answer(
    upstream: EngineUpstream, fields: dict[str, Any]
) -> None:
    whole = await upstream.complete(call(**fields), "any", {})
    record, _ = await streamed(upstream, call(**fields))
    assert text(record) == text(whole)
    assert record.finish_reason == whole.finish_reason and record.usage == whole.usage
    assert record.token_ids == whole.token_ids and record.token_logprobs == pytest.approx(
        whole.token_logprobs
    )
    assert record.prompt_token_ids == whole.prompt_token_ids
    assert whole.model == "v0.0.0" and whole.chat_template_hash == record.chat_template_hash
    assert whole.finish_reason == "stop" or len(whole.token_ids or ()) == (fields.get("max_tokens") or 16)
    for stop in filter(
        None, [fields["stop"]] if isinstance(fields.get("stop"), str) else fields.get("stop", ())
    ):
        assert stop not in text(whole)


async def test_a_seed_decides_whatever_else_is_asked_at_the_same_time(upstream: EngineUpstream) -> None:
    alone = await upstream.complete(call(seed=77), "any", {})
    crowd = [upstream.complete(call(seed=seed, max_tokens=5 + seed), "any", {}) for seed in range(30)]
    crowded, *others = await asyncio.gather(upstream.complete(call(seed=77), "any", {}), *crowd)
    assert crowded.token_ids == alone.token_ids
    assert len({tuple(other.token_ids or ()) for other in others}) > 5
    negative, large = -1, 2**64 - 1
    assert call(seed=negative).body.seed == negative
    assert (await upstream.complete(call(seed=negative), "any", {})).token_ids
    with pytest.raises(GatewayError, match="seed"):
        call(seed=large)


async def test_tokens_arrive_one_by_one(upstream: EngineUpstream) -> None:
    _, pieces = await streamed(upstream, call())
    assert len([piece for piece in pieces if piece]) > 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x " * 5000}]}, "messages"),
        ({"max_tokens": 100_000}, "messages"),
    ],
)
async def test_what_it_cannot_do_is_said(
    upstream: EngineUpstream, fields: dict[str, Any], param: str
) -> None:
    good = asyncio.gather(*(upstream.complete(call(seed=seed), "any", {}) for seed in range(3)))
    for ask in (upstream.complete, upstream.open_stream):
        with pytest.raises(GatewayError) as refused:
            await ask(call(**fields), "any", {})
        assert refused.value.status == 400 and refused.value.param == param
    assert len(await good) == 3, "its neighbours are answered"


async def test_text_in_parts_and_the_developers_role(upstream: EngineUpstream) -> None:
    system, user = (message["content"] for message in MESSAGES)
    parts = [
        {"role": "developer", "content": system},
        {"role": "user", "content": [{"type": "text", "text": user}]},
    ]
    one = await upstream.complete(call(), "any", {})
    other = await upstream.complete(call(messages=parts, tools=[], frequency_penalty=0), "any", {})
    assert one.token_ids == other.token_ids


async def test_an_engine_that_takes_too_long(base_engine: EmbeddedEngine) -> None:
    hurried = EngineUpstream(base_engine, Timeouts(first_token=1e-9, total=1e-9))
    with pytest.raises(UpstreamFailure, match="timeout"):
        await hurried.complete(call(), "any", {})
    with pytest.raises(UpstreamFailure, match="timeout"):
        await hurried.open_stream(call(), "any", {})


async def test_a_reader_that_goes_away_stops_nobody_else(upstream: EngineUpstream) -> None:
    left = await upstream.open_stream(call(max_tokens=60, temperature=2), "any", {})
    await left.close()
    assert (await upstream.complete(call(), "any", {})).finish_reason == "stop"
