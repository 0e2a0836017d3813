"""What `trajectories.stepsJson` holds: typed steps, to read what recorders wrote and to write it ourselves.

A step is one decision of an agent: the state before it, what the agent looked at, its LLM calls, its action.
Fields without a default are the ones that both TypeScript writers always write, and so do we.

Reading takes two paths. A text in exactly the documented shape is decoded by msgspec in one go. Anything else
goes through `babylon_rl.records.repair`, which knows aliases, numbers in strings and nulls for NaN, keeps
unknown keys in `extra`, and names what it cannot read.
"""

from typing import Any

import msgspec

from babylon_rl.records.repair import UnreadableRowError, repair_steps

__all__ = [
    "Action",
    "EnvironmentState",
    "LlmCall",
    "ProviderAccess",
    "Step",
    "UnreadableRowError",
    "decode_steps",
    "encode_steps",
]

Number = int | float
EXTRA = "_extra"
"""Wire name of `extra`; only ever seen between the two paths, never written."""


class _Record(
    msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    extra: dict[str, Any] = msgspec.field(default_factory=dict, name=EXTRA)
    """Keys that no field stands for, as the writer wrote them."""


class EnvironmentState(_Record):
    """An agent's state before the step's action, amounts in USD; None is a number not known, or NaN."""

    agent_balance: Number | None
    agent_pnl: Number | None = msgspec.field(name="agentPnL")
    """Realised over the agent's whole life, not in this window."""
    open_positions: int | None
    active_markets: int | None = None
    timestamp: Number | None = None
    equity: Number | None = None
    """Balance plus the margin of open positions; written by our own agents."""
    portfolio_value: Number | None = None
    agent_points: Number | None = None
    unread_messages: Any = None
    recent_engagement: Any = None
    custom: Any = None


class ProviderAccess(_Record):
    """Something the agent looked up before it acted."""

    provider_name: str
    data: dict[str, Any]
    purpose: str
    provider_id: str | None = None
    timestamp: Number | None = None
    query: Any = None


class LlmCall(_Record):
    """One call of a language model. The token fields are there when our gateway or our policy answered it."""

    model: str
    system_prompt: str
    user_prompt: str
    response: str
    temperature: Number | None
    max_tokens: int | None
    purpose: str
    call_id: str | None = None
    timestamp: Number | None = None
    model_version: str | None = None
    reasoning: str | None = None
    latency_ms: Number | None = None
    action_type: str | None = None
    top_p: Number | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    messages: list[dict[str, Any]] | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    """Natural logarithms under the distribution that was sampled from, one per entry of `token_ids`."""
    policy_version: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    chat_template_hash: str | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether the call carries what on-policy training needs: version, token ids, a logprob for each."""
        return bool(
            self.policy_version
            and self.prompt_token_ids
            and self.token_ids
            and self.logprobs is not None
            and len(self.logprobs) == len(self.token_ids)
        )

    def chat_messages(self) -> list[dict[str, Any]]:
        """The messages the model saw: as recorded, else put together from the system and the user prompt."""
        if self.messages:
            return self.messages
        roles = (("system", self.system_prompt), ("user", self.user_prompt))
        return [{"role": role, "content": content} for role, content in roles if content]


class Action(_Record):
    """What the agent did. `action_type` is `pending` when the recorder stopped before it knew."""

    action_type: str
    parameters: dict[str, Any]
    success: bool
    result: Any = None
    error: str | None = None
    reasoning: str | None = None
    correctness: Any = None
    """Hindsight that some writers add; it is an answer, so nothing that is trained may show it."""
    attempt_id: str | None = None
    timestamp: Number | None = None
    action_name: str | None = None
    llm_call_id: str | None = None
    immediate_reward: Number | None = None


class Step(_Record):
    """One decision: state, look-ups, LLM calls, action, reward."""

    step_number: int
    timestamp: Number | None
    """Milliseconds since 1970 in UTC."""
    environment_state: EnvironmentState
    provider_accesses: list[ProviderAccess]
    llm_calls: list[LlmCall]
    action: Action
    reward: Number | None
    """None where the writer had NaN or infinity. The game overwrites it later: nothing here depends on it."""
    step_id: str | None = None
    observation: Any = None
    reasoning: str | None = None
    done: bool | None = None
    metadata: Any = None


_decoder = msgspec.json.Decoder(list[Step])


def decode_steps(text: str) -> list[Step]:
    """Reads a `stepsJson` of any known writer.

    Raises:
        UnreadableRowError: The text is no list of steps; `reason` is a short code, `detail` says where.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        pass  # not the documented shape (or a lone surrogate): take the tolerant path
    try:
        return msgspec.convert(repair_steps(text, _FIELDS, EXTRA), list[Step], strict=False)
    except msgspec.ValidationError as error:
        raise UnreadableRowError("malformed_step", str(error)) from error


def encode_steps(steps: list[Step]) -> str:
    """Writes steps as `stepsJson`, in the shape of the game's own recorder, unknown keys included."""
    if not any(_has_extra(step) for step in steps):
        return msgspec.json.encode(steps).decode()
    plain = msgspec.to_builtins(steps)
    for step in plain:
        parts = [step, step["environmentState"], step["action"], *step["llmCalls"], *step["providerAccesses"]]
        for part in parts:
            for key, value in part.pop(EXTRA, {}).items():
                part.setdefault(key, value)
    return msgspec.json.encode(plain).decode()


def _has_extra(step: Step) -> bool:
    parts = (step, step.environment_state, step.action, *step.llm_calls, *step.provider_accesses)
    return any(part.extra for part in parts)


def _wire_fields(record: type[_Record]) -> dict[str, Any]:
    return {
        field.encode_name: field.type for field in msgspec.structs.fields(record) if field.name != "extra"
    }


_FIELDS = {
    "step": _wire_fields(Step),
    "environment": _wire_fields(EnvironmentState),
    "access": _wire_fields(ProviderAccess),
    "call": _wire_fields(LlmCall),
    "action": _wire_fields(Action),
}
