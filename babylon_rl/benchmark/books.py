"""The books of one examination: cash, positions and shares of everybody who plays a snapshot.

Nothing is free and nothing is forgotten: an order costs its margin or its amount and the fee, every position
has a number of its own, leaving pays what the market gives, and what is left is settled at the end. Traders
of one market share its reserves. Every hour begins with the same bankroll, as in a window of the game, and
what was won or lost before is only counted: nobody's luck decides what they can afford later. Orders for one
company within one tick move the price that the next of them gets, as in the game (`crowd.entry_prices`).
"""

from dataclasses import dataclass, field

from babylon_rl.benchmark.answers import Closing, Wanted
from babylon_rl.benchmark.crowd import IMPACT_LIMIT, IMPACT_VOLUME
from babylon_rl.benchmark.snapshot import Prediction, Snapshot
from babylon_rl.outcomes.cpmm import FEE_RATE, Pool, bought, sold
from babylon_rl.outcomes.perpetuals import SIDES, liquidation_price, trading_fee
from babylon_rl.outcomes.pricing import PERPETUAL, PREDICTION
from babylon_rl.simulation.market import TICKS_PER_HOUR
from babylon_rl.simulation.trader import BANKROLL

HOLD_TICKS = TICKS_PER_HOUR
"""A perpetual position is closed after an hour, as the pricer values it."""


@dataclass
class Position:
    """What an order became; amounts in USD."""

    number: int
    kind: str
    instrument: str
    side: str
    size: float
    opened: int
    entry: float
    """Price of a perpetual; average price per share of a prediction."""
    leverage: float = 1.0
    shares: float = 0.0
    paid: float = 0.0
    """Margin or amount, with the fee."""
    received: float = 0.0
    closed: int | None = None
    liquidated: bool = False
    right: bool | None = None
    """Of a prediction that was resolved."""

    @property
    def pnl(self) -> float:
        """After all fees, once closed."""
        return self.received - self.paid


@dataclass
class Account:
    """One trader's money."""

    cash: float = BANKROLL
    positions: list[Position] = field(default_factory=list)
    added: float = 0.0
    """What the start of each hour brought, less what it took."""
    equity: list[float] = field(default_factory=lambda: [BANKROLL])
    """At the start, at the end of every tick, and when all is settled; at liquidation value, without what the
    hours added: the bankroll and all gains and losses since."""

    @property
    def open(self) -> list[Position]:
        return [position for position in self.positions if position.closed is None]


class Books:
    """The accounts of a snapshot's traders, tick by tick.

    Args:
        impact: Factor on the game's price impact of orders for perpetuals; 0 for none.
    """

    def __init__(self, snapshot: Snapshot, traders: int, impact: float = 1.0) -> None:
        self._snapshot, self._impact = snapshot, impact
        self.accounts = [Account() for _ in range(traders)]
        self._pools = {m.id: Pool(m.yes_shares, m.no_shares) for m in snapshot.predictions}
        self._markets = {market.id: market for market in snapshot.predictions}
        self._prices = {perpetual.ticker: perpetual.prices for perpetual in snapshot.perpetuals}
        self._moved: dict[str, float] = {}
        self._numbers = 0

    def pool(self, market_id: str) -> Pool:
        """The reserves of a market now."""
        return self._pools[market_id]

    def resolved(self, market: Prediction, tick: int) -> bool:
        return tick >= market.resolves

    def begin(self, tick: int) -> None:
        """Before anybody acts: others trade, markets resolve, positions are liquidated or end."""
        self._moved = {}
        for market in self._snapshot.predictions:
            for trade in market.trades:
                if trade.tick == tick - 1 and self._pools[market.id].is_liquid:
                    self._pools[market.id] = bought(self._pools[market.id], trade.yes, trade.amount)[0]
        for account in self.accounts:
            for position in account.open:
                self._age(account, position, tick)
            if tick % TICKS_PER_HOUR == 0:
                missing = BANKROLL - account.cash - sum(self._worth(p, tick) for p in account.open)
                missing = max(missing, -account.cash)
                account.cash, account.added = account.cash + missing, account.added + missing

    def open(self, trader: int, order: Wanted, tick: int) -> str:
        """Gives an order; returns `order`, or `refused` (cash), or `unpriced` (no such open market)."""
        account = self.accounts[trader]
        if not order.size > 0 or not order.leverage >= 1:
            return "refused"
        if order.kind == PERPETUAL:
            return self._open_perpetual(account, order, tick)
        return self._open_prediction(account, order, tick)

    def leave(self, trader: int, wish: Closing, tick: int) -> str:
        """Closes a trader's positions in a market, the oldest first; returns `order` or `refused`."""
        account, left = self.accounts[trader], wish.amount
        name = wish.instrument.strip().lstrip("$")
        mine = [p for p in account.open if p.instrument.lower() == name.lower() or str(p.number) == name]
        for position in mine:
            if position.kind == PERPETUAL:
                self._close_perpetual(account, position, self._prices[position.instrument][tick], tick)
            elif left is None or left > 0:
                shares = position.shares if left is None else min(left, position.shares)
                self._sell(account, position, shares, tick)
                left = None if left is None else left - shares
        return "order" if mine else "refused"

    def end(self, tick: int) -> None:
        """What happens after everybody acted: equities are noted."""
        for account in self.accounts:
            worth = sum(self._worth(p, tick) for p in account.open)
            account.equity.append(account.cash + worth - account.added)

    def finish(self) -> None:
        """Settles what is open after the last tick."""
        last = self._snapshot.ticks
        self.begin(last)
        for account in self.accounts:
            for position in account.open:
                if position.kind == PERPETUAL:
                    self._close_perpetual(account, position, self._prices[position.instrument][last], last)
                else:
                    self._sell(account, position, position.shares, last)
            account.equity.append(account.cash - account.added)

    def _open_perpetual(self, account: Account, order: Wanted, tick: int) -> str:
        ticker = next((t for t in self._prices if t.lower() == order.instrument.lower().lstrip("$")), None)
        if ticker is None:
            return "unpriced"
        margin, fee = order.size / order.leverage, trading_fee(order.size)
        if margin + fee > account.cash:
            return "refused"
        entry = self._prices[ticker][tick] * self._moved.get(ticker, 1.0)
        push = SIDES[order.side] * min(order.size / IMPACT_VOLUME, IMPACT_LIMIT)
        self._moved[ticker] = self._moved.get(ticker, 1.0) * (1 + self._impact * push)
        position = self._position(PERPETUAL, ticker, order, tick, entry, margin + fee)
        account.cash -= position.paid
        account.positions.append(position)
        return "order"

    def _open_prediction(self, account: Account, order: Wanted, tick: int) -> str:
        market = self._markets.get(order.instrument)
        if market is None or self.resolved(market, tick) or not self._pools[market.id].is_liquid:
            return "unpriced"
        if order.size > account.cash:
            return "refused"
        yes = order.side == "yes"
        self._pools[market.id], shares = bought(self._pools[market.id], yes, order.size * (1 - FEE_RATE))
        position = self._position(PREDICTION, market.id, order, tick, order.size / shares, order.size)
        position.shares = shares
        account.cash -= order.size
        account.positions.append(position)
        return "order"

    def _position(
        self, kind: str, instrument: str, order: Wanted, tick: int, entry: float, paid: float
    ) -> Position:
        self._numbers += 1
        return Position(
            self._numbers, kind, instrument, order.side, order.size, tick, entry, order.leverage, paid=paid
        )

    def _age(self, account: Account, position: Position, tick: int) -> None:
        if position.kind == PREDICTION:
            market = self._markets[position.instrument]
            if self.resolved(market, tick):
                position.right = (position.side == "yes") == market.outcome
                self._pay(account, position, position.shares if position.right else 0.0, tick)
            return
        price = self._prices[position.instrument][tick]
        limit = liquidation_price(position.side, position.entry, position.leverage)
        if (price <= limit) if position.side == "long" else (price >= limit):
            position.liquidated = True
            self._pay(account, position, 0.0, tick)
        elif tick >= position.opened + HOLD_TICKS:
            self._close_perpetual(account, position, price, tick)

    def _close_perpetual(self, account: Account, position: Position, price: float, tick: int) -> None:
        self._pay(account, position, self._proceeds(position, price), tick)

    def _sell(self, account: Account, position: Position, shares: float, tick: int) -> None:
        pool = self._pools[position.instrument]
        self._pools[position.instrument], gross = sold(pool, position.side == "yes", shares)
        account.cash += gross * (1 - FEE_RATE)
        position.received += gross * (1 - FEE_RATE)
        position.shares -= shares
        if position.shares <= 1e-9:
            position.closed = tick

    def _pay(self, account: Account, position: Position, amount: float, tick: int) -> None:
        account.cash += amount
        position.received += amount
        position.closed = tick

    def _proceeds(self, position: Position, price: float) -> float:
        pnl = SIDES[position.side] * (price - position.entry) / position.entry * position.size
        margin = position.size / position.leverage
        return max(0.0, margin + pnl - trading_fee(position.size))

    def _worth(self, position: Position, tick: int) -> float:
        if position.kind == PERPETUAL:
            return self._proceeds(position, self._prices[position.instrument][tick])
        pool = self._pools[position.instrument]
        return sold(pool, position.side == "yes", position.shares)[1] * (1 - FEE_RATE)
