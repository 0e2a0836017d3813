"""The desk on a market of known prices: fees, liquidation, settlement, the treasury."""

from datetime import UTC, date, datetime

import numpy as np
import pytest

from babylon_rl.outcomes.perpetuals import trading_fee
from babylon_rl.simulation.desk import Desk
from babylon_rl.simulation.genesis import Person, World
from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.ledger import Account, Ledger
from babylon_rl.simulation.market import MarketPath, MarketSpec
from babylon_rl.simulation.rows import Rows
from babylon_rl.simulation.trader import Order

AGENT = Person("agent", "Agent 1", 1)
SPEC = MarketSpec(companies=("aurum",))
START = datetime(2026, 10, 1, tzinfo=UTC)


def desk_with(prices: list[float], balance: int = 1_000_00) -> tuple[Desk, Ledger, Rows]:
    world = World(1, date(2026, 10, 1), SPEC, "as_shipped", (AGENT,), (), date(2026, 10, 1))
    path = MarketPath(SPEC, np.array(prices)[:, None], np.zeros((1, 4, 1), np.int8), ("calm",))
    rows, ids = Rows(), SimulatedIds.of_day(0, START)
    ledger = Ledger([Account("agent", balance, 0, 0, 0, 0)], rows, ids)
    return Desk(world, path, ledger, rows, ids), ledger, rows


def order(side: str = "long") -> Order:
    return Order("AURUM", side, 1000.0, 10)


def test_a_position_is_closed_after_one_hour() -> None:
    desk, ledger, _ = desk_with([100.0] * 12 + [102.0] * 13)
    position = desk.open(AGENT, order(), tick=0)
    assert position is not None and position.closed == 12
    assert (desk.balance(AGENT), desk.equity(AGENT)) == (899.0, 999.0)
    desk.settle(11)
    assert desk.open_positions(AGENT) == 1
    desk.settle(12)
    assert desk.open_positions(AGENT) == 0
    assert desk.balance(AGENT) == 1000 + 20 - 2 * trading_fee(1000)
    assert desk.lifetime_pnl(AGENT) == 20  # before fees, as the game counts it
    assert ledger["agent"].fees == 200


@pytest.mark.parametrize(("side", "price"), [("long", 90.5), ("short", 109.5)])
def test_a_liquidation_takes_the_margin_at_once(side: str, price: float) -> None:
    desk, _, _ = desk_with([100.0, 100.0, price, 100.0] + [100.0] * 12)
    position = desk.open(AGENT, order(side), tick=0)
    assert position is not None and position.worth.liquidated and position.closed == 2
    desk.settle(2)
    assert desk.balance(AGENT) == 899.0
    assert desk.lifetime_pnl(AGENT) == -100.0


def test_who_cannot_pay_opens_nothing() -> None:
    desk, ledger, rows = desk_with([100.0] * 25, balance=100_99)
    assert desk.open(AGENT, order(), tick=0) is None
    assert (desk.tally.refused, desk.tally.orders, ledger["agent"].balance) == (1, 0, 100_99)
    assert rows.count("PerpPosition") == rows.count("BalanceTransaction") == 0
    ledger["agent"].balance += 1
    assert desk.open(AGENT, order(), tick=0) is not None


def test_the_treasury_counts_what_is_bound() -> None:
    desk, ledger, _ = desk_with([100.0] * 25, balance=700_00)
    desk.open(AGENT, order(), tick=0)
    desk.level(START)
    assert (desk.equity(AGENT), desk.balance(AGENT)) == (1000.0, 900.0)
    ledger["agent"].balance = 5_000_00
    desk.level(START)
    assert desk.equity(AGENT) == 1000.0
    assert (ledger["agent"].deposited, ledger["agent"].withdrawn) == (301_00, 4100_00)


def test_the_treasury_never_sweeps_more_than_there_is() -> None:
    desk, ledger, _ = desk_with([100.0] * 25, balance=1_250_00)
    for _ in range(11):
        desk.open(AGENT, order(), tick=0)
    desk.level(START)
    assert desk.balance(AGENT) == 0.0
    assert ledger["agent"].withdrawn == 1_250_00 - 11 * 101_00


def test_ids_of_days_never_meet() -> None:
    days = [SimulatedIds.of_day(number, START) for number in range(3)]
    drawn = [ids.at(START) for ids in days for _ in range(5000)]
    assert len(set(drawn)) == len(drawn)
    assert days[0].at(START) == str(int(drawn[4999]) + 1)
