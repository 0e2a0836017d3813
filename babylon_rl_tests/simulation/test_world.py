"""Two days of a world played by the real base model: what the rows say, and that they add up."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.outcomes.perpetuals import trading_fee, value_perpetual
from babylon_rl.outcomes.pricing import load_price_paths, value_orders
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.records.steps import Step, decode_steps
from babylon_rl.simulation.market import DECISION_MINUTES, HEADLINES
from babylon_rl.simulation.trader import BANKROLL, SYSTEM_PROMPT
from babylon_rl_tests.simulation.conftest import AGENTS, everything, one, simulate

pytestmark = pytest.mark.anyio

START = datetime(2026, 10, 1, tzinfo=UTC)
END = START + timedelta(days=2)
HOUR = timedelta(hours=1)


def moment(step: Step) -> datetime:
    return datetime.fromtimestamp((step.timestamp or 0) / 1000, UTC)


def test_same_seed_same_rows(server, template: str, played_dsn: str, engine: EmbeddedEngine) -> None:
    """Another process that comes back for the second day writes the same bytes."""

    async def rows(dsn: str) -> dict[str, list[str]]:
        game = await connect(dsn)
        try:
            return await everything(game)
        finally:
            await game.close()

    name = server.create(template)
    try:
        for _ in range(2):
            asyncio.run(simulate(server.dsn(name), engine, days=1))
        mine, theirs = asyncio.run(rows(server.dsn(name))), asyncio.run(rows(played_dsn))
    finally:
        server.drop(name)
    assert {table: len(found) for table, found in mine.items() if found}.keys() == {
        *("AgentTrade", "BalanceTransaction", "Market", "NPCTrade", "Organization", "PerpPosition"),
        *("Position", "Post", "PredictionPriceHistory", "Question", "StockPrice", "User", "WorldEvent"),
        *("llm_call_logs", "trajectories"),
    }
    for table, found in theirs.items():
        assert mine[table] == found, table


async def test_a_trajectory_is_half_an_hour_of_an_agent(played: asyncpg.Connection) -> None:
    rows = await played.fetch('SELECT * FROM "trajectories" ORDER BY "startTime", "agentId"')
    assert len(rows) == 2 * 24 * 2 * AGENTS
    for row in rows:
        steps = decode_steps(row["stepsJson"])
        assert tuple(moment(s).minute for s in steps) in (DECISION_MINUTES[:2], DECISION_MINUTES[2:])
        assert row["windowId"] == row["scenarioId"] == f"{row['startTime']:%Y-%m-%dT%H:00}"
        assert row["createdAt"] == row["updatedAt"] == row["endTime"] < row["startTime"] + HOUR
        [first, second] = [step.llm_calls[0] for step in steps]
        assert first.has_tokens and second.has_tokens
        assert first.response_id != second.response_id
        assert first.policy_version == "v0.0.0" and first.chat_template_hash and first.temperature == 1.0
        orders = sum(s.action.action_type == "OPEN_PERP_POSITION" and s.action.success for s in steps)
        assert row["totalReward"] == pytest.approx(0.1 * orders)
    ids = {s.llm_calls[0].response_id for row in rows for s in decode_steps(row["stepsJson"])}
    assert len(ids) == 2 * len(rows)
    logged = await one(
        played,
        'SELECT count(*), count(DISTINCT "callId") AS ids, bool_and("createdAt" = "timestamp") AS dated'
        ' FROM "llm_call_logs"',
    )
    assert tuple(logged) == (2 * len(rows), 2 * len(rows), True)


async def test_agents_of_a_window_see_the_same_headlines_and_nothing_else(played: asyncpg.Connection) -> None:
    seen: dict[datetime, set[str]] = {}
    for row in await played.fetch('SELECT "stepsJson" FROM "trajectories"'):
        for step in decode_steps(row["stepsJson"]):
            [system, user] = step.llm_calls[0].chat_messages()
            state, *news = user["content"].split("\n")
            assert system["content"] == SYSTEM_PROMPT
            before = step.environment_state
            assert state == f"equity {round(before.equity or 0, -1):.0f} open {before.open_positions}"
            assert {line.split()[1] for line in news} <= set(HEADLINES)
            assert step.provider_accesses[0].data["headlines"] == dict(line.split() for line in news)
            seen.setdefault(moment(step), set()).add("\n".join(news))
    assert len(seen) == 2 * 24 * 4
    assert all(len(versions) == 1 for versions in seen.values())
    events = await played.fetch(
        """
        SELECT "timestamp", array_agg("description" ORDER BY "id"::numeric) AS news FROM "WorldEvent"
         WHERE "eventType" = 'news' AND "visibility" = 'public' AND "pointsToward" IS NULL GROUP BY 1
        """
    )
    published = {row["timestamp"]: {"\n".join(row["news"])} for row in events}
    assert published == {
        at: {"\n".join(f"{line.split()[0].title()}: {line.split()[1]}" for line in news.split("\n"))}
        for at, versions in seen.items()
        for news in versions
    }


async def test_every_balance_is_the_sum_of_its_transactions(played: asyncpg.Connection) -> None:
    users = await played.fetch('SELECT * FROM "User"')
    assert len(users) == AGENTS + 4
    for user in users:
        entries = await played.fetch(
            'SELECT * FROM "BalanceTransaction" WHERE "userId" = $1 ORDER BY "createdAt", "id"::numeric',
            user["id"],
        )
        balance, by_kind = Decimal(0), {}
        for entry in entries:
            assert entry["balanceBefore"] == balance
            balance += entry["amount"]
            assert entry["balanceAfter"] == balance >= 0
            by_kind[entry["type"]] = by_kind.get(entry["type"], Decimal(0)) + entry["amount"]
        assert user["virtualBalance"] == balance
        assert user["totalDeposited"] == by_kind["deposit"]
        assert user["totalWithdrawn"] == -by_kind.get("withdrawal", Decimal(0))


async def test_every_window_begins_with_the_bankroll(played: asyncpg.Connection) -> None:
    hours = [START + HOUR * hour for hour in range(48)]
    rows = await played.fetch(
        """
        SELECT u."id", h,
               (SELECT b."balanceAfter" FROM "BalanceTransaction" b
                 WHERE b."userId" = u."id" AND b."createdAt" <= h
                 ORDER BY b."createdAt" DESC, b."id"::numeric DESC LIMIT 1)::float8 AS balance,
               (SELECT coalesce(sum(p."size" / p."leverage"), 0) FROM "PerpPosition" p
                 WHERE p."userId" = u."id" AND p."openedAt" <= h AND p."closedAt" > h) AS margin
          FROM "User" u, unnest($1::timestamp[]) h WHERE u."isAgent"
        """,
        hours,
    )
    assert len(rows) == 48 * AGENTS
    assert {row["balance"] + row["margin"] for row in rows} == {BANKROLL}


async def test_positions_over_midnight_count_on_the_next_day(played: asyncpg.Connection) -> None:
    midnight = START + timedelta(days=1)
    first = midnight + timedelta(minutes=5)
    carried = 0
    for row in await played.fetch(
        'SELECT "agentId", "stepsJson" FROM "trajectories" WHERE "startTime" = $1', first
    ):
        state = decode_steps(row["stepsJson"])[0].environment_state
        held = await played.fetch(
            'SELECT "size" / "leverage" AS margin FROM "PerpPosition"'
            ' WHERE "userId" = $1 AND "openedAt" < $2 AND "closedAt" > $2',
            *(row["agentId"], first),
        )
        carried += len(held)
        assert state.open_positions == len(held)
        assert state.equity == pytest.approx((state.agent_balance or 0) + sum(r["margin"] for r in held))
    assert carried > 0
    assert not await played.fetchval('SELECT count(*) FROM "PerpPosition" WHERE "closedAt" IS NULL')


async def test_the_pricer_finds_the_value_that_was_realised(played: asyncpg.Connection) -> None:
    positions = await played.fetch('SELECT * FROM "PerpPosition" ORDER BY "openedAt", "id"')
    companies = sorted({row["organizationId"] for row in positions})
    paths = await load_price_paths(played, companies, START, END + HOUR)
    for row in positions:
        later = paths[row["organizationId"]].between(row["openedAt"], row["openedAt"] + HOUR)
        worth = value_perpetual(row["side"], row["size"], row["leverage"], row["entryPrice"], later)
        assert row["realizedPnL"] == pytest.approx(worth.pnl, abs=1e-9)
        assert row["currentPrice"] == worth.exit_price
        if worth.liquidated:
            assert row["closedAt"] <= row["openedAt"] + HOUR
        else:
            assert row["closedAt"] == row["openedAt"] + HOUR
    traded = await one(
        played,
        """
        SELECT count(*) FILTER (WHERE "action" = 'open') AS opened,
               count(*) FILTER (WHERE "action" = 'close') AS closed, sum("pnl") AS pnl FROM "AgentTrade"
        """,
    )
    assert traded["opened"] == traded["closed"] == len(positions)
    assert traded["pnl"] == pytest.approx(sum(row["realizedPnL"] for row in positions))


async def test_the_last_window_of_a_day_matures_with_the_day(played: asyncpg.Connection) -> None:
    await refresh_window_rows(played, played)
    window = "2026-10-02T23:00"
    read = await read_window(played, played, window)
    assert (len(read.agents), len(read.trajectories), read.quarantined) == (AGENTS, 2 * AGENTS, [])
    values = await value_orders(played, played, window, now=END + timedelta(minutes=90))
    hour = {value.order_id: value for value in values if value.horizon == "1h"}
    assert hour and all(value.matured for value in hour.values())
    for row in await played.fetch('SELECT * FROM "PerpPosition" WHERE "openedAt" >= $1', END - HOUR):
        fees = trading_fee(row["size"]) * (1 if hour[row["id"]].liquidated else 2)
        assert hour[row["id"]].value == pytest.approx(row["realizedPnL"] - fees)


async def test_prices_are_written_twice_until_an_hour_after_the_day(played: asyncpg.Connection) -> None:
    for company in ("aurum", "boreal", "cobalt", "dynamo"):
        rows = await played.fetch(
            'SELECT * FROM "StockPrice" WHERE "organizationId" = $1 ORDER BY "timestamp", "id"', company
        )
        real, echoes = rows[::2], rows[1::2]
        assert [row["timestamp"] for row in real] == [START + timedelta(minutes=5 * i) for i in range(589)]
        assert real[-1]["timestamp"] == END + HOUR
        for row, echo in zip(real, echoes, strict=True):
            assert (echo["price"], echo["change"]) == (row["price"], 0)
            assert timedelta(0) < echo["timestamp"] - row["timestamp"] < timedelta(seconds=1)
        for before, row in zip(real, real[1:], strict=False):
            assert row["change"] == pytest.approx(row["price"] - before["price"])
        current = await played.fetchval('SELECT "currentPrice" FROM "Organization" WHERE "id" = $1', company)
        assert current == next(row["price"] for row in real if row["timestamp"] == END)
