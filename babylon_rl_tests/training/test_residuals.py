"""Residuals on a real database: what a resolution adds is paid in the next batch, once, and no more."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import asyncpg
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.database.connection import Databases, connect, open_databases
from babylon_rl.deployment.branches import train_windows
from babylon_rl.deployment.candidates import TRAINED, train_day
from babylon_rl.outcomes.market import store_outcomes
from babylon_rl.outcomes.window_outcomes import PredictionOutcome, WindowOutcomes
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup, group_of, leave_one_out
from babylon_rl.scoring.local import HeuristicScorer, PnlScorer, Scorer, recorded_scorer
from babylon_rl.settings import Settings
from babylon_rl.training import units
from babylon_rl.training.batch import EMPTY, READY, BatchRules, TrainingBatch, build_batch, load_batch
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.payments import FORGET, Paid, Payment
from babylon_rl.training.residuals import residual_rewards
from babylon_rl.training.selection import Selection
from babylon_rl.training.units import TrainingUnit
from babylon_rl_tests.played import play_day, store_groups
from babylon_rl_tests.scoring.made import episode
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio

DAYS = ("2026-10-01", "2026-10-02", "2026-10-03", "2026-10-04")
FIRST, SECOND = "2026-10-01T00:00", "2026-10-02T00:00"
RULES = BatchRules(min_groups=1, min_episodes=2, residuals=True)
PAID = {"agent-0": 2.0, "agent-1": -1.0, "agent-2": 0.0, "agent-3": 4.0}
RESOLVED = {"agent-0": 80.0, "agent-1": -100.0, "agent-2": 0.0, "agent-3": -40.0}
MARKET = "market-of-the-first-day"


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return [
        group
        for seed, day in enumerate(DAYS)
        for group in play_day(base_engine, windows=1, agents=4, day=day, seed=seed)
    ]


def priced(group: ScoredGroup, pnl: Mapping[str, float], scorer: Scorer | None = None) -> ScoredGroup:
    """The group as if its members' orders had come to these values."""
    scorer = scorer or PnlScorer(0.1)
    episodes = [episode(agent, value, window_id=group.window_id) for agent, value in pnl.items()]
    made = group_of(episodes, scorer.score(episodes), scorer.name, scorer.version)
    members = [
        msgspec.structs.replace(new, calls=old.calls, trajectory_ids=old.trajectory_ids, trainable=True)
        for new, old in zip(made.members, group.members, strict=True)
    ]
    return msgspec.structs.replace(made, members=members)


class Game:
    """Days that are scored, trained and resolved."""

    def __init__(self, rl: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]) -> None:
        self.rl, self.store = rl, store
        copied = msgspec.convert(msgspec.to_builtins(groups), list[ScoredGroup])
        self.groups = [priced(group, PAID) for group in copied]

    async def scored(self) -> "Game":
        await store_groups(self.rl, self.store, self.groups)
        for agent, value in PAID.items():
            await self.order(agent, "1h", value)
            await self.order(agent, "resolution", None)
        return self

    async def order(self, agent: str, horizon: str, value: float | None, window: str = FIRST) -> None:
        await self.rl.execute(
            """INSERT INTO rl.order_value (order_id, horizon, agent_id, window_id, kind, instrument, side,
                                           size, opened_at, value, matured)
               VALUES ($1, $2, $3, $4, 'prediction', $5, 'yes', 100, $6, $7, $8)
               ON CONFLICT (order_id, horizon) DO UPDATE
                  SET value = excluded.value, matured = excluded.matured""",
            *(f"order-{agent}", horizon, agent, window, MARKET),
            *(datetime.fromisoformat(f"{window}+00:00"), value, value is not None),
        )

    async def resolve(self, values: Mapping[str, float] = RESOLVED, outcome: str = "YES") -> None:
        """What the market's resolution makes of the orders, as crediting the window leaves it."""
        for agent, value in values.items():
            await self.order(agent, "resolution", value)
        await self.rl.execute(
            "INSERT INTO rl.market_resolutions (market_id, outcome, resolved_at) VALUES ($1, $2, now())",
            *(MARKET, outcome),
        )

    async def build(self, day: str, rules: BatchRules = RULES, cap: int | None = None) -> TrainingBatch:
        return await build_batch(self.rl, self.store, day, rules, Selection(cap=cap) if cap else None)

    async def train(self, batch: TrainingBatch) -> None:
        """What the ledger holds once the day's batch has been trained."""
        version = f"v0.0.{batch.day[-1]}"

        async def register(connection: asyncpg.Connection) -> str:
            insert = "INSERT INTO rl.models (version, model_id, base_model) VALUES ($1, $1, 'tiny')"
            await connection.execute(insert, version)
            return version

        unit = TrainingUnit(batch.sha256, "v0.0.0", {}, "embedded", date.fromisoformat(batch.day))
        await units.publish(self.rl, await units.claim(self.rl, unit, owner="test"), register)

    def residuals(self, batch: TrainingBatch) -> dict[str, float]:
        """Advantages that the first window's members are paid in a batch, by agent."""
        _, episodes = load_batch(self.store, batch.uri)
        assert {e.window_id for e in episodes if e.is_residual} <= {f"{FIRST}/residual"}
        return {e.agent_id: e.advantage for e in episodes if e.is_residual}


@pytest.fixture
async def game(connection: asyncpg.Connection, tmp_path: Path, played: list[ScoredGroup]) -> Game:
    """Four scored days, the first of them trained."""
    game = await Game(connection, ArtifactStore(tmp_path / "artifacts"), played).scored()
    await game.train(await game.build(DAYS[0]))
    return game


def advantages(pnl: Mapping[str, float], less: Mapping[str, float] | None = None) -> dict[str, float]:
    """What the members are paid for these values of their orders, less what they were paid for others."""

    def rewards(values: Mapping[str, float]) -> np.ndarray:
        scores = PnlScorer(0.1).score([episode(agent, value) for agent, value in values.items()])
        return np.array([score.reward for score in scores])

    paid = rewards(pnl) - (rewards(less) if less is not None else 0.0)
    return dict(zip(pnl, leave_one_out(paid).tolist(), strict=True))


async def test_a_resolution_is_paid_in_the_next_batch(game: Game) -> None:
    before = await game.build(DAYS[1])
    assert game.residuals(before) == {} and before.residuals["groups"] == 0
    await game.resolve()
    batch = await game.build(DAYS[1])
    paid = game.residuals(batch)
    assert paid == pytest.approx(advantages(RESOLVED, less=PAID))
    together = {agent: paid[agent] + value for agent, value in advantages(PAID).items()}
    assert together == pytest.approx(advantages(RESOLVED)), "as if all had been paid at the resolution"
    assert (batch.status, batch.groups, batch.episodes) == (READY, 2, 8) and batch.calls == 2 * before.calls
    assert batch.residuals["groups"] == 1 and batch.residuals["episodes"] == 4
    assert batch.residuals["usd"] == pytest.approx(78 + 99 + 44)
    assert await game.build(DAYS[1]) == batch, "building it again changes nothing"
    first = load_batch(game.store, (await game.build(DAYS[0])).uri)[1]
    again = [e for e in load_batch(game.store, batch.uri)[1] if e.is_residual]
    assert [e.calls for e in again] == [e.calls for e in first], "the calls that the window was trained on"


async def test_nothing_is_paid_unless_it_is_asked_for(game: Game) -> None:
    await game.resolve()
    batch = await game.build(DAYS[1], replace(RULES, residuals=False))
    assert batch.residuals == {} and batch.groups == 1 and game.residuals(batch) == {}
    assert "residuals" not in game.store.get(batch.uri)[0]


async def test_a_trained_batch_is_never_paid_again(game: Game) -> None:
    await game.resolve()
    paying = await game.build(DAYS[1])
    await game.train(paying)
    third = await game.build(DAYS[2])
    assert game.residuals(third) == {} and third.residuals["groups"] == 0 and third.groups == 1
    for rules in (RULES, replace(RULES, residuals=False)):
        again = await game.build(DAYS[1], rules)
        assert again == paying and again.superseded_by is None, "a trained day keeps what it paid"


async def test_a_corrected_resolution_pays_its_difference(game: Game) -> None:
    await game.resolve()
    await game.train(await game.build(DAYS[1]))
    corrected = {"agent-0": -100.0, "agent-1": 80.0, "agent-2": 0.0, "agent-3": 40.0}
    await game.resolve(corrected, "NO")
    third = await game.build(DAYS[2])
    assert game.residuals(third) == pytest.approx(advantages(corrected, less=RESOLVED))
    await game.train(third)
    assert game.residuals(await game.build(DAYS[3])) == {}


async def test_orders_are_paid_when_their_own_market_is_resolved(game: Game) -> None:
    await game.resolve({"agent-0": 80.0})
    first = {**PAID, "agent-0": 80.0}
    second = await game.build(DAYS[1])
    assert game.residuals(second) == pytest.approx(advantages(first, less=PAID))
    await game.train(second)
    await game.resolve(RESOLVED)
    assert game.residuals(await game.build(DAYS[2])) == pytest.approx(advantages(RESOLVED, less=first))


async def test_a_value_without_a_known_resolution_is_not_paid(game: Game) -> None:
    await game.resolve()
    await game.rl.execute("DELETE FROM rl.market_resolutions")
    assert game.residuals(await game.build(DAYS[1])) == {}, "the leak scan could not know the answer"


async def test_a_batch_that_was_never_trained_paid_nothing(game: Game) -> None:
    await game.resolve()
    waiting = await game.build(DAYS[1])
    third = await game.build(DAYS[2])
    assert game.residuals(third) == {} and third.residuals["waiting"] == 1, (
        "the second day may yet be trained"
    )
    await game.build(DAYS[1], replace(RULES, residuals=False))
    third = await game.build(DAYS[2])
    assert game.residuals(third) == game.residuals(waiting), "the second day's newest batch pays nothing"
    assert game.residuals(await game.build(DAYS[1])) == {}, "the other way round"


WAITING = """
SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
                WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted)
"""


async def test_two_batches_at_the_same_time_pay_once(game: Game, dsn: str) -> None:
    await game.resolve()
    other = Game(await connect(dsn), game.store, [])
    try:
        async with game.rl.transaction():
            first = await game.build(DAYS[1])
            second = asyncio.create_task(other.build(DAYS[2]))
            while not await game.rl.fetchval(WAITING):
                assert not second.done(), "it did not wait for the first one to be stored"
                await asyncio.sleep(0.01)
        later = await second
    finally:
        await other.rl.close()
    assert (first.residuals["groups"], first.residuals["waiting"]) == (1, 0)
    assert (later.residuals["groups"], later.residuals["waiting"]) == (0, 1)


async def test_only_members_that_were_trained_are_trained_again(game: Game) -> None:
    untrained = game.groups[1].members[3]
    untrained.calls, untrained.trainable = [], False
    await store_groups(game.rl, game.store, game.groups[1:2])
    await game.train(await game.build(DAYS[1]))
    for agent, value in PAID.items():
        await game.rl.execute("UPDATE rl.order_value SET window_id = $1", SECOND)
        await game.order(agent, "resolution", 10 * value, SECOND)
    await game.resolve(RESOLVED)
    _, episodes = load_batch(game.store, (await game.build(DAYS[2])).uri)
    found = {e.agent_id: e.advantage for e in episodes if e.window_id == f"{SECOND}/residual"}
    expected = advantages(RESOLVED, less=PAID)
    assert found == pytest.approx({agent: expected[agent] for agent in ("agent-0", "agent-1", "agent-2")})


async def test_rules_for_calls_hold_for_residuals(game: Game) -> None:
    await game.resolve()
    stale = replace(RULES, min_groups=0, min_episodes=0, takes=Eligibility(max_versions_behind=0))
    batch = await game.build(DAYS[1], stale)
    assert batch.calls == 0 and set(batch.dropped) == {"stale_policy"}
    assert batch.residuals["dropped"]["stale_policy"] == sum(batch.dropped.values()) / 2
    unconfirmed = replace(RULES, takes=Eligibility(unconfirmed="drop"), min_groups=0, min_episodes=0)
    assert (await game.build(DAYS[1], unconfirmed)).residuals["dropped"]["unconfirmed"] > 0
    assert game.residuals(await game.build(DAYS[1], cap=6)) == {}, "a window that does not fit waits"
    assert len(game.residuals(await game.build(DAYS[1], cap=8))) == 4


@pytest.mark.parametrize("late", [date(2026, 10, 15), date(2026, 10, 16)])
async def test_after_two_weeks_nothing_is_paid(game: Game, played: list[ScoredGroup], late: date) -> None:
    await game.resolve()
    [group] = [priced(msgspec.structs.replace(played[1], window_id=f"{late}T00:00"), PAID)]
    await store_groups(game.rl, game.store, [group])
    assert bool(game.residuals(await game.build(late.isoformat()))) == (late.day == 15)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scorer": "ruler"}, "scored by ruler"),
        ({"scorer": "function", "scorer_version": "my.module:reward"}, "scored by function"),
        ({"scorer_version": "1:0.05:0.9"}, "other rewards than pnl gives"),
        ({"pnl_source": "lifetime_difference"}, "P&L not of orders"),
    ],
)
async def test_what_was_not_paid_for_orders_has_no_residuals(
    connection: asyncpg.Connection,
    tmp_path: Path,
    played: list[ScoredGroup],
    changes: dict[str, str],
    reason: str,
) -> None:
    game = Game(connection, ArtifactStore(tmp_path / "artifacts"), played)
    group = game.groups[0]
    source = changes.pop("pnl_source", None) if "pnl_source" in changes else None
    if source:
        group.members[1].pnl_source = source
    group.members[0].invalid_actions = 2  # so that the penalty for them matters
    game.groups[0] = msgspec.structs.replace(group, **changes)
    await game.scored()
    await game.train(await game.build(DAYS[0]))
    await game.resolve()
    batch = await game.build(DAYS[1])
    assert game.residuals(batch) == {} and batch.residuals["without"] == {reason: 1}


async def test_days_of_new_answers_have_no_residuals(game: Game) -> None:
    await game.rl.execute("DELETE FROM rl.payments")
    await game.rl.execute("UPDATE rl.training_batches SET config = '{\"resample\": {}}'")
    await game.resolve()
    assert (await game.build(DAYS[1])).residuals["without"] == {"days of GROUPING=resample": 1}


@pytest.mark.parametrize("told", ["{question} outcome: YES", "it is settled that apex shipped, yes"])
async def test_a_prompt_that_tells_the_resolution_refuses_the_day(game: Game, told: str) -> None:
    market = PredictionOutcome(
        market_id=MARKET,
        question="Will Apex ship?",
        outcome="UNRESOLVED",
        final_probability=0.6,
        resolved_at=None,
        flags=[],
    )
    truth = WindowOutcomes(window_id=FIRST, stocks=[], predictions=[market], news=[])
    await store_outcomes(game.rl, game.rl, truth, project_to_game=False)
    batch = await _with_prompt(game, told.format(question=market.question))
    assert batch.status == EMPTY and [leak.window_id for leak in batch.leaks] == [f"{FIRST}/residual"]
    assert "1 leaks, the first in 2026-10-01T00:00/residual of agent agent-2" in batch.reason
    assert load_batch(game.store, batch.uri)[1] == []
    assert await game.rl.fetchval("SELECT count(*) FROM rl.payments WHERE residual") == 0


async def test_a_market_that_the_windows_outcomes_do_not_list_is_looked_for_too(game: Game) -> None:
    batch = await _with_prompt(game, f"market {MARKET}: resolved to YES")
    assert batch.status == EMPTY and [leak.kind for leak in batch.leaks] == ["answer"]


async def _with_prompt(game: Game, text: str) -> TrainingBatch:
    """The second day's batch after the first was trained on a prompt that knew too much."""
    await game.rl.execute("DELETE FROM rl.trained_days; DELETE FROM rl.training_units; DELETE FROM rl.models")
    call = game.groups[0].members[2].calls[0]
    call.messages = [*(call.messages or []), {"role": "user", "content": text}]
    await store_groups(game.rl, game.store, game.groups[:1])
    first = await game.build(DAYS[0])
    assert first.status == READY and not first.leaks
    await game.train(first)
    await game.resolve()
    return await game.build(DAYS[1])


async def test_a_forgotten_agent_is_in_no_residual(game: Game) -> None:
    gone = "agent-1"
    await game.rl.execute(FORGET, gone)
    await game.rl.execute("DELETE FROM rl.order_value WHERE agent_id = $1", gone)
    await game.resolve({agent: value for agent, value in RESOLVED.items() if agent != gone})
    left = {agent: value for agent, value in PAID.items() if agent != gone}
    resolved = {agent: RESOLVED[agent] for agent in left}
    assert game.residuals(await game.build(DAYS[1])) == pytest.approx(advantages(resolved, less=left))


def test_a_recorded_version_gives_its_scorer_back() -> None:
    for scorer in (PnlScorer(0.25, 0.1), HeuristicScorer((0.6, 0.3, 0.1), 500, 10, 0.2)):
        found = recorded_scorer(scorer.name, scorer.version)
        assert found is not None and vars(found) == vars(scorer)
    for name, version in (
        ("pnl", "1"),
        ("pnl", "2:0.05:0.1"),
        ("heuristic", "1:a/b/c:1:1:1"),
        ("ruler", "1"),
    ):
        assert recorded_scorer(name, version) is None


amounts = st.floats(-3000, 3000).map(lambda value: round(value, 2))


@given(
    values=st.lists(st.tuples(amounts, amounts, amounts, st.integers(0, 4)), min_size=2, max_size=9),
    heuristic=st.booleans(),
)
def test_payments_add_up_to_paying_everything_at_the_resolution(
    values: list[tuple[float, float, float, int]], heuristic: bool
) -> None:
    scorer = HeuristicScorer() if heuristic else PnlScorer(0.3)

    def paid(column: int) -> dict[str, Paid]:
        return {
            f"agent-{number}": Paid(
                row[column], int(row[column] > 0), int(row[column] < 0), 1000.0, 4, row[3]
            )
            for number, row in enumerate(values)
        }

    def advantages_of(rewards: Mapping[str, float]) -> np.ndarray:
        return leave_one_out(np.array([rewards[agent] for agent in sorted(rewards)]))

    def payment(members: Mapping[str, Paid]) -> Payment:
        return Payment("2026-10-01T00:00", False, scorer.name, scorer.version, "1h", members)

    steps = [paid(0), paid(1), paid(2)]
    total = advantages_of(payment(steps[0]).rewards(steps[0]))
    for before, after in zip(steps, steps[1:], strict=False):
        added = {
            agent: Paid(
                after[agent].pnl - one.pnl, after[agent].wins - one.wins, after[agent].losses - one.losses
            )
            for agent, one in before.items()
        }
        total = total + advantages_of(residual_rewards(payment(before), added))
    assert total == pytest.approx(advantages_of(payment(steps[2]).rewards(steps[2])), abs=1e-7)


@pytest.fixture
async def db(anyio_backend: str, settings: Settings, home_with_base: Path) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        yield databases


async def test_a_batch_with_residuals_is_trained(
    db: Databases, settings: Settings, played: list[ScoredGroup]
) -> None:
    game = await Game(db.rl, ArtifactStore(settings.home / "artifacts"), played).scored()
    cut = game.groups[1].members[0].calls[0]
    cut.finish_reason = "length"
    await store_groups(db.rl, game.store, game.groups)
    await game.build(DAYS[0])
    first = await train_day(db, game.store, settings, DAYS[0])
    assert first.status == TRAINED and first.metrics["residual/groups"] == 0
    await game.resolve()
    batch = await game.build(DAYS[1])
    second = await train_day(db, game.store, settings, DAYS[1])
    assert second.status == TRAINED and second.parent.model.version == first.model.version
    unit = await units.find(db.rl, str(second.unit_key))
    assert unit.metrics is not None and unit.metrics["residual/groups"] == 1
    assert unit.metrics["residual/usd"] == pytest.approx(78 + 99 + 44)
    assert unit.metrics["dropped/cut_by_token_limit"] == 1 == batch.dropped["cut_by_token_limit"]
    assert unit.metrics["dropped/zero_advantage"] == unit.metrics["dropped/not_tokenized"] == 0
    assert unit.metrics["confirmed/unconfirmed"] == 16 and second.metrics["dropped/cut_by_token_limit"] == 1
    rows = await db.rl.fetch("SELECT window_id, version FROM rl.trained_windows ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [(FIRST, "v0.0.1"), (SECOND, "v0.0.2")]
    assert game.residuals(await game.build(DAYS[2])) == {}

    alone = await train_windows(db, game.store, settings, "side", [SECOND])
    branch = await units.find(db.rl, str(alone.model.unit_key))
    assert branch.metrics is not None and branch.metrics["dropped/cut_by_token_limit"] == 1
    assert await db.rl.fetchval("SELECT count(*) FROM rl.payments WHERE residual") == 1
