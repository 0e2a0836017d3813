"""Episodes: one per agent and window, paid for this window's decisions only."""

import pytest

from babylon_rl.records.lean import lean_trajectory
from babylon_rl.scoring.episodes import build_episodes
from babylon_rl_tests.game_rows import at, call, step
from babylon_rl_tests.scoring.made import order, trajectory, window


def state(**values):
    return {"agentBalance": 1000, "agentPnL": 0, "openPositions": 0} | values


def act(kind: str, *, success: bool = True, **values):
    return {"actionType": kind, "parameters": {}, "success": success} | values


def test_one_episode_per_agent_in_time_order():
    read = window(
        trajectory("b", [step(llmCalls=[call(response="late")])], minute=40),
        trajectory("a", [step()]),
        trajectory("b", [step(llmCalls=[call(response="early")])], minute=3),
    )
    first, second = build_episodes(read, [])
    assert (first.agent_id, second.agent_id) == ("a", "b")
    assert second.trajectory_ids == ["b-3", "b-40"]
    assert [c.response for c in second.calls] == ["early", "late"]


def test_orders_of_the_horizon_pay_and_are_counted():
    read = window(trajectory("a", [step()]), trajectory("b", [step()]))
    orders = [order("a", 10), order("a", -4), order("a", 500, "24h"), order("stranger", 9)]
    first, second = build_episodes(read, orders)
    assert (first.attributed_pnl, first.trades, first.wins, first.losses) == (6, 2, 1, 1)
    assert (second.attributed_pnl, second.trades, second.pnl_source) == (0, 0, "orders")
    (day, _) = build_episodes(read, orders, horizon="24h")
    assert (day.attributed_pnl, day.trades) == (500, 1)


def test_orders_that_wait_or_have_no_value_are_told():
    read = window(trajectory("a", [step()]))
    (only,) = build_episodes(read, [order("a", 3, matured=False), order("a", None), order("a", 7)])
    assert (only.pending_orders, only.unpriced_orders, only.attributed_pnl) == (1, 1, 10)


def test_without_order_values_the_lifetime_difference_is_a_flagged_fallback():
    read = window(
        trajectory("a", [step(environmentState=state(agentPnL=-58.8))], final_pnl=-58.8, minute=1),
        trajectory("a", [step(environmentState=state(agentPnL=-58.8))], final_pnl=-50.0, minute=2),
        trajectory("b", [step(environmentState=state(agentPnL=None))], final_pnl=30.0),
    )
    first, second = build_episodes(read, None)
    assert first.attributed_pnl == pytest.approx(8.8) and first.pnl_source == "lifetime_difference"
    assert (second.attributed_pnl, second.pnl_source) == (None, "none")


def test_sixty_rows_with_the_same_lifetime_value_are_not_sixty_profits():
    rows = [
        trajectory("a", [step(environmentState=state(agentPnL=700))], minute=minute, final_pnl=700.0)
        for minute in range(60)
    ]
    (only,) = build_episodes(window(*rows), None)
    assert only.attributed_pnl == 0 and only.actions == 60


def test_holds_are_no_failures_and_invalid_answers_are():
    steps = [
        step(0, action=act("HOLD")),
        step(1, action=act("TRADING_DECISION", success=False)),
        step(2, action=act("INVALID", success=False, error="unknown ticker")),
        step(3, action=act("OPEN_PERP_POSITION", success=False, error="Insufficient balance")),
        step(4, action=act("CREATE_POST", success=False, error="timeout")),
        step(5, action=act("pending", success=False)),
        step(6, action=None),
    ]
    (only,) = build_episodes(window(trajectory("a", steps)), [])
    assert (only.actions, only.invalid_actions, only.invalid_share) == (5, 2, 0.4)


def test_episodes_without_steps_have_no_share_to_divide_by():
    (only,) = build_episodes(window(trajectory("a", [])), [])
    assert (only.actions, only.invalid_share, only.start_equity, only.trainable) == (0, 0.0, None, False)


@pytest.mark.parametrize(
    ("states", "equity"),
    [
        ([state(equity=1050, agentBalance=900)], 1050),
        ([state(agentBalance=900)], 900),
        ([state(agentBalance=0)], 0),
        ([state(agentBalance=None), state(agentBalance=5)], 5),
        ([state(agentBalance=None)], None),
    ],
)
def test_start_equity_is_that_of_the_first_step_that_knows_it(states, equity):
    steps = [step(i, environmentState=values) for i, values in enumerate(states)]
    assert build_episodes(window(trajectory("a", steps)), [])[0].start_equity == equity


def test_agents_of_other_policies_are_not_trainable():
    read = window(
        trajectory("ours", [step(llmCalls=[call()])]),
        trajectory("foreign", [step(llmCalls=[call(policyVersion=None, tokenIds=None, logprobs=None)])]),
        trajectory("rules", [step()]),
    )
    found = {e.agent_id: (e.trainable, e.policy_versions) for e in build_episodes(read, [])}
    assert found == {"ours": (True, ["v0.0.1"]), "foreign": (False, []), "rules": (False, [])}


def at_minute(minute: float, kind: str = "OPEN_PERP_POSITION", **values) -> dict:
    return step(timestamp=at(minute).timestamp() * 1000, action=act(kind), **values)


def pnl_of(steps: list[dict], orders: list, lean: bool = False) -> list[float]:
    row = trajectory("a", steps)
    (only,) = build_episodes(window(lean_trajectory(row) if lean else row), orders)
    return [decision.pnl for decision in only.decisions]


@pytest.mark.parametrize("lean", [False, True])
def test_an_order_is_the_doing_of_the_last_step_that_had_begun(lean):
    steps = [at_minute(20), at_minute(5), at_minute(40)]
    orders = [
        order("a", 10, opened_at=at(5)),
        order("a", 3, opened_at=at(19.9)),
        order("a", 7, opened_at=at(59)),
        order("a", 1, opened_at=at(2)),
        order("a", 900, "24h", opened_at=at(20)),
    ]
    assert pnl_of(steps, orders, lean) == [0, 14, 7]


def test_who_closes_early_is_paid_for_what_that_changed():
    steps = [at_minute(5), at_minute(20), at_minute(50)]
    orders = [
        order("a", 14, opened_at=at(5), closed_at=at(21), held=-11.0),
        order("a", 6, opened_at=at(50), closed_at=at(70), held=2.0),
    ]
    assert pnl_of(steps, orders) == [-11, 25, 2], "what is closed in another hour is no decision of this one"


def test_steps_without_times_share_what_the_hour_made():
    steps = [at_minute(5), step(timestamp=None)]
    assert pnl_of(steps, [order("a", 10)]) == [5, 5]


def test_decisions_know_invalid_answers_and_need_valued_orders():
    row = trajectory("a", [at_minute(5, "invalid"), at_minute(20, "HOLD")])
    (only,) = build_episodes(window(row), [])
    assert [decision.invalid for decision in only.decisions] == [True, False]
    (fallback,) = build_episodes(window(row), None)
    assert fallback.decisions == []
