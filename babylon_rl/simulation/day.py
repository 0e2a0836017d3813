"""One simulated day: the hours one after the other, then the rows."""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import asyncpg

from babylon_rl.policy.chat import ChatRequest, Policy
from babylon_rl.records.steps import Action, EnvironmentState
from babylon_rl.simulation.broadcast import (
    TICKS_PER_DAY,
    add_headlines,
    add_prices,
    headlines,
    price_ticks,
)
from babylon_rl.simulation.crowd import Crowd
from babylon_rl.simulation.desk import INSUFFICIENT_BALANCE, Desk
from babylon_rl.simulation.genesis import Person, World
from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.ledger import Ledger
from babylon_rl.simulation.market import DECISION_TICKS, TICKS_PER_HOUR, MarketPath, generate_market
from babylon_rl.simulation.play import ANSWER_TOKENS
from babylon_rl.simulation.questions import add_new_rows, load_questions, update_old_rows
from babylon_rl.simulation.recording import Moment, Recording, response_id
from babylon_rl.simulation.rows import Rows
from babylon_rl.simulation.trader import Hold, Invalid, Order, build_messages, parse_decision

HOURS_PER_DAY = 24
DECISIONS_PER_TRAJECTORY = 2

_PRICES = """
UPDATE "Organization" SET "currentPrice" = $2, "updatedAt" = $3 WHERE "id" = $1
"""
_TICKED = 'UPDATE "User" SET "agentLastTickAt" = $2 WHERE "id" = ANY($1::text[])'


@dataclass(frozen=True)
class DaySummary:
    """What a simulated day brought; all zero where it had been there before."""

    day: date
    created: bool
    """Whether this call wrote the day."""
    trajectories: int = 0
    decisions: int = 0
    orders: int = 0
    """Positions opened."""
    holds: int = 0
    invalid: int = 0
    """Answers that were no order."""
    refused: int = 0
    """Orders that the agent could not pay."""
    liquidations: int = 0
    value: float = 0.0
    """USD that the orders were worth one hour after they were opened, net of fees."""
    policy_versions: tuple[str, ...] = ()


@dataclass
class Day:
    """A day while it is played; `number` 0 is the world's first one."""

    policy: Policy
    world: World
    number: int
    path: MarketPath
    desk: Desk
    crowd: Crowd
    ledger: Ledger
    recording: Recording
    rows: Rows
    ids: SimulatedIds
    last_tick: datetime
    """Time of the last decision."""
    pending: dict[str, list[Moment]] = field(default_factory=dict)
    """Decisions of each agent that are not recorded yet."""
    kinds: dict[type, int] = field(default_factory=lambda: {Hold: 0, Invalid: 0, Order: 0})
    versions: set[str] = field(default_factory=set)

    @classmethod
    async def begin(cls, game: asyncpg.Connection, policy: Policy, world: World, number: int) -> "Day":
        """Reads where the day before ended."""
        # One hour more: prices of the hour after midnight already follow that hour's headlines.
        path = generate_market(world.spec, world.seed, (number + 1) * HOURS_PER_DAY + 1)
        midnight = world.moment(number * TICKS_PER_DAY)
        rows, ids = Rows(), SimulatedIds.of_day(number, midnight)
        users = [person.id for person in (*world.agents, *world.npcs)]
        ledger = await Ledger.load(game, users, rows, ids)
        desk = Desk(world, path, ledger, rows, ids)
        await desk.resume(game, midnight)
        crowd = Crowd(world, await load_questions(game, world), ledger, rows, ids)
        add_prices(world, path, price_ticks(number), rows, ids)
        recording = Recording(game, ids)
        return cls(policy, world, number, path, desk, crowd, ledger, recording, rows, ids, last_tick=midnight)

    async def play_hour(self, hour: int) -> None:
        """Plays one hour, counted from the world's start."""
        self.crowd.advance(hour)
        add_headlines(self.world, self.path, hour, self.rows, self.ids)
        first = hour * TICKS_PER_HOUR
        for tick in range(first, first + TICKS_PER_HOUR):
            self.desk.settle(tick)
            if tick == first:
                self.desk.level(self.world.moment(tick))
            if tick - first in DECISION_TICKS:
                await self._decide(hour, DECISION_TICKS.index(tick - first), tick)

    async def finish(self, game: asyncpg.Connection) -> DaySummary:
        """Writes what is left of the day."""
        end = self.world.moment((self.number + 1) * TICKS_PER_DAY)
        add_new_rows(self.crowd.questions, self.world, self.rows)
        await self.rows.write(game)
        await update_old_rows(game, self.crowd.questions)
        await self.ledger.store(game, end)
        await game.execute(_TICKED, [agent.id for agent in self.world.agents], self.last_tick)
        prices = self.path.prices[(self.number + 1) * TICKS_PER_DAY]
        await game.executemany(
            _PRICES,
            [(c, float(price), end) for c, price in zip(self.world.spec.companies, prices, strict=True)],
        )
        return DaySummary(
            day=self.world.start_day + timedelta(days=self.number),
            created=True,
            trajectories=await self.recording.date_rows(),
            decisions=sum(self.kinds.values()),
            orders=self.desk.tally.orders,
            holds=self.kinds[Hold],
            invalid=self.kinds[Invalid],
            refused=self.desk.tally.refused,
            liquidations=self.desk.tally.liquidations,
            value=self.desk.tally.value,
            policy_versions=tuple(sorted(self.versions)),
        )

    async def _decide(self, hour: int, decision: int, tick: int) -> None:
        """All agents see the same headlines and answer at once."""
        at = self.last_tick = self.world.moment(tick)
        news = headlines(self.world, self.path, hour, decision)
        prices = (float(price) for price in self.path.prices[tick])
        seen = {
            "prices": dict(zip(self.world.spec.tickers, prices, strict=True)),
            "headlines": dict(news),
        }
        requests = [
            ChatRequest(
                build_messages(news, self.desk.equity(agent), self.desk.open_positions(agent)),
                max_tokens=ANSWER_TOKENS,
                seed=_request_seed(self.world.seed, hour, decision, agent),
            )
            for agent in self.world.agents
        ]
        answers = await self.policy.complete(requests)
        for agent, request, answer in zip(self.world.agents, requests, answers, strict=True):
            state = self._state(agent, at)
            action = self._act(agent, answer.content, tick)
            self.versions.add(answer.policy_version)
            answer = replace(answer, response_id=response_id(self.world.seed, agent.id, at))
            self.pending.setdefault(agent.id, []).append(Moment(at, state, seen, request, answer, action))
        if (decision + 1) % DECISIONS_PER_TRAJECTORY == 0:
            final = {a.id: (self.desk.balance(a), self.desk.lifetime_pnl(a)) for a in self.world.agents}
            await self.recording.store(self.pending, final)
            self.pending = {}

    def _state(self, agent: Person, at: datetime) -> EnvironmentState:
        return EnvironmentState(
            agent_balance=self.desk.balance(agent),
            agent_pnl=self.desk.lifetime_pnl(agent),
            open_positions=self.desk.open_positions(agent),
            active_markets=len(self.world.spec.companies) + len(self.crowd.active),
            timestamp=int(at.timestamp() * 1000),
            equity=self.desk.equity(agent),
        )

    def _act(self, agent: Person, answer: str, tick: int) -> Action:
        choice = parse_decision(answer, self.world.spec.tickers)
        self.kinds[type(choice)] += 1
        if isinstance(choice, Hold):
            return Action(action_type="HOLD", parameters={}, success=True, result={"held": True})
        if isinstance(choice, Invalid):
            return Action(action_type="INVALID", parameters={}, success=False, error=choice.reason)
        position = self.desk.open(agent, choice, tick)
        return Action(
            action_type="OPEN_PERP_POSITION",
            parameters={
                "ticker": choice.ticker,
                "side": choice.side,
                "size": choice.size,
                "leverage": choice.leverage,
            },
            success=position is not None,
            result={"positionId": position.id, "entryPrice": position.entry_price} if position else None,
            error=None if position else INSUFFICIENT_BALANCE,
        )


def _request_seed(seed: int, hour: int, decision: int, agent: Person) -> int:
    """A number of its own for every answer of a world, whoever else is asked at the same time."""
    identity = f"{seed}/{hour}/{decision}/{agent.number}"
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:6], "big")
