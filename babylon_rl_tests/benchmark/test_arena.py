"""The arena: the same held-out markets for everybody, and no market twice."""

import numpy as np
import pytest

from babylon_rl.benchmark.arena import Standing, contest, difference, held_out, rate_difference
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.simulation.market import REGIMES, VAULT_REGIMES
from babylon_rl.simulation.play import RETURN_BOUND


def standing(name: str, returns: list[float], **counts: list[float]) -> Standing:
    n = len(returns)
    values = {"orders": [4.0] * n, "wins": [2.0] * n, "well_timed": [2.0] * n, "invalid": [0.0] * n} | counts
    arrays = {key: np.array(value) for key, value in values.items()}
    return Standing(name=name, returns=np.array(returns), decisions=4 * n, **arrays)


def test_markets_follow_from_the_key_alone() -> None:
    one, again, other, vault = (
        held_out("a", 40),
        held_out("a", 40),
        held_out("b", 40),
        held_out("a", 40, vault=True),
    )
    assert one.seeds == again.seeds
    assert all((m.prices == n.prices).all() for m, n in zip(one.markets, again.markets, strict=True))
    assert len({*one.seeds, *other.seeds, *vault.seeds}) == 120, "no market is met twice"
    assert held_out("a", 60).seeds[:40] == one.seeds


def test_only_the_vault_has_the_regimes_that_nothing_was_tuned_on() -> None:
    gate = {market.regimes[0] for market in held_out("key", 200).markets}
    vault = {market.regimes[0] for market in held_out("key", 200, vault=True).markets}
    assert gate == {regime.name for regime in REGIMES}
    assert vault == {regime.name for regime in VAULT_REGIMES}


@pytest.mark.anyio
async def test_a_contest_is_paired_and_repeatable(base_engine: EmbeddedEngine) -> None:
    material = held_out("a contest", 96)
    standings = await contest({"v0.0.0": base_engine, "twin": base_engine}, material)
    assert set(standings) == {"v0.0.0", "twin", "hold", "random", "oracle"}
    base, twin = standings["v0.0.0"], standings["twin"]
    assert (base.returns == twin.returns).all(), "the same weights on the same markets and seeds"
    same = difference(base, twin)
    assert same.mean == 0 and same.low <= 0 <= same.high and same.n == 96
    assert difference(standings["oracle"], standings["random"]).low > 0
    hold = standings["hold"]
    assert not hold.returns.any() and hold.decisions == base.decisions == 4 * 96
    for one in standings.values():
        assert one.returns.shape == (96,) and np.abs(one.returns).max() <= RETURN_BOUND
        summary = one.summary()
        assert summary["return_mean"] == pytest.approx(one.returns.mean())
        assert summary["worst_return"] == one.returns.min() and 0 <= summary["invalid_rate"] <= 1
        if one.name != "hold":
            assert summary["return_low"] < summary["return_mean"] < summary["return_high"]


def test_a_difference_is_of_the_same_markets() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.1, 512)
    better = difference(standing("b", (luck + 0.02).tolist()), standing("a", luck.tolist()))
    assert better.mean == pytest.approx(0.02) and better.n == 512
    strict = difference(standing("b", (luck + 0.02).tolist()), standing("a", luck.tolist()), alpha=0.001)
    assert strict.low < better.low


def test_rates_are_compared_where_both_traded() -> None:
    one = standing("one", [0.0] * 4, orders=[4, 2, 0, 4], wins=[4, 1, 0, 0], invalid=[0, 2, 4, 0])
    two = standing("two", [0.0] * 4, orders=[4, 4, 4, 0], wins=[0, 2, 4, 0], invalid=[0, 0, 0, 4])
    wins = rate_difference(one, two, "wins")
    assert wins is not None and wins.n == 2 and wins.mean == pytest.approx((1.0 + 0.0) / 2)
    invalid = rate_difference(one, two, "invalid")
    assert invalid is not None and invalid.n == 4 and invalid.mean == pytest.approx((0.5 + 1 - 1) / 4)
    assert one.invalid_rate == pytest.approx(6 / 16)
    idle = standing("idle", [0.0] * 4, orders=[0] * 4, wins=[0] * 4)
    assert rate_difference(idle, two, "well_timed") is None, "no market can tell"
