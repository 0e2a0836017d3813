"""Which recorded calls may be trained, and why the others may not."""

import math
from dataclasses import dataclass
from typing import Literal

from babylon_rl.records.steps import LlmCall

NO_LOGPROBS, BAD_LOGPROBS, CUT, GREEDY = "no_logprobs", "bad_logprobs", "cut_by_token_limit", "greedy"
FOREIGN_NEGATIVE, EMPTY_ANSWER = "foreign_negative_advantage", "empty_answer"


@dataclass(frozen=True)
class Eligibility:
    """What a batch takes besides our own policies' calls.

    Attributes:
        foreign_text: ``positive`` takes calls without log-probabilities where the episode did better than
            its window: such text can only be imitated, and unlikely text must not be pushed down (the
            gradient of a negative advantage has no bound there). ``drop`` takes none.
    """

    foreign_text: Literal["drop", "positive"] = "drop"


def why_not(call: LlmCall, advantage: float, rules: Eligibility) -> str | None:
    """Why a call cannot be trained; None when it can."""
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
    return None
