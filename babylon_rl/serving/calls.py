"""The record of one served call: what `rl.llm_calls` holds, and whether it may be trained on."""

import msgspec

from babylon_rl.records.call_digest import content_sha256, field_of, text_of
from babylon_rl.serving.answers import Answer, LogprobsOf
from babylon_rl.serving.protocol import MAX_INT32, ChatCall

EXTERNAL = "external"
"""The version of a model that is not in the registry (`SystemSettings.wandbModel`)."""


class CapturedCall(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """One call, in the order in which the spool keeps the fields: append new ones, with a default.

    JSON that a client or an upstream wrote is kept as it was written.
    """

    response_id: str
    upstream_id: str | None = None
    started_at: float
    """Seconds since 1970 in UTC."""
    latency_ms: float
    first_token_ms: float | None = None
    agent_id: str | None = None
    agent_verified: bool = False
    api_key: str | None = None
    requested_model: str = ""
    version: str | None = None
    variant: str | None = None
    upstream: str | None = None
    model: str | None = None
    fallback: bool = False
    fallback_reason: str | None = None
    attempts: int = 1
    stream: bool = False
    status: int = 200
    error: str | None = None
    messages: bytes = b"[]"
    tools: bytes | None = None
    parameters: bytes = b"{}"
    """All other top-level values of the request."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    answer: bytes | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    logprobs_of: LogprobsOf | None = None
    chat_template_hash: str | None = None
    level: str = "process"
    rollout_id: int | None = None
    owner_id: str | None = None
    """Who the agent belongs to, as its token says."""

    def keep_request(self, call: ChatCall) -> None:
        """Takes over what was asked."""
        raw, body = call.raw, call.body
        self.messages = bytes(raw["messages"])
        self.tools = bytes(raw["tools"]) if "tools" in raw else None
        rest = {name: value for name, value in raw.items() if name not in ("messages", "tools", "model")}
        self.parameters = msgspec.json.encode(rest)
        self.requested_model = body.model[:200]
        # OpenAI's defaults; what is sent to an upstream says them too.
        self.temperature = 1.0 if body.temperature is None else body.temperature
        self.top_p = 1.0 if body.top_p is None else body.top_p
        self.max_tokens, self.seed = body.limit, body.seed
        self.stream = bool(body.stream)

    def keep_answer(self, answer: Answer) -> None:
        """Takes over what was answered; token ids only together with as many log-probabilities."""
        counts = answer.counts()
        self.upstream_id, self.finish_reason = answer.upstream_id, answer.finish_reason
        self.answer = bytes(answer.message)
        self.prompt_tokens = _small(counts.prompt_tokens)
        self.completion_tokens = _small(counts.completion_tokens)
        self.prompt_token_ids = answer.prompt_token_ids
        self.chat_template_hash = answer.chat_template_hash
        ids, logprobs = answer.token_ids, answer.token_logprobs
        if ids is not None and logprobs is not None and len(ids) == len(logprobs):
            self.token_ids, self.logprobs, self.logprobs_of = ids, logprobs, answer.logprobs_of


_PLAIN = (b"null", b"0", b"0.0", b"1", b"1.0", b"-1", b"{}", b"[]", b"false")
_SHAPING = (
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "response_format",
)
"""Parameters that change the distribution which raw log-probabilities are not of."""


def why_untrainable(call: CapturedCall) -> str | None:
    """The first reason why a call must not be trained on; None where it may be.

    Needed are an agent that a key vouches for (or anybody could teach our models what they like by naming
    another's agent), a version of ours, the tokens, a log-probability for each, and that these are of the
    distribution that was sampled from: log-probabilities before temperature and top_p are that only where
    both are 1.
    """
    if call.error is not None:
        return "error"
    if not call.agent_verified:
        return "agent_not_verified"
    if call.version == EXTERNAL:
        return "foreign_model"
    if call.token_ids is None or call.logprobs is None:
        return "no_tokens"
    if not call.token_ids or not call.prompt_token_ids:
        return "no_prompt_tokens" if call.token_ids else "empty"
    if call.completion_tokens is not None and call.completion_tokens != len(call.token_ids):
        return "tokens_missing"
    if call.finish_reason not in ("stop", "tool_calls"):
        return "cut"
    if call.temperature is None or call.temperature < 1e-6:
        return "greedy"
    if call.logprobs_of != "sampled" and (call.temperature != 1.0 or call.top_p != 1.0 or _shaped(call)):
        return "other_distribution"
    return None


def _shaped(call: CapturedCall) -> bool:
    given: dict[str, msgspec.Raw] = msgspec.json.decode(call.parameters, type=dict[str, msgspec.Raw])
    return any(name in given and bytes(given[name]) not in _PLAIN for name in _SHAPING)


def content_of(call: CapturedCall) -> str:
    """`content_sha256` of a captured call."""
    answer = msgspec.json.decode(call.answer) if call.answer is not None else {}
    return content_sha256(msgspec.json.decode(call.messages), text_of(field_of(answer, "content")))


def _small(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= MAX_INT32 else None
