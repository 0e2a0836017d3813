"""The judge's view: slim, bounded, stable, and without what it has no use for."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from babylon_rl.scoring.judge.encoding import encode, estimate_tokens
from babylon_rl.scoring.judge.rubric import DEFAULT
from babylon_rl.scoring.judge.split import halve, reunite, split
from babylon_rl.scoring.judge.views import build_views, short_number
from babylon_rl_tests.judge_attacks import payload
from babylon_rl_tests.scoring.judge.made import hold, make_episode, order


def body(*raw, tokens: int = 1200, pnl: float | None = 10.0, **values):
    (view,) = build_views([make_episode("a", pnl, *raw, **values)], max_tokens=tokens)
    return view.body


def test_a_step_is_state_decision_and_result():
    found = body(order(5.0, "AURUM surges, long."))
    assert found["profit_usd"] == 10 and found["start_equity_usd"] == 1000
    assert found["steps"] == [
        {
            "min": 5.0,
            "state": {"equity": 1000, "balance": 950, "lifetime_pnl": 12.5, "open": 1},
            "did": "OPEN_PERP_POSITION",
            "with": {"ticker": "AURUM", "side": "long", "size": 500, "leverage": 10},
            "said": "AURUM surges, long.",
            "ok": True,
            "got": {"entryPrice": 101.25},
            "saw": '{"AURUM":{"price":101.25}}',
        }
    ]


def test_prompts_tokens_and_ids_stay_at_home():
    text = json.dumps(body(order(), hold()))
    for hidden in ("Trade perpetuals", "response-1", "tokenIds", "pos-17", "v0.0.1"):
        assert hidden not in text


def test_failed_and_unknown_actions_are_shown_as_such():
    failed = order()
    failed["action"] |= {"success": False, "error": "Insufficient balance"}
    pending = hold() | {"action": {"actionType": "pending", "parameters": {}, "success": False}}
    first, second = body(failed, pending)["steps"]
    assert first["ok"] is False and first["error"] == "Insufficient balance" and "got" not in first
    assert "did" not in second and second["ok"] is False


def test_equal_episodes_of_other_agents_have_equal_digests():
    one, two, other = build_views(
        [
            make_episode("a", 5.0, order()),
            make_episode("b", 5.0, order()),
            make_episode("c", 6.0, order()),
        ]
    )
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize("tokens", [300, 1200, 4000])
@pytest.mark.parametrize("count", [1, 20, 180])
def test_a_view_never_exceeds_its_budget(tokens: int, count: int):
    long = [
        order(i / 3, "word " * 400, note="n" * 500) if i % 3 else hold(i / 3, "wait " * 300)
        for i in range(count)
    ]
    (view,) = build_views([make_episode("a", 1.0, *long)], max_tokens=tokens)
    assert view.tokens <= tokens


def test_a_long_episode_keeps_its_orders_and_says_what_is_missing():
    quiet = [hold(i, "nothing to do here") for i in range(1, 55)]
    found = body(order(0.5, "first"), *quiet, order(58, "last"), tokens=500)
    assert [s["did"] for s in found["steps"] if "did" in s].count("OPEN_PERP_POSITION") == 2
    assert sum(s.get("times", 1) for s in found["steps"] if s.get("did") == "HOLD") == 54
    busy = body(*[order(i, f"order {i}", size=100 + i) for i in range(60)], tokens=700)
    shown = [s for s in busy["steps"] if "did" in s]
    assert busy["steps"][-1] == {"left_out": 60 - len(shown), "of_them_orders": 60 - len(shown)}
    assert shown[0]["min"] == 0 and shown[-1]["min"] == 59


def test_odd_values_are_tamed():
    odd = order(
        size=float("1e308"), note="x" * 1000, deep={"a": {"b": {"c": {"d": 1}}}}, many=list(range(100))
    )
    odd["timestamp"] = 1e15
    shown = body(odd)["steps"][0]
    assert "min" not in shown
    assert len(shown["with"]["note"]) == 120 and len(shown["with"]["many"]) == 8
    assert shown["with"]["deep"]["a"]["b"] == "…"
    json.dumps(shown, allow_nan=False)
    assert body(pnl=None)["profit_usd"] is None
    assert [short_number(v) for v in (float("nan"), 1 / 3, 2.0, -0.0, 1e20)] == [None, 0.333333, 2, 0, 1e20]


def test_no_steps_at_all_is_still_an_episode():
    (view,) = build_views([make_episode("a", 0.0, steps=[])])
    assert view.body["steps"] == []


def test_estimates_are_above_what_a_tokenizer_counts(monkeypatch: pytest.MonkeyPatch):
    package = find_spec("litellm")
    assert package is not None and package.origin is not None
    # litellm carries the tokenizers' files, so nothing is fetched.
    folder = Path(package.origin).parent / "litellm_core_utils" / "tokenizers"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    import tiktoken

    view = encode(body(*[order(i, f"AURUM up {i} %, so I go long") for i in range(9)]))
    for text in (view, DEFAULT.text, encode(payload("zero width", "x")), "248447512870912000 " * 9):
        for name in ("cl100k_base", "o200k_base"):
            counted = len(tiktoken.get_encoding(name).encode(text))
            assert counted <= estimate_tokens(text) <= 1.5 * counted


def test_groups_are_split_around_the_shortest():
    parts = split([50, 10, 40, 45, 30], lambda total, n: total <= 100)
    assert parts == [[1, 0, 2], [1, 3, 4]]
    assert split([1, 2, 3], lambda total, n: True) == [[0, 1, 2]]
    assert halve([0, 1, 2, 3, 4], [5, 4, 3, 2, 1]) == [[4, 0, 1], [4, 2, 3]]


def test_reunited_scores_keep_each_parts_order_and_the_range():
    parts = [[0, 1, 2], [0, 3, 4]]
    assert reunite(parts, [[0.5, 0.1, 0.9], [0.5, 0.2, 0.8]], 5) == [0.5, 0.1, 0.9, 0.2, 0.8]
    shifted = reunite(parts, [[0.9, 0.1, 1.0], [0.1, 0.05, 0.6]], 5)
    assert all(0 <= score <= 1 for score in shifted)
    assert shifted[3] < shifted[0] < shifted[4] and shifted[1] < shifted[0] < shifted[2]
    assert reunite([[0, 1]], [[0.3, 0.4]], 2) == [0.3, 0.4]
