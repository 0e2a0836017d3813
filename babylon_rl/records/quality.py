"""Data quality of a recorded row: a score between 0 and 1 with reasons, never all or nothing.

    quality = row_quality(steps)
    quality.score, quality.reasons        # 0.6, ["short_prompts", "no_provider_data"]

The score is the mean of five parts: the row has steps; the share of its steps with LLM calls; the share of
its calls whose prompts are long enough to say something; whether any look-up brought data; the share of its
actions that tell how they ended. A row is good enough at `ROW_BAR`; how many of a window's rows have to be is
a setting (DATA_QUALITY_THRESHOLD).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

from babylon_rl.records.steps import Action, LlmCall, ProviderAccess, Step

ROW_BAR = 0.5
"""A row of our own agents, whose prompts are short, is above; a tick of the game's coordinator, below."""

SYSTEM_CHARACTERS, USER_CHARACTERS = 50, 100
"""A prompt has to be longer than this."""

HOLDS = frozenset({"hold", "held", "wait", "noop", "no_op", "none", "do_nothing"})
ATTEMPT = "trading_decision"
"""The game's coordinator records a hold as an attempt without success, and without an error."""

REASONS = ("no_steps", "steps_without_calls", "short_prompts", "no_provider_data", "actions_without_outcome")
"""What takes a row below the full score, in the order of the parts."""

UNREADABLE = "unreadable"

_QUALITY = """
SELECT rows, unreadable, good_rows, quality, quality_reasons FROM rl.recorded_windows WHERE window_id = $1
"""


class RowQuality(msgspec.Struct, frozen=True):
    """How much a row can teach."""

    parts: tuple[float, float, float, float, float]
    """Steps, calls, prompts, look-ups, outcomes; each from 0 to 1."""

    @property
    def score(self) -> float:
        return sum(self.parts) / len(self.parts)

    @property
    def reasons(self) -> list[str]:
        """One of `REASONS` for each part that is not full."""
        return [reason for reason, part in zip(REASONS, self.parts, strict=True) if part < 1]

    @property
    def good(self) -> bool:
        return self.score >= ROW_BAR


class WindowQuality(msgspec.Struct, frozen=True):
    """The rows of a window together; an unreadable row has a score of zero."""

    rows: int
    good_rows: int
    mean: float | None
    """Mean score; None without rows."""
    reasons: dict[str, int]
    """Rows by reason, the most frequent first."""

    @property
    def share(self) -> float:
        """Share of the rows above their bar; 1 without rows, of which nothing bad can be said."""
        return self.good_rows / self.rows if self.rows else 1.0


def row_quality(steps: Sequence[Step]) -> RowQuality:
    """Returns the quality of a row with these steps."""
    calls = [call for step in steps for call in step.llm_calls]
    return RowQuality(
        (
            float(bool(steps)),
            _share([bool(step.llm_calls) for step in steps]),
            _share([has_long_prompts(call) for call in calls]),
            float(any(has_data(access) for step in steps for access in step.provider_accesses)),
            _share([has_outcome(step.action) for step in steps]),
        )
    )


def window_quality(qualities: Sequence[RowQuality], unreadable: int = 0) -> WindowQuality:
    """Returns the quality of a window with these rows and so many that could not be read."""
    reasons = Counter(reason for quality in qualities for reason in quality.reasons)
    if unreadable:
        reasons[UNREADABLE] = unreadable
    rows = len(qualities) + unreadable
    return WindowQuality(
        rows=rows,
        good_rows=sum(quality.good for quality in qualities),
        mean=sum(quality.score for quality in qualities) / rows if rows else None,
        reasons=dict(reasons.most_common()),
    )


async def load_window_quality(rl: asyncpg.Connection, window_id: str) -> WindowQuality | None:
    """Returns what the feed knows about a window's quality, or None for a window without rows."""
    row = await rl.fetchrow(_QUALITY, window_id)
    if row is None:
        return None
    reasons: Mapping[str, int] = row["quality_reasons"]
    return WindowQuality(
        rows=row["rows"] + row["unreadable"],
        good_rows=row["good_rows"],
        mean=row["quality"],
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    )


def is_hold(action: Action) -> bool:
    """Whether the agent decided to do nothing, under any of the names that writers use."""
    kind = action.action_type.strip().lower()
    return kind in HOLDS or (kind == ATTEMPT and not action.success and action.error is None)


def has_outcome(action: Action) -> bool:
    """Whether an action tells how it ended: a result, an error, or a hold."""
    return action.result is not None or bool(action.error) or is_hold(action)


def has_data(access: ProviderAccess) -> bool:
    """Whether a look-up brought anything back."""
    return any(value not in (None, "", [], {}) for value in access.data.values())


def has_long_prompts(call: LlmCall) -> bool:
    """Whether the system prompt has more than 50 characters and the user prompt more than 100."""
    system, user = len(call.system_prompt), len(call.user_prompt)
    for message in call.messages or ():
        content = message.get("content")
        length = len(content) if isinstance(content, str) else 0
        if message.get("role") == "system":
            system = max(system, length)
        elif message.get("role") == "user":
            user = max(user, length)
    return system > SYSTEM_CHARACTERS and user > USER_CHARACTERS


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else 0.0
