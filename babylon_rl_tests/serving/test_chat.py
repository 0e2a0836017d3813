"""Chat completions over the official Python client: whole, streamed, with tools, log-probabilities, usage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from babylon_rl_tests.serving.doubles import PROMPT_IDS, TEXT, TOKENS, UpstreamDouble
from babylon_rl_tests.serving.running import ACTIVE, BASE, Gateway, serving, upstream

ASK: dict[str, Any] = {"model": "babylon-agent", "messages": [{"role": "user", "content": "BTC?"}]}
TOOLS: Any = [{"type": "function", "function": {"name": "order", "parameters": {"type": "object"}}}]


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


@pytest.fixture
def gateway(double: UpstreamDouble, tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(serving(upstream(double.url)), spool=tmp_path / "spool") as started:
        yield started


def test_a_whole_answer(gateway: Gateway, double: UpstreamDouble) -> None:
    raw = gateway.client().chat.completions.with_raw_response.create(**ASK, seed=7, extra_body={"top_k": 5})
    answer = raw.parse()
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None, "they were not asked for"
    assert answer.usage is not None and answer.usage.total_tokens == 6
    assert answer.model == f"babylon-agent-{ACTIVE}"
    assert answer.id.startswith("chatcmpl-") and answer._request_id == answer.id
    assert raw.headers["x-model-version"] == ACTIVE
    assert raw.headers["x-variant"] == "active"
    assert raw.headers["x-fallback"] == "false"
    assert raw.headers["x-capture"] == "process"
    sent = double.requests[-1].body
    assert sent["model"] == f"babylon-agent-{ACTIVE}" and sent["seed"] == 7 and sent["top_k"] == 5
    assert sent["messages"] == ASK["messages"]


def test_log_probabilities_and_token_ids_are_passed_on_where_asked_for(gateway: Gateway) -> None:
    answer = gateway.client().chat.completions.create(
        **ASK, logprobs=True, extra_body={"return_token_ids": True}
    )
    [choice] = answer.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [entry.token for entry in choice.logprobs.content] == [text for _, text, _ in TOKENS]
    assert answer.model_extra is not None and answer.model_extra["prompt_token_ids"] == PROMPT_IDS
    assert choice.model_extra is not None and choice.model_extra["token_ids"] == [11, 12, 0]


def test_a_stream(gateway: Gateway) -> None:
    stream = gateway.client().chat.completions.create(**ASK, stream=True, logprobs=True)
    pieces = list(stream)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == TEXT
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert len({piece.id for piece in pieces}) == 1
    assert all(piece.usage is None for piece in pieces), "counts were not asked for"
    logprobs = [piece.choices[0].logprobs for piece in pieces]
    assert sum(1 for entry in logprobs if entry) == len(TOKENS)


def test_a_stream_with_usage(gateway: Gateway) -> None:
    options: Any = {"include_usage": True}
    pieces = list(gateway.client().chat.completions.create(**ASK, stream=True, stream_options=options))
    assert pieces[-1].choices == [] and pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 3


def test_tools_whole_and_streamed(gateway: Gateway) -> None:
    client = gateway.client()
    message = client.chat.completions.create(**ASK, tools=TOOLS).choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.name == "order"  # type: ignore[union-attr]
    parts = [
        call.function.arguments or ""
        for piece in client.chat.completions.create(**ASK, tools=TOOLS, stream=True)
        for call in piece.choices[0].delta.tool_calls or ()
        if call.function
    ]
    assert "".join(parts) == '{"size":2}'
    whole, streamed = gateway.kept()
    assert whole.answer is not None and streamed.answer is not None
    calls = [msgspec.json.decode(call.answer)["tool_calls"] for call in (whole, streamed) if call.answer]
    assert calls[0] == calls[1] and calls[0][0]["function"]["arguments"] == '{"size":2}'
    assert whole.tools is not None and msgspec.json.decode(whole.tools) == TOOLS


def test_every_answer_is_kept_with_its_tokens(gateway: Gateway) -> None:
    client = gateway.client(default_headers={"x-agent-id": "agent-7"})
    whole = client.chat.completions.create(**ASK, temperature=1.0, max_tokens=9)
    streamed = list(client.chat.completions.create(**ASK, stream=True))
    for call, response_id in zip(gateway.kept(), (whole.id, streamed[0].id), strict=True):
        assert call.response_id == response_id
        assert (call.agent_id, call.agent_verified) == ("agent-7", False)
        assert (call.version, call.variant, call.fallback) == (ACTIVE, "active", False)
        assert msgspec.json.decode(call.messages) == ASK["messages"]
        assert call.answer is not None and msgspec.json.decode(call.answer)["content"] == TEXT
        assert call.prompt_token_ids == PROMPT_IDS and call.token_ids == [11, 12, 0]
        assert call.logprobs is not None and len(call.logprobs) == 3
        assert (call.logprobs_of, call.temperature, call.top_p) == ("raw", 1.0, 1.0)
        assert (call.finish_reason, call.completion_tokens, call.upstream_id) == ("stop", 3, "upstream-id")
    assert gateway.kept()[0].max_tokens == 9 and gateway.kept()[1].stream


@pytest.mark.parametrize(
    ("name", "version", "variant"),
    [
        ("babylon-agent", ACTIVE, "active"),
        ("", ACTIVE, "active"),
        (f"babylon-agent-{ACTIVE}", ACTIVE, "pinned"),
        (ACTIVE, ACTIVE, "pinned"),
        (f"babylon-agent-{BASE}", BASE, "pinned"),
        ("tiny-base", BASE, "base"),
    ],
)
def test_names_of_models(gateway: Gateway, name: str, version: str, variant: str) -> None:
    answer = gateway.ask(model=name)
    assert (answer.headers["x-model-version"], answer.headers["x-variant"]) == (version, variant)


def test_the_list_of_models(gateway: Gateway) -> None:
    client = gateway.client()
    names = [model.id for model in client.models.list()]
    assert names == ["babylon-agent", f"babylon-agent-{ACTIVE}", f"babylon-agent-{BASE}", "tiny-base"]
    assert client.models.retrieve("babylon-agent").owned_by == "babylon_rl"
    with pytest.raises(openai.NotFoundError, match="There is no model"):
        client.models.retrieve("gpt-4")


def test_health_readiness_and_metrics(gateway: Gateway) -> None:
    gateway.ask()
    gateway.ask(stream=True)
    gateway.ask(model="nobody")
    assert gateway.get("/healthz").json() == {"status": "ok"}
    ready = gateway.get("/readyz")
    assert ready.status_code == 200 and ready.json()["version"] == ACTIVE
    assert ready.json()["versions"][BASE] == {"upstream": "upstream", "circuit": "closed"}
    text = gateway.get("/metrics").text
    assert f'babylon_gateway_requests_total{{status="200",variant="active",version="{ACTIVE}"}} 2.0' in text
    assert 'babylon_gateway_requests_total{status="404",variant="none",version="none"} 1.0' in text
    assert f'babylon_gateway_tokens_total{{kind="completion",version="{ACTIVE}"}} 6.0' in text
    assert "babylon_gateway_first_token_seconds_count" in text


def test_without_a_model_it_is_alive_but_not_ready() -> None:
    with Gateway(None) as gateway:
        assert gateway.get("/healthz").status_code == 200
        assert gateway.get("/readyz").json()["problems"] == ["no model is loaded"]
        refused = gateway.ask()
        assert refused.status_code == 503 and refused.headers["retry-after"] == "2"
