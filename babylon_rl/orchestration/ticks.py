"""What the readiness sensor requests at one tick, and what it remembers for the next: pure functions.

The cursor holds a watermark, before which every window is done or was requested, and the windows that were
requested and are not done yet. A window is requested once per content and stage; one whose run failed stays
pending, is named in every tick's reason, and is re-executed by a person.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from babylon_rl.orchestration.readiness import WindowVerdict

MAX_REQUESTS = 24
"""Runs requested by one tick at most."""
MAX_WINDOWS = 7 * 24
"""Windows after the watermark that one tick looks at: bounds its query after a long pause."""


@dataclass(frozen=True)
class Cursor:
    """What is remembered between two ticks.

    Attributes:
        watermark: First window that is neither done nor requested; None before the first tick with data.
        seen_at: Start of the last tick; rows seen after it may belong to windows before the watermark.
        pending: Windows that were requested and are not done yet.
    """

    watermark: str | None = None
    seen_at: str | None = None
    pending: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, text: str | None) -> "Cursor":
        """Reads a stored cursor; an unreadable one starts anew, which the run keys make harmless."""
        try:
            stored = json.loads(text or "{}")
            return cls(
                stored.get("watermark"), stored.get("seen_at"), [str(w) for w in stored.get("pending") or []]
            )
        except (ValueError, TypeError, AttributeError):
            return cls()

    def dump(self) -> str:
        return json.dumps(
            {"watermark": self.watermark, "seen_at": self.seen_at, "pending": self.pending}, sort_keys=True
        )


@dataclass(frozen=True)
class TickPlan:
    """What one tick does.

    Attributes:
        requests: Windows to process now, at most `MAX_REQUESTS`, oldest first.
        cursor: What to remember.
        reason: The tick in one line; shown where nothing is requested.
    """

    requests: list[WindowVerdict]
    cursor: Cursor
    reason: str


def plan_tick(
    verdicts: Sequence[WindowVerdict],
    cursor: Cursor,
    now: datetime,
    *,
    claimed: Collection[str] = (),
    used_keys: Collection[str] = (),
) -> TickPlan:
    """Decides which of the windows (oldest first) to request.

    Args:
        verdicts: The windows from the watermark on, and the pending ones, as `judge_window` sees them.
        cursor: As the last tick left it.
        now: Time of the tick, aware UTC.
        claimed: Windows that a queued or running run or backfill already covers.
        used_keys: Run keys of runs that exist, whatever became of them.
    """
    verdicts = [_settle(v, used_keys) for v in verdicts]
    wanted = [
        v for v in verdicts if v.requested and v.facts.window_id not in claimed and v.run_key not in used_keys
    ]
    requests = wanted[:MAX_REQUESTS]
    requested = {v.facts.window_id for v in requests}
    pending = {v.facts.window_id for v in verdicts if v.requested and v.run_key in used_keys}
    moved = Cursor(
        watermark=_watermark(verdicts, pending | requested, cursor.watermark),
        seen_at=now.isoformat(),
        pending=sorted(pending | requested),
    )
    return TickPlan(requests, moved, _reason(verdicts, requests, wanted, claimed, pending - set(claimed)))


def _settle(verdict: WindowVerdict, used_keys: Collection[str]) -> WindowVerdict:
    """A scored window whose rows were merely seen again, with the content that was requested, is done."""
    if verdict.verdict in ("ready", "thin") and verdict.facts.group_status and verdict.run_key in used_keys:
        return replace(verdict, verdict="done", reason="processed with this content")
    return verdict


def _watermark(verdicts: Sequence[WindowVerdict], pending: Collection[str], before: str | None) -> str | None:
    later = [v for v in verdicts if before is None or v.facts.window_id >= before]
    for verdict in later:
        if verdict.verdict != "done" and verdict.facts.window_id not in pending:
            return verdict.facts.window_id
    return later[-1].facts.window_id if later else before


def _reason(
    verdicts: Sequence[WindowVerdict],
    requests: Sequence[WindowVerdict],
    wanted: Sequence[WindowVerdict],
    claimed: Collection[str],
    stuck: Collection[str],
) -> str:
    done = sum(v.verdict == "done" for v in verdicts)
    parts = [f"{len(requests)} of {len(verdicts)} windows requested, {done} done"]
    if len(wanted) > len(requests):
        parts.append(f"{len(wanted) - len(requests)} more at the next ticks")
    if claimed:
        parts.append(f"{len(claimed)} claimed by a run or backfill")
    if stuck:
        parts.append(
            f"{len(stuck)} were requested earlier and are not done, first {min(stuck)} "
            "(re-execute its run if it failed)"
        )
    waiting = next((v for v in verdicts if v.verdict == "waiting"), None)
    if waiting:
        parts.append(f"{waiting.facts.window_id}: {waiting.reason}")
    return "; ".join(parts)
