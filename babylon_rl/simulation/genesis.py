"""The beginning of a simulated world: its users and companies, and the row that says what was simulated.

A database holds one world. Its parameters are fixed by the first call; later calls find it again.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from babylon_rl.errors import BabylonError
from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.ledger import dollars
from babylon_rl.simulation.market import TICK_MINUTES, MarketSpec
from babylon_rl.simulation.predictions import PRICINGS, Pricing
from babylon_rl.simulation.rows import Rows
from babylon_rl.simulation.trader import BANKROLL, SYSTEM_PROMPT

AGENTS = 8
NPCS = 4
"""Background users; they alone trade the prediction markets."""

NPC_BANKROLL = 100_000.0
NEWSROOM = "babylon-newsroom"
"""Id of the organization that publishes articles."""

OUR_KINDS = ("embedded", "scratch")
"""Values of `rl.installation.kind` that allow writing into the game's tables."""

MAX_AGENTS = 1000
FIRST_DAY = date(2024, 1, 2)
"""Snowflake ids cannot express earlier times."""

_DAYS = 'SELECT max("dayNumber") FROM "WorldEvent" WHERE "gameId" = $1'
_STORED = "SELECT seed, start_day, agents, spec FROM rl.simulation ORDER BY seed LIMIT 1"
_STORE = """
INSERT INTO rl.simulation (seed, start_day, days, agents, spec) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (seed) DO NOTHING
"""


class SimulationError(BabylonError):
    """Base of the errors of this room."""


class ForeignDatabaseError(SimulationError):
    """The database is not ours to write a simulated game into."""


class WorldMismatchError(SimulationError):
    """The database holds another world than the one that was asked for."""


class InvalidWorldError(SimulationError):
    """Parameters that make no world."""


@dataclass(frozen=True)
class Person:
    """A user of the simulated game."""

    id: str
    name: str
    number: int
    """Counted from 1."""


@dataclass
class World:
    """A simulated game; `next_day` moves on when `simulate_day` has committed a day."""

    seed: int
    start_day: date
    spec: MarketSpec
    pricing: Pricing
    agents: tuple[Person, ...] = field(repr=False)
    npcs: tuple[Person, ...] = field(repr=False)
    next_day: date

    @property
    def game_id(self) -> str:
        """`gameId` of the world's events, articles and markets."""
        return f"simulation-{self.seed}"

    @property
    def start(self) -> datetime:
        """Midnight of the first day; hour and tick 0 of the market path."""
        return datetime(self.start_day.year, self.start_day.month, self.start_day.day, tzinfo=UTC)

    def moment(self, tick: int) -> datetime:
        """The time of a tick of the market path."""
        return self.start + timedelta(minutes=TICK_MINUTES * tick)

    def tick(self, moment: datetime) -> int:
        """The tick of the market path that a time falls into."""
        return (moment - self.start) // timedelta(minutes=TICK_MINUTES)


def display_name(organization_id: str) -> str:
    """The name of an organization."""
    return organization_id.replace("-", " ").title()


async def ensure_world(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    *,
    seed: int,
    agents: int = AGENTS,
    start_day: date,
    spec: MarketSpec | None = None,
    pricing: Pricing = "as_shipped",
) -> World:
    """Returns the database's world, made on the first call: agents, background users, companies.

    Args:
        game: Connection to the game's database, outside of a transaction.
        rl: Connection to the database with schema `rl`; may be the same one.
        seed: Decides the market, the questions and what the policy's random numbers are.
        agents: Agents that a policy plays.
        start_day: First simulated day.
        spec: Rules of the market.
        pricing: What prediction markets charge; see `simulation.predictions`.

    Raises:
        ForeignDatabaseError: The game's database carries no marker of ours.
        WorldMismatchError: It holds a world with other parameters, or users or companies of the same names.
        InvalidWorldError: The parameters make no world.
    """
    await require_marker(game)
    world = _world(seed, agents, start_day, spec or MarketSpec(), pricing)
    async with game.transaction():
        await lock(game)
        await _compare(rl, world)
        days = await days_done(game, world)
        if days == 0 and not await game.fetchval(
            'SELECT EXISTS (SELECT FROM "User" WHERE "id" = $1)', world.agents[0].id
        ):
            await _populate(game, world)
        await rl.execute(_STORE, seed, start_day, days, agents, _rules(world))
    world.next_day = start_day + timedelta(days=days)
    return world


async def require_marker(game: asyncpg.Connection) -> None:
    """Raises ForeignDatabaseError unless `rl.installation` says that the database is ours."""
    kind = None
    if await game.fetchval("SELECT to_regclass('rl.installation') IS NOT NULL"):
        kind = await game.fetchval("SELECT kind FROM rl.installation")
    if kind not in OUR_KINDS:
        raise ForeignDatabaseError(
            "Nothing is simulated into this database: it carries no marker of ours (rl.installation)",
            "Unset DATABASE_URL to use the embedded server; a simulation never writes into a live game.",
        )


async def lock(game: asyncpg.Connection) -> None:
    """Makes simulations of one database wait for each other until the transaction ends."""
    await game.execute("SELECT pg_advisory_xact_lock(hashtextextended('babylon_rl.simulation', 0))")


async def days_done(game: asyncpg.Connection, world: World) -> int:
    """How many days of the world are in the game's tables. They are the truth; `rl.simulation` repeats it."""
    return int(await game.fetchval(_DAYS, world.game_id) or 0)


def _world(seed: int, agents: int, start_day: date, spec: MarketSpec, pricing: Pricing) -> World:
    if not 0 <= seed < 2**31:
        raise InvalidWorldError(f"The seed {seed} is out of range", "It must be from 0 to 2147483647.")
    if not 1 <= agents <= MAX_AGENTS:
        raise InvalidWorldError(f"{agents} agents make no world", f"Take 1 to {MAX_AGENTS}.")
    if start_day < FIRST_DAY:
        raise InvalidWorldError(f"A world cannot start on {start_day}", f"Take {FIRST_DAY} or a later day.")
    if pricing not in PRICINGS:
        raise InvalidWorldError(f"There is no pricing {pricing!r}", f"Take one of {', '.join(PRICINGS)}.")
    world = World(seed, start_day, spec, pricing, (), (), start_day)
    ids = SimulatedIds(0, world.start - timedelta(days=1))
    world.agents = tuple(Person(ids(), f"Agent {n}", n) for n in range(1, agents + 1))
    world.npcs = tuple(Person(ids(), f"Bystander {n}", n) for n in range(1, NPCS + 1))
    return world


def _rules(world: World) -> dict[str, Any]:
    return {"market": world.spec, "pricing": world.pricing}


async def _compare(rl: asyncpg.Connection, world: World) -> None:
    stored = await rl.fetchrow(_STORED)
    if stored is None:
        return
    remedy = "Continue with the stored parameters, or start another world under another BABYLON_HOME."
    asked = {"seed": world.seed, "start_day": world.start_day, "agents": len(world.agents)}
    differing = [
        f"{name} {stored[name]}, not {value}" for name, value in asked.items() if stored[name] != value
    ]
    if differing:
        raise WorldMismatchError(f"This database holds a world with {'; '.join(differing)}", remedy)
    if stored["spec"] != msgspec.json.decode(msgspec.json.encode(_rules(world))):
        raise WorldMismatchError("This database holds a world with other market rules", remedy)


async def _populate(game: asyncpg.Connection, world: World) -> None:
    rows, born = Rows(), world.start - timedelta(days=1)
    ids = SimulatedIds(0, born)
    for person in (*world.agents, *world.npcs):
        _add_user(rows, ids, world, person, born)
    for company, ticker in zip(world.spec.companies, world.spec.tickers, strict=True):
        _add_organization(rows, company, f"Perpetual {ticker}", "company", world.spec.initial_price, born)
    _add_organization(rows, NEWSROOM, "Reports on the companies of the simulation", "media", None, born)
    try:
        await rows.write(game)
    except asyncpg.UniqueViolationError as problem:
        raise WorldMismatchError(
            f"The database holds another user or company of a name that the world needs ({problem})",
            "Simulate into an empty database: set another BABYLON_HOME.",
        ) from problem


def _add_user(rows: Rows, ids: SimulatedIds, world: World, person: Person, born: datetime) -> None:
    is_agent = person in world.agents
    money = dollars(round((BANKROLL if is_agent else NPC_BANKROLL) * 100))
    rows.add(
        "User",
        id=person.id,
        username=person.name.lower().replace(" ", "-"),
        displayName=person.name,
        isActor=not is_agent,
        isAgent=is_agent,
        virtualBalance=money,
        totalDeposited=money,
        agentSystem=SYSTEM_PROMPT if is_agent else None,
        agentStatus="running" if is_agent else "idle",
        autonomousTrading=is_agent,
        createdAt=born,
        updatedAt=born,
    )
    rows.add(
        "BalanceTransaction",
        id=ids(),
        userId=person.id,
        type="deposit",
        amount=money,
        balanceBefore=dollars(0),
        balanceAfter=money,
        relatedId=None,
        description="Initial deposit",
        createdAt=born,
    )


def _add_organization(
    rows: Rows, org_id: str, description: str, kind: str, price: float | None, born: datetime
) -> None:
    rows.add(
        "Organization",
        id=org_id,
        name=display_name(org_id),
        description=description,
        type=kind,
        initialPrice=price,
        currentPrice=price,
        createdAt=born,
        updatedAt=born,
    )
