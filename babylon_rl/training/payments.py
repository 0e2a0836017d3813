"""What a batch pays whom: the ledger that keeps a resolution from being paid twice.

A payment is written with its batch. It becomes final when its batch is the frozen one of a trained day; a
batch that was never trained paid nothing. What a window's members have been paid so far is the sum of its
final payments: the first one, at the training horizon, and the residuals.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import asyncpg
import msgspec

from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.groups import Member, ScoredGroup
from babylon_rl.scoring.local import Scorer, recorded_scorer

LOOK_BACK = timedelta(days=14)
"""Days whose windows may still be paid a residual; Babylon resolves its markets after about three."""

_FROM_ORDERS = "orders"
_STORE = """
INSERT INTO rl.payments AS known
       (batch_sha256, window_id, residual, scorer, scorer_version, horizon, members, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (batch_sha256, window_id) DO UPDATE SET members = excluded.members, reason = excluded.reason
 WHERE NOT EXISTS (SELECT FROM rl.trained_days AS day WHERE day.batch_sha256 = known.batch_sha256)
"""
_FIRST = """
SELECT payment.*, batch.uri
  FROM rl.trained_days AS trained JOIN rl.payments AS payment USING (batch_sha256)
  JOIN rl.training_batches AS batch USING (batch_sha256)
 WHERE trained.version IS NOT NULL AND NOT payment.residual AND trained.day >= $1 AND trained.day < $2
 ORDER BY payment.window_id
"""
_ADDED = """
SELECT payment.window_id, payment.members
  FROM rl.trained_days AS trained JOIN rl.payments AS payment USING (batch_sha256)
 WHERE trained.version IS NOT NULL AND payment.residual AND payment.window_id = ANY($1::text[])
"""
# Batches of other days that may yet be trained: the newest of each day without a version, and the one that a
# training has taken.
_HELD = """
WITH waiting AS (
    SELECT batch_sha256 FROM rl.trained_days WHERE version IS NULL AND day <> $2
    UNION
    (SELECT DISTINCT ON (day) batch_sha256 FROM rl.training_batches AS batch
      WHERE day <> $2 AND NOT EXISTS (
            SELECT FROM rl.trained_days AS trained WHERE trained.day = batch.day AND version IS NOT NULL)
      ORDER BY day, created_at DESC))
SELECT DISTINCT window_id FROM rl.payments JOIN waiting USING (batch_sha256)
 WHERE residual AND window_id = ANY($1::text[])
"""
_WITHOUT = """
SELECT coalesce(batch.config ? 'resample', false) AS resampled, count(*)::int AS days
  FROM rl.trained_days AS trained JOIN rl.training_batches AS batch USING (batch_sha256)
 WHERE trained.version IS NOT NULL AND trained.day >= $1 AND trained.day < $2
   AND NOT EXISTS (SELECT FROM rl.payments AS payment WHERE payment.batch_sha256 = batch.batch_sha256)
 GROUP BY 1
"""
FORGET = "UPDATE rl.payments SET members = members - $1::text WHERE members ? $1"


class Paid(msgspec.Struct, frozen=True):
    """What a member's reward is made of."""

    pnl: float
    """USD."""
    wins: int
    losses: int
    start_equity: float | None = None
    actions: int = 0
    invalid_actions: int = 0

    @classmethod
    def of(cls, member: Member) -> "Paid":
        """What a scored member was paid for."""
        return cls(
            float(member.attributed_pnl or 0.0),
            member.wins,
            member.losses,
            member.start_equity,
            member.actions,
            member.invalid_actions,
        )

    def plus(self, others: Iterable["Paid"]) -> "Paid":
        """With later payments added."""
        later = list(others)
        return msgspec.structs.replace(
            self,
            pnl=math.fsum([self.pnl, *(one.pnl for one in later)]),
            wins=self.wins + sum(one.wins for one in later),
            losses=self.losses + sum(one.losses for one in later),
        )


@dataclass(frozen=True)
class Payment:
    """What one batch pays the members of one window."""

    window_id: str
    residual: bool
    scorer: str
    scorer_version: str
    horizon: str | None
    members: Mapping[str, Paid] = field(default_factory=dict)
    """By agent id; of residuals, what is added to all payments before."""
    reason: str = ""
    """Why there can be no residuals; then there are no members."""
    uri: str = ""
    """Of the batch's file, where it was read back."""

    def rewards(self, paid: Mapping[str, Paid]) -> dict[str, float]:
        """The rewards of members under the function that paid them first, by agent id."""
        scorer = recorded_scorer(self.scorer, self.scorer_version)
        assert scorer is not None  # said in `reason` otherwise
        return _rewards(scorer, self.window_id, paid)


def first_payments(groups: Iterable[ScoredGroup], trained: Collection[str]) -> list[Payment]:
    """What a batch pays the windows of its own groups.

    Args:
        groups: As they were scored, with all of their members.
        trained: Windows that the batch holds episodes of.
    """
    return [_first_payment(group) for group in groups if group.window_id in trained]


async def store_payments(rl: asyncpg.Connection, batch_sha256: str, payments: Sequence[Payment]) -> None:
    """Write what a batch pays; that of a trained batch stays as it is."""
    names = ("window_id", "residual", "scorer", "scorer_version", "horizon", "members", "reason")
    rows = [(batch_sha256, *(getattr(payment, name) for name in names)) for payment in payments]
    await rl.executemany(_STORE, rows)


async def paid_windows(rl: asyncpg.Connection, day: date) -> tuple[list[Payment], dict[str, int]]:
    """The windows of the days before one that were trained, with all that their members were paid so far.

    Returns:
        The windows that can have residuals, and how many cannot, by reason.
    """
    since = (day - LOOK_BACK, day)
    first = [_read(row) for row in await rl.fetch(_FIRST, *since)]
    without: dict[str, int] = {}
    for payment in first:
        if payment.reason:
            without[payment.reason] = without.get(payment.reason, 0) + 1
    for row in await rl.fetch(_WITHOUT, *since):
        without["days of GROUPING=resample" if row["resampled"] else "days without records"] = row["days"]
    able = [payment for payment in first if not payment.reason]
    added: dict[str, list[dict[str, Paid]]] = {}
    for row in await rl.fetch(_ADDED, [payment.window_id for payment in able]):
        added.setdefault(row["window_id"], []).append(_members(row))
    return [_with(payment, added.get(payment.window_id, ())) for payment in able], without


async def held_windows(rl: asyncpg.Connection, window_ids: Sequence[str], day: date) -> set[str]:
    """Windows whose residuals are in a batch of another day that may yet be trained: that one pays them."""
    return {row["window_id"] for row in await rl.fetch(_HELD, list(window_ids), day)}


def _first_payment(group: ScoredGroup) -> Payment:
    members = {member.agent_id: Paid.of(member) for member in group.members}
    reason = _why_none(group, members)
    return Payment(
        group.window_id,
        False,
        group.scorer,
        group.scorer_version,
        group.horizon,
        {} if reason else members,
        reason,
    )


def _why_none(group: ScoredGroup, members: Mapping[str, Paid]) -> str:
    scorer = recorded_scorer(group.scorer, group.scorer_version)
    if scorer is None:
        return f"scored by {group.scorer}"
    if group.horizon is None or any(member.pnl_source != _FROM_ORDERS for member in group.members):
        return "P&L not of orders"
    rewards = _rewards(scorer, group.window_id, members)
    same = all(math.isclose(rewards[m.agent_id], m.reward, abs_tol=1e-9) for m in group.members)
    return "" if same else f"other rewards than {group.scorer} gives"


def _rewards(scorer: Scorer, window_id: str, paid: Mapping[str, Paid]) -> dict[str, float]:
    episodes = [_episode(window_id, agent_id, paid[agent_id]) for agent_id in sorted(paid)]
    return {score.agent_id: score.reward for score in scorer.score(episodes)}


def _episode(window_id: str, agent_id: str, paid: Paid) -> Episode:
    return Episode(
        window_id=window_id,
        agent_id=agent_id,
        trajectory_ids=[],
        steps=[],
        calls=[],
        policy_versions=[],
        actions=paid.actions,
        invalid_actions=paid.invalid_actions,
        horizon="",
        attributed_pnl=paid.pnl,
        pnl_source=_FROM_ORDERS,
        start_equity=paid.start_equity,
        trades=0,
        wins=paid.wins,
        losses=paid.losses,
        pending_orders=0,
        unpriced_orders=0,
    )


def _with(payment: Payment, added: Sequence[Mapping[str, Paid]]) -> Payment:
    members = {
        agent_id: paid.plus(one[agent_id] for one in added if agent_id in one)
        for agent_id, paid in payment.members.items()
    }
    return replace(payment, members=members)


def _read(row: asyncpg.Record) -> Payment:
    return Payment(
        window_id=row["window_id"],
        residual=row["residual"],
        scorer=row["scorer"],
        scorer_version=row["scorer_version"],
        horizon=row["horizon"],
        members=_members(row),
        reason=row["reason"],
        uri=row["uri"],
    )


def _members(row: asyncpg.Record) -> dict[str, Paid]:
    return msgspec.convert(row["members"], dict[str, Paid])
