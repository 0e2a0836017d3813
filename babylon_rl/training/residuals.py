"""Residuals: what a resolution adds to what a window was trained on before.

A day is trained on the horizon that has matured, an hour or a day, and the markets are resolved about three
days after their trades. The next batch that is built pays the rest: for each window of an earlier trained
day whose orders have come to something else by then, a group `WINDOW/residual` with

    residual reward = reward(P&L as known now) - reward(P&L as paid so far)

under the function that paid first, and leave-one-out advantages of these. Leave-one-out is linear, so the
advantages of all payments of a window add up to those of paying everything at the resolution. The members'
calls are those that the window's frozen batch was trained on.

Each order is paid as soon as its market is resolved, and counts as paid before until then: all members'
orders on a market are resolved at once, so what is compared is complete, and a market that never ends keeps
nothing back. What was paid is in `training.payments`; nothing is paid by two batches, because what waits in
another day's batch is left to that one.
"""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import numpy as np

from babylon_rl import windows
from babylon_rl.outcomes.credit import KnownValue, load_known_values, load_resolved_outcomes
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import SCORED, SMALLEST_SPREAD, Member, ScoredGroup, leave_one_out
from babylon_rl.training.batch_records import frozen_batch
from babylon_rl.training.chosen_calls import Chosen, choose, leaks_of
from babylon_rl.training.conversion import is_residual, residual_name
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.joining import join_calls
from babylon_rl.training.leaks import Leak
from babylon_rl.training.payments import Paid, Payment, held_windows, paid_windows

SMALLEST = 1e-6
"""USD below which two values of a P&L are the same."""

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('babylon_rl.residuals', 0))"


@dataclass
class Residuals:
    """What a batch holds of earlier windows.

    Attributes:
        chosen: Episodes, and calls that are left out.
        figures: For the batch's summary: `groups`, `episodes`, `calls`, `usd` (what the members' P&L has
            changed by, in absolute values), `waiting` (windows that another day's batch pays), `without`
            (windows that can have no residuals, by reason), and `dropped` and `versions` of the calls.
        payments: To be written with the batch.
        leaks: Prompts that tell of an outcome, the resolutions included.
    """

    chosen: Chosen = field(default_factory=Chosen)
    figures: dict[str, Any] = field(default_factory=dict)
    payments: list[Payment] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)


@dataclass(frozen=True)
class _Due:
    """A window whose members are to be paid a residual."""

    payment: Payment
    added: Mapping[str, Paid]
    rewards: Mapping[str, float]
    markets: Sequence[str]
    """Resolved ones that its members traded."""


@asynccontextmanager
async def one_at_a_time(rl: asyncpg.Connection) -> AsyncIterator[None]:
    """Of two batches that are built at the same time, the second one knows what the first one pays."""
    async with rl.transaction():
        await rl.execute(_LOCK)
        yield


async def residuals_for(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    day: str,
    takes: Eligibility,
    behind: Mapping[str, int],
    *,
    wanted: bool = True,
    room: int | None = None,
) -> Residuals:
    """What resolutions since have added to the windows of earlier trained days.

    A day that has been trained keeps the residuals that it was trained on.

    Args:
        day: Whose batch is built.
        wanted: Whether a day that has not been trained is to have any.
        behind: Live versions by how many newer ones there are.
        room: Episodes that still fit into the batch; windows beyond wait for the next one. None: any number.

    Raises:
        ArtifactError: The file of a trained batch is missing or altered.
    """
    if (frozen := await frozen_batch(rl, windows.parse_day(day))) is not None:
        return _as_frozen(*store.get(frozen["uri"]))
    if not wanted:
        return Residuals()
    able, without = await paid_windows(rl, windows.parse_day(day))
    due = await _due(rl, able)
    held = await held_windows(rl, [one.payment.window_id for one in due], windows.parse_day(day))
    found = Residuals()
    for one in due:
        window_id = one.payment.window_id
        if window_id in held:
            continue
        joined = await join_calls(rl, [_group(one, store)], unconfirmed=takes.unconfirmed == "train")
        chosen = choose(joined.groups, takes, behind)
        chosen.dropped.update(joined.dropped)
        if room is not None and len(found.chosen.episodes) + len(chosen.episodes) > room:
            continue
        found.chosen += chosen
        if chosen.episodes:
            found.payments.append(replace(one.payment, residual=True, members=one.added, uri=""))
            outcomes = await load_resolved_outcomes(rl, window_id, one.markets)
            found.leaks += leaks_of(residual_name(window_id), outcomes, chosen.episodes)
    changes = [paid.pnl for payment in found.payments for paid in payment.members.values()]
    found.figures = {
        "groups": len(found.payments),
        "episodes": len(found.chosen.episodes),
        "calls": found.chosen.calls,
        "usd": math.fsum(map(abs, changes)),
        "waiting": len(held),
        "without": without,
        "dropped": dict(sorted(found.chosen.dropped.items())),
        "versions": dict(sorted(found.chosen.versions.items())),
    }
    return found


def _as_frozen(summary: Mapping[str, Any], *records: dict[str, Any]) -> Residuals:
    """The residuals of a batch that was trained; its payments are final."""
    figures = dict(summary.get("residuals", {}))
    chosen = Chosen([record for record in records if is_residual(record["window_id"])])
    chosen.dropped.update(figures.get("dropped", {}))
    chosen.versions.update(figures.get("versions", {}))
    return Residuals(chosen, figures)


async def _due(rl: asyncpg.Connection, payments: Sequence[Payment]) -> list[_Due]:
    """Windows whose P&L is another one than was paid, by id."""
    found = []
    for horizon in sorted({str(payment.horizon) for payment in payments}):
        of_horizon = {p.window_id: p for p in payments if p.horizon == horizon}
        orders: dict[str, list[KnownValue]] = defaultdict(list)
        for order in await load_known_values(rl, list(of_horizon), horizon):
            orders[order.window_id].append(order)
        for window_id, known in orders.items():
            markets = sorted({order.instrument for order in known if order.resolved})
            if markets and (one := _compared(of_horizon[window_id], known, markets)) is not None:
                found.append(one)
    return sorted(found, key=lambda one: one.payment.window_id)


def _compared(payment: Payment, orders: Sequence[KnownValue], markets: Sequence[str]) -> _Due | None:
    """What is to be added; None where nothing has changed, or for all members alike."""
    values: dict[str, list[float]] = {agent_id: [] for agent_id in payment.members}
    for order in orders:
        if order.agent_id in values and order.value is not None:
            values[order.agent_id].append(order.value)
    added = {
        agent_id: Paid(
            math.fsum([*values[agent_id], -paid.pnl]),
            sum(value > 0 for value in values[agent_id]) - paid.wins,
            sum(value < 0 for value in values[agent_id]) - paid.losses,
        )
        for agent_id, paid in payment.members.items()
    }
    if all(abs(one.pnl) < SMALLEST for one in added.values()):
        return None
    rewards = residual_rewards(payment, added)
    if len(rewards) < 2 or float(np.ptp(list(rewards.values()))) <= SMALLEST_SPREAD:
        return None
    return _Due(payment, added, rewards, markets)


def residual_rewards(payment: Payment, added: Mapping[str, Paid]) -> dict[str, float]:
    """Reward of all that is known now minus reward of all that was paid, by agent id.

    Args:
        payment: What the members were paid so far.
        added: What their orders have come to beyond that.
    """
    before = payment.rewards(payment.members)
    after = payment.rewards({agent: paid.plus([added[agent]]) for agent, paid in payment.members.items()})
    return {agent: after[agent] - before[agent] for agent in before}


def _group(due: _Due, store: ArtifactStore) -> ScoredGroup:
    """The members with what they are paid now; those that were trained with the calls of then."""
    payment = due.payment
    trained = {
        record["agent_id"]: record
        for record in store.get(payment.uri)[1:]
        if record["window_id"] == payment.window_id
    }
    agents = sorted(due.rewards)
    advantages = leave_one_out(np.array([due.rewards[agent] for agent in agents]))
    members = [
        _member(payment.members[agent], due.rewards[agent], float(advantage), agent, trained.get(agent))
        for agent, advantage in zip(agents, advantages, strict=True)
    ]
    return ScoredGroup(
        window_id=residual_name(payment.window_id),
        status=SCORED,
        reason="",
        scorer=payment.scorer,
        scorer_version=payment.scorer_version,
        agents=len(members),
        horizon="resolution",
        members=members,
    )


def _member(
    paid: Paid, reward: float, advantage: float, agent_id: str, record: Mapping[str, Any] | None
) -> Member:
    calls = [_call(call) for call in record["calls"]] if record else []
    return Member(
        agent_id=agent_id,
        reward=reward,
        advantage=advantage,
        trainable=bool(calls),
        components={},
        trajectory_ids=record["trajectory_ids"] if record else [],
        calls=calls,
        policy_versions=[],
        attributed_pnl=paid.pnl,
        pnl_source="orders",
        start_equity=paid.start_equity,
        actions=paid.actions,
        invalid_actions=paid.invalid_actions,
        trades=0,
        wins=paid.wins,
        losses=paid.losses,
        unpriced_orders=0,
    )


def _call(record: Mapping[str, Any]) -> LlmCall:
    """A call that was eligible when it was trained; a batch does not keep the prompt's tokens or its heat."""
    return LlmCall(
        model=str(record["policy_version"] or ""),
        system_prompt="",
        user_prompt="",
        messages=list(record["messages"]),
        response=record["content"],
        temperature=1.0,
        max_tokens=None,
        purpose="",
        prompt_token_ids=[0],
        token_ids=record["token_ids"] or None,
        logprobs=record["logprobs"] or None,
        policy_version=record["policy_version"],
        finish_reason=record["finish_reason"],
    )
