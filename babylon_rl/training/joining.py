"""The gateway's own record of a call against what the game recorded of it.

Whoever writes the game's rows could claim any tokens. What our gateway served is known: a recorded call is
found there by its response id, else by the hash of what was said, under the agent that the caller's key
vouches for. Then the gateway's tokens, log-probabilities, sampling parameters and version replace the
recorded ones, and what it marked as untrainable is not trained, but where all that misses are tokens: those
the checkpoint may find again (`training.rescoring`). A call that only the game claims is *unconfirmed*.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg
import msgspec

from babylon_rl.records.call_digest import content_sha256
from babylon_rl.records.steps import LlmCall
from babylon_rl.scoring.groups import SCORED, Member, ScoredGroup

BY_ID, BY_CONTENT, UNCONFIRMED = "confirmed_by_id", "confirmed_by_content", "unconfirmed"
ALTERED, OTHER_AGENT, CLAIMED_TWICE = "altered", "of_another_agent", "claimed_twice"
OTHER_DISTRIBUTION = "other_distribution"

_CAPTURED = """
SELECT response_id, agent_id, content_sha256, version, temperature, top_p, finish_reason,
       prompt_token_ids, token_ids, logprobs, chat_template_hash, untrainable, parameters, tools
  FROM rl.llm_calls WHERE response_id = ANY($1::text[])
UNION
SELECT response_id, agent_id, content_sha256, version, temperature, top_p, finish_reason,
       prompt_token_ids, token_ids, logprobs, chat_template_hash, untrainable, parameters, tools
  FROM rl.llm_calls WHERE content_sha256 = ANY($2::text[])
 ORDER BY response_id
"""

_SAMPLING = frozenset({"temperature", "top_p"})
"""Parameters that must have been said: a server may have defaults of its own."""
_HARMLESS = frozenset("max_tokens max_completion_tokens seed n user stream stream_options".split())
"""Parameters that change neither the distribution nor where an answer ends by itself."""


@dataclass
class Joined:
    """Groups whose members hold only calls that may be trained as far as their origin goes."""

    groups: list[ScoredGroup]
    found: Counter[str] = field(default_factory=Counter)
    """All calls of scored windows: how each was confirmed, or that it was not."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls that are left out, by reason; the gateway's own reasons begin with ``gateway_``."""


async def join_calls(rl: asyncpg.Connection, groups: Sequence[ScoredGroup], *, unconfirmed: bool) -> Joined:
    """Confirm the calls of scored groups with what the gateway captured.

    Args:
        unconfirmed: Whether calls that the gateway does not know are kept. Of these, calls that were sampled
            at another temperature than 1 or with top_p are left out either way: nobody vouches that their
            log-probabilities are of the distribution that was sampled from.
    """
    joined, used = Joined([]), set[str]()
    for group in groups:
        if group.status != SCORED:
            joined.groups.append(group)
            continue
        digests = {id(call): _digest(call) for member in group.members for call in member.calls}
        ids = [call.response_id for m in group.members for call in m.calls if _storable(call.response_id)]
        captured = _Captured(await rl.fetch(_CAPTURED, ids, list(set(digests.values()))))
        members = []
        for member in group.members:
            kept: dict[int, LlmCall] = {}
            for place, call in enumerate(member.calls):
                how, row = captured.of(call, digests[id(call)], member.agent_id, used)
                joined.found[how] += 1
                known, reason = _checked(
                    call, how, row, digests[id(call)], member.agent_id, used, unconfirmed
                )
                if known is None:
                    joined.dropped[reason] += 1
                else:
                    kept[place] = known
            members.append(_with(member, kept))
        joined.groups.append(msgspec.structs.replace(group, members=members))
    return joined


class _Captured:
    """The gateway's rows that calls of one window may be."""

    def __init__(self, rows: Sequence[asyncpg.Record]) -> None:
        self._by_id = {row["response_id"]: row for row in rows}
        self._by_content: dict[str, list[asyncpg.Record]] = defaultdict(list)
        for row in rows:
            self._by_content[row["content_sha256"]].append(row)

    def of(
        self, call: LlmCall, digest: str, agent_id: str, used: set[str]
    ) -> tuple[str, asyncpg.Record | None]:
        """How a call was found, and its row. Equal calls without ids take equal rows one by one."""
        if call.response_id and (row := self._by_id.get(call.response_id)) is not None:
            return BY_ID, row
        for row in self._by_content[digest]:
            if row["agent_id"] == agent_id and row["response_id"] not in used:
                return BY_CONTENT, row
        return UNCONFIRMED, None


def _checked(
    call: LlmCall,
    how: str,
    row: asyncpg.Record | None,
    digest: str,
    agent_id: str,
    used: set[str],
    unconfirmed: bool,
) -> tuple[LlmCall | None, str]:
    """The call with the gateway's facts, or None and why it is left out."""
    if row is None:
        if not unconfirmed:
            return None, how
        return (None, OTHER_DISTRIBUTION) if call.has_tokens and _reshaped(call) else (call, "")
    if row["response_id"] in used:
        return None, CLAIMED_TWICE
    if row["agent_id"] != agent_id:
        return None, OTHER_AGENT
    used.add(row["response_id"])
    if row["content_sha256"] != digest:
        return None, ALTERED
    if row["untrainable"] is not None and not _lacks_only_tokens(row):
        return None, f"gateway_{row['untrainable']}"
    facts = {
        "response_id": row["response_id"],
        "policy_version": row["version"],
        "temperature": row["temperature"],
        "top_p": row["top_p"],
        "finish_reason": row["finish_reason"],
        "prompt_token_ids": row["prompt_token_ids"],
        "token_ids": row["token_ids"],
        "logprobs": row["logprobs"],
        "chat_template_hash": row["chat_template_hash"],
    }
    return msgspec.structs.replace(call, **facts), ""


def _lacks_only_tokens(row: asyncpg.Record) -> bool:
    """Whether a server of ours gave no tokens, and the request alone says how the answer was sampled."""
    if row["untrainable"] not in ("no_tokens", "no_prompt_tokens") or row["tools"] is not None:
        return False
    asked = set(msgspec.json.decode(row["parameters"]))
    return asked >= _SAMPLING and asked <= _SAMPLING | _HARMLESS


def _storable(name: str | None) -> bool:
    """Whether it can be looked up: PostgreSQL takes no NUL in a text, which a made-up id may hold."""
    return bool(name) and "\0" not in name


def _reshaped(call: LlmCall) -> bool:
    """Whether the sampling changed the model's distribution; greedy calls have a reason of their own."""
    warm = call.temperature is not None and call.temperature > 0
    return (warm and call.temperature != 1) or call.top_p not in (None, 1)


def _digest(call: LlmCall) -> str:
    return content_sha256(call.chat_messages(), call.response)


def _with(member: Member, kept: dict[int, LlmCall]) -> Member:
    """The member with the calls that are left, by their old places."""
    trainable = any(call.has_tokens for call in kept.values())
    decisions = [member.call_decisions[place] for place in kept] if member.call_decisions else []
    return msgspec.structs.replace(
        member, calls=list(kept.values()), call_decisions=decisions, trainable=trainable
    )
