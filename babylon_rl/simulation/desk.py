"""The trading desk of a simulated day: perpetual positions of the agents, and their money.

An agent's position is closed exactly one hour after it was opened, at the path's price, unless it is
liquidated before. Prices do not react to agents, so what becomes of a position is known when it is opened:
its row is written closed, with the realised value that the pricer later finds from the recorded prices. The
money moves when its time has come. A position that is open at midnight settles in the next day's transaction.
"""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from babylon_rl.outcomes.perpetuals import PerpValue, liquidation_price, trading_fee, value_perpetual
from babylon_rl.simulation.genesis import Person, World, display_name
from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.ledger import Ledger, cents
from babylon_rl.simulation.market import TICKS_PER_HOUR, MarketPath
from babylon_rl.simulation.rows import Rows
from babylon_rl.simulation.trader import BANKROLL, Order

INSUFFICIENT_BALANCE = "Insufficient balance"

_IN_FLIGHT = """
SELECT "id", "userId", "ticker", "side", "size", "leverage", "openedAt"
  FROM "PerpPosition" WHERE "userId" = ANY($1::text[]) AND "closedAt" >= $2 ORDER BY "openedAt", "id"
"""


@dataclass(frozen=True)
class Position:
    """One perpetual position and what becomes of it."""

    id: str
    agent_id: str
    order: Order
    entry_price: float
    opened: int
    """Tick of the market path."""
    closed: int
    """Tick of the market path at which it is closed or liquidated."""
    worth: PerpValue

    @property
    def margin(self) -> int:
        """Cents that are bound while it is open."""
        return cents(self.order.margin)

    @property
    def opening_fee(self) -> int:
        """Cents; a closing, but no liquidation, costs the same again."""
        return cents(trading_fee(self.order.size))

    @property
    def settlement(self) -> int:
        """Cents that come back at the end; never less than nothing."""
        return max(0, cents(self.worth.value) + self.margin + self.opening_fee)


@dataclass
class Tally:
    """What happened at the desk during a day."""

    orders: int = 0
    refused: int = 0
    liquidations: int = 0
    value: float = 0.0
    """USD that the day's orders are worth when closed, net of fees."""


class Desk:
    """Opens, settles and records positions.

    Args:
        world: The world.
        path: Its market, at least until one hour after the last order.
        ledger: Money of the agents.
        rows: Receives the game's rows.
        ids: Gives them their ids.
    """

    def __init__(self, world: World, path: MarketPath, ledger: Ledger, rows: Rows, ids: SimulatedIds) -> None:
        self.tally = Tally()
        self._world, self._path, self._ledger, self._rows, self._ids = world, path, ledger, rows, ids
        self._open: dict[str, list[Position]] = {agent.id: [] for agent in world.agents}

    async def resume(self, game: asyncpg.Connection, since: datetime) -> None:
        """Takes over the positions of the day before that are still open at `since`."""
        for row in await game.fetch(_IN_FLIGHT, list(self._open), since):
            order = Order(row["ticker"], row["side"], row["size"], row["leverage"])
            self._open[row["userId"]].append(
                self._position(row["id"], row["userId"], order, self._world.tick(row["openedAt"]))
            )

    def open_positions(self, agent: Person) -> int:
        """How many positions an agent has."""
        return len(self._open[agent.id])

    def equity(self, agent: Person) -> float:
        """USD of an agent: balance and the margin of open positions."""
        return self._equity(agent.id) / 100

    def balance(self, agent: Person) -> float:
        """USD that an agent can spend."""
        return self._ledger[agent.id].balance / 100

    def lifetime_pnl(self, agent: Person) -> float:
        """USD that an agent has ever realised, before fees."""
        return self._ledger[agent.id].lifetime_pnl / 100

    def settle(self, tick: int) -> None:
        """Pays out what is closed or liquidated at a tick."""
        at = self._world.moment(tick)
        for agent_id, positions in self._open.items():
            for position in [p for p in positions if p.closed <= tick]:
                positions.remove(position)
                self._settle(agent_id, position, at)

    def level(self, at: datetime) -> None:
        """Brings every agent's equity to the bankroll, from the treasury or into it.

        It happens at every full hour: agents of a window are compared with each other, so each window has to
        be an equal contest, whatever the hours before it brought. Without it winners would trade ever larger
        balances and losers would drop out of their groups.
        """
        for agent_id in self._open:
            balance = self._ledger[agent_id].balance
            missing = cents(BANKROLL) - self._equity(agent_id)
            # What is bound in positions cannot be swept.
            self._ledger.transfer(agent_id, max(missing, -balance), at, "Treasury: equal start of the hour")

    def open(self, agent: Person, order: Order, tick: int) -> Position | None:
        """Opens a position; None where the agent cannot pay margin and fee."""
        at = self._world.moment(tick)
        position_id = f"pos-{int(at.timestamp() * 1000)}-{agent.number:04d}"
        position = self._position(position_id, agent.id, order, tick)
        cost = position.margin + position.opening_fee
        if self._ledger[agent.id].balance < cost:
            self.tally.refused += 1
            return None
        self._ledger.post(
            agent.id, "perp_open", -cost, at, f"Opened {_describe(position)} (incl. fee)", position.id
        )
        self._ledger[agent.id].fees += position.opening_fee
        self._open[agent.id].append(position)
        self._record(position)
        self.tally.orders += 1
        self.tally.liquidations += position.worth.liquidated
        self.tally.value += position.worth.value
        return position

    def _equity(self, agent_id: str) -> int:
        return self._ledger[agent_id].balance + sum(position.margin for position in self._open[agent_id])

    def _position(self, position_id: str, agent_id: str, order: Order, tick: int) -> Position:
        prices = self._path.price_path(self._world.spec.tickers.index(order.ticker), tick, TICKS_PER_HOUR)
        entry, later = float(prices[0]), prices[1:]
        worth = value_perpetual(order.side, order.size, order.leverage, entry, later)
        held = int((later == worth.exit_price).argmax()) + 1 if worth.liquidated else TICKS_PER_HOUR
        return Position(position_id, agent_id, order, entry, tick, tick + held, worth)

    def _settle(self, agent_id: str, position: Position, at: datetime) -> None:
        account = self._ledger[agent_id]
        account.lifetime_pnl += cents(position.worth.pnl)
        if position.settlement:
            description = f"Closed {_describe(position)} - PnL: ${position.worth.pnl:.2f} (incl. fee)"
            self._ledger.post(agent_id, "perp_close", position.settlement, at, description, position.id)
        if not position.worth.liquidated:
            account.fees += position.opening_fee

    def _record(self, position: Position) -> None:
        order, worth = position.order, position.worth
        opened, closed = self._world.moment(position.opened), self._world.moment(position.closed)
        company = self._world.spec.companies[self._world.spec.tickers.index(order.ticker)]
        self._rows.add(
            "PerpPosition",
            id=position.id,
            userId=position.agent_id,
            ticker=order.ticker,
            organizationId=company,
            side=order.side,
            entryPrice=position.entry_price,
            currentPrice=worth.exit_price,
            size=order.size,
            leverage=order.leverage,
            liquidationPrice=liquidation_price(order.side, position.entry_price, order.leverage),
            unrealizedPnL=0.0,
            unrealizedPnLPercent=0.0,
            openedAt=opened,
            lastUpdated=closed,
            closedAt=closed,
            realizedPnL=worth.pnl,
        )
        for action, price, pnl, at in (
            ("open", position.entry_price, None, opened),
            ("close", worth.exit_price, worth.pnl, closed),
        ):
            self._rows.add(
                "AgentTrade",
                id=self._ids.at(at),
                marketType="perp",
                # The game writes the organization's name here and the engine's ticker into the position.
                ticker=display_name(company),
                action=action,
                side=order.side,
                amount=order.size,
                price=price,
                pnl=pnl,
                executedAt=at,
                agentUserId=position.agent_id,
            )


def _describe(position: Position) -> str:
    order = position.order
    return f"{order.leverage}x {order.side} position on {order.ticker}"
