"""Which recorded calls may be trained, and why the others may not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from babylon_rl.records.steps import LlmCall
from babylon_rl.settings import Settings

NO_LOGPROBS, BAD_LOGPROBS, CUT, GREEDY = "no_logprobs", "bad_logprobs", "cut_by_token_limit", "greedy"
FOREIGN_NEGATIVE, EMPTY_ANSWER, STALE = "foreign_negative_advantage", "empty_answer", "stale_policy"


@dataclass(frozen=True)
class Eligibility:
    """What a batch takes besides our own policies' calls.

    Attributes:
        foreign_text: ``positive`` takes calls without log-probabilities where the episode did better than
            its window: such text can only be imitated, and unlikely text must not be pushed down (the
            gradient of a negative advantage has no bound there). ``drop`` takes none.
        unconfirmed: ``train`` takes calls that only the game's rows claim and the gateway never served.
        max_versions_behind: How many newer live versions there may be than the one that answered; None for
            any. Versions that are not on the live chain have no known age, and with a bound are left out.
    """

    foreign_text: Literal["drop", "positive"] = "drop"
    unconfirmed: Literal["drop", "train"] = "train"
    max_versions_behind: int | None = None


def eligibility(settings: Settings) -> Eligibility:
    """What the settings ask for. In production only the gateway's word counts, unless they say otherwise."""
    unconfirmed = settings.unconfirmed_calls
    if unconfirmed == "auto":
        unconfirmed = "drop" if settings.is_production else "train"
    return Eligibility(settings.foreign_text, unconfirmed, settings.max_versions_behind)


def why_not(
    call: LlmCall, advantage: float, rules: Eligibility, behind: Mapping[str, int] | None = None
) -> str | None:
    """Why a call cannot be trained; None when it can.

    Args:
        behind: Live versions by how many newer ones there are.
    """
    if call.finish_reason == "length":
        return CUT if call.has_tokens or rules.foreign_text == "positive" else NO_LOGPROBS
    if not call.has_tokens:
        if rules.foreign_text == "drop":
            return NO_LOGPROBS
        if not call.response.strip():
            return EMPTY_ANSWER
        return None if advantage > 0 else FOREIGN_NEGATIVE
    if not all(math.isfinite(value) and value <= 1e-3 for value in call.logprobs or ()):
        return BAD_LOGPROBS
    if call.temperature is None or call.temperature <= 0:
        return GREEDY
    if rules.max_versions_behind is not None:
        age = (behind or {}).get(str(call.policy_version))
        if age is None or age > rules.max_versions_behind:
            return STALE
    return None
