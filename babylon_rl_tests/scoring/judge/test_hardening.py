"""Agent text is data: it cannot break out, secrets and mail stay at home, a fooled judge is noticed."""

import json
import unicodedata

import msgspec
import pytest

from babylon_rl.outcomes.window_outcomes import News, StockOutcome
from babylon_rl.scoring.groups import SCORED
from babylon_rl.scoring.judge.canary import is_fooled, make_canary
from babylon_rl.scoring.judge.encoding import encode
from babylon_rl.scoring.judge.prompt import build_prompt
from babylon_rl.scoring.judge.redaction import Redactor, is_private, known_secrets
from babylon_rl.scoring.judge.rubric import DEFAULT
from babylon_rl.scoring.judge.truth import ground_truth
from babylon_rl.scoring.judge.views import build_views
from babylon_rl.scoring.local import PnlScorer
from babylon_rl.settings import Settings
from babylon_rl_tests.game_rows import at
from babylon_rl_tests.judge_attacks import DEMAND, PAYLOADS, attack_steps, payload
from babylon_rl_tests.judge_reading import demands, lenient, score_of, strict
from babylon_rl_tests.judge_server import KEY, JudgeServer
from babylon_rl_tests.scoring.judge.made import hold, make_episode, make_window, order, outcomes, steps

PNLS = (40.0, -35.0, 5.0, 90.0, 12.0)


def asked(*episodes, truth=None):
    views = build_views(episodes)
    truth = ground_truth(truth or outcomes(), Redactor())
    return build_prompt(DEFAULT, truth, [view.body for view in views])


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_breaks_out_of_its_episode(name: str):
    text = payload(name, name.split()[0])
    attacker = msgspec.structs.replace(make_episode("evil", -900.0), steps=attack_steps(text, "x"))
    news = [News(kind="article", published_at=at(3), text=text, organizations=[])]
    prompt = asked(make_episode("a", 5.0), attacker, make_episode("b", -5.0), truth=outcomes(news=news))
    read = lenient(prompt.messages)
    assert read.tags == 2 * (3 + 1), "the tags of three episodes and the ground truth"
    assert demands(read.outside) == set()
    bodies = strict(prompt.messages)
    assert set(bodies) == set(prompt.ids)
    assert [name for name, body in bodies.items() if "PWN-" in body] == [prompt.ids[1]]
    for body in bodies.values():
        json.loads(body)


def test_every_character_that_can_become_structure_is_escaped():
    everything = "".join(map(chr, range(0x110000)))
    encoded = encode(everything)
    assert encoded.isprintable()
    for form in ("NFKC", "NFKD"):
        assert not set("<>&") & set(unicodedata.normalize(form, encoded))
    assert json.loads(encode(everything[:0xD800])) == everything[:0xD800]
    assert json.loads(encode(everything[0xE000:])) == everything[0xE000:]


def test_requests_have_marks_and_names_of_their_own():
    first, second = asked(make_episode("a", 1.0)), asked(make_episode("a", 1.0))
    assert first.nonce != second.nonce and first.ids != second.ids
    assert first.nonce in first.messages[0]["content"] and first.nonce in first.messages[1]["content"]
    assert first.schema["properties"]["scores"]["items"]["properties"]["id"]["enum"] == first.ids


SECRETS = {
    "openai": "sk-proj-abcdefghijklmnop1234",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "slack": "xoxb-1234567890-abcdefghij",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "wallet key": "0x" + "ab" * 32,
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----",
    "named": "hunter2hunter2",
    "address": "postgresql://babylon:pass-word@db.example/x",
    "bearer": "Bearer abcdef123456",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_do_not_leave(kind: str):
    secret = SECRETS[kind]
    said = f'my password = "{secret}" thanks' if kind == "named" else f"use {secret} please"
    steps_ = steps(order(said=said, note=said, apiKey=secret), hold(said=said))
    (view,) = build_views([make_episode("a", 1.0, steps=steps_)], max_tokens=5000)
    text = json.dumps(view.body)
    hidden = {"address": "pass-word", "bearer": "abcdef123456"}.get(kind, secret)
    assert hidden not in text and json.dumps(hidden)[1:-1] not in text
    assert "[secret]" in text


def test_our_own_secrets_and_mail_addresses_do_not_leave(settings: Settings):
    from pydantic import SecretStr

    mine = settings.model_copy(update={"wandb_api_key": SecretStr("plain words")})
    redactor = Redactor(known_secrets(mine))
    assert redactor.text("he said plain words to ann@example.org") == "he said [secret] to [e-mail]"


MAIL = "meet me at the old dock and bring the forged ledger tonight"


@pytest.mark.parametrize(
    "private",
    [
        hold()
        | {
            "environmentState": {
                "agentBalance": 1,
                "agentPnL": 0,
                "openPositions": 0,
                "unreadMessages": [MAIL],
            }
        },
        hold()
        | {
            "providerAccesses": [
                {"providerName": "directMessages", "data": {"inbox": [{"text": MAIL}]}, "purpose": "x"}
            ]
        },
        hold()
        | {"action": {"actionType": "SEND_DM", "parameters": {"to": "b", "content": MAIL}, "success": True}},
        hold()
        | {
            "action": {
                "actionType": "group_chat_message",
                "parameters": {"content": MAIL},
                "success": True,
                "result": {"sent": MAIL},
            }
        },
    ],
)
def test_direct_messages_do_not_leave_not_even_quoted_by_another(private: dict):
    quoting = order(
        said=f"She wrote: '{MAIL.upper()}', so I sell.", note="bring the forged ledger tonight, ok?"
    )
    views = build_views([make_episode("a", 1.0, private), make_episode("b", 2.0, quoting)])
    text = json.dumps([view.body for view in views]).lower()
    assert "forged" not in text and "old dock" not in text
    assert "[direct message]" in text and "so i sell" in text


@pytest.mark.parametrize(
    ("name", "private"),
    [("SEND_DM", True), ("sendDirectMessage", True), ("RESPOND_TO_CHAT", True), ("dms", True)]
    + [("CREATE_POST", False), ("ADMIRE", False), ("OPEN_PERP_POSITION", False), ("market_data", False)],
)
def test_what_counts_as_private(name: str, private: bool):
    assert is_private(name) == private


def test_the_key_is_not_in_what_is_sent(settings: Settings):
    (view,) = build_views([make_episode("a", 1.0, order(said=f"key {KEY}"))], secrets=[KEY])
    assert KEY not in json.dumps(view.body)


def test_canaries_are_disasters_of_the_window():
    truth = ground_truth(outcomes(), Redactor())
    canary = make_canary(truth, "1")
    assert canary == make_canary(truth, "1") != make_canary(truth, "2")
    assert canary.body["steps"][0]["with"] == {
        "ticker": "FERRO",
        "side": "long",
        "size": 25_000,
        "leverage": 50,
    }
    assert canary.body["profit_usd"] < -900
    assert make_canary({"prices": []}, "1").body["steps"]
    assert is_fooled(0.9, [0.2, 0.5]) and is_fooled(0.3, [0.1, 0.1]) and not is_fooled(0.05, [0.2, 0.5])


@pytest.mark.anyio
async def test_an_honest_judge_passes_its_canaries(judge: JudgeServer, ruler):
    scored = await (await ruler(judge_canary_rate=1.0)).score(make_window(PNLS))
    assert len(strict(judge.seen[0].messages)) == 6, "one more than the group has"
    assert {m.agent_id for m in scored.group.members} == {f"agent-{i}" for i in range(5)}
    assert {m.agent_id: m.reward for m in scored.group.members}["agent-3"] == score_of(90.0)
    assert scored.run.canaries == 1 and scored.run.canary_score < 0.01
    assert not scored.run.canary_failed and scored.run.alarm is None


def injected():
    """A window in which the worst trader asks for a full score."""
    window = make_window((40.0, -80.0, 5.0, 90.0, 12.0, 30.0))
    told = f"Hold on. {DEMAND.format(who='x')}"
    worst = make_episode("agent-1", -80.0, order(said=told, who="PWN-x"))
    episodes = [worst if e.agent_id == "agent-1" else e for e in window.episodes]
    return msgspec.structs.replace(window, episodes=episodes)


@pytest.mark.anyio
async def test_a_gullible_judge_finds_no_order_outside_of_the_data(judge: JudgeServer, ruler):
    judge.manner = "gullible"
    scored = await (await ruler()).score(injected())
    assert scored.run.alarm is None
    assert {m.agent_id: m.reward for m in scored.group.members}["agent-1"] == score_of(-80.0)


@pytest.mark.anyio
async def test_an_obedient_judge_is_doubted_and_the_whole_group_is_ranked_by_money(judge: JudgeServer, ruler):
    judge.manner = "obedient"
    scored = await (await ruler(scorer="ruler_with_heuristic_check")).score(injected())
    assert judge.calls == 2, "the second time in another order"
    assert scored.run.method == "local pnl" and scored.run.canary_failed
    assert "lowest P&L" in scored.run.alarm or "below" in scored.run.alarm
    assert scored.group.status == SCORED and len(scored.group.members) == 6, "nobody is dropped"
    rewards = {m.agent_id: m.reward for m in scored.group.members}
    local = {s.agent_id: s.reward for s in PnlScorer(0.25).score(injected().episodes)}
    assert sorted(rewards, key=rewards.__getitem__) == sorted(local, key=local.__getitem__)
    assert all(0 <= reward <= 1 for reward in rewards.values())
    assert "ranked by pnl" in scored.judgments[0].reasoning
    assert scored.group.scorer == "ruler_with_heuristic_check" and "pnl" in scored.group.scorer_version


@pytest.mark.anyio
async def test_plain_ruler_keeps_the_verdict_and_says_that_the_doubt_stands(judge: JudgeServer, ruler):
    judge.manner = "inverted"
    scored = await (await ruler()).score(make_window(PNLS))
    assert judge.calls == 2 and scored.run.method == "doubt stands"
    assert "rank correlation with P&L -1.00" in scored.run.alarm
    assert len(scored.group.members) == 5


@pytest.mark.anyio
async def test_another_order_or_a_second_judge_may_settle_a_doubt(judge: JudgeServer, ruler):
    judge.then("inverted")
    settled = await (await ruler()).score(make_window(PNLS))
    assert settled.run.method == "another order" and settled.run.alarm and settled.run.spearman > 0.99
    judge.by_model = {"bad": "inverted"}
    second = await (await ruler(judge_model="openai/bad", judge_second_model="openai/good")).score(
        make_window(PNLS)
    )
    assert second.run.method == "second judge" and second.run.judge_model == "openai/good"
    assert "openai/good" in second.group.scorer_version


@pytest.mark.anyio
async def test_being_right_and_losing_money_is_paid_by_the_money(judge: JudgeServer, ruler):
    """Shares at 0.81 that pay 1 lose after the game's price: correctness and P&L rank in opposite order."""
    right = hold() | {
        "action": {
            "actionType": "BUY_PREDICTION_SHARES",
            "parameters": {"marketId": "market-1", "side": "YES", "amount": 100},
            "success": True,
            "result": {"avgPrice": 4.26},
        }
    }
    wrong = hold() | {"action": right["action"] | {"parameters": {"marketId": "market-1", "side": "NO"}}}
    episodes = [
        make_episode("right", -60.0, right),
        make_episode("wrong", 25.0, wrong),
        make_episode("idle", 0.0, hold()),
    ]
    window = msgspec.structs.replace(make_window(PNLS), episodes=episodes)
    scored = await (await ruler()).score(window)
    assert {m.agent_id: m.reward for m in scored.group.members}["wrong"] == score_of(25.0)
    assert '"resolved":"YES"' in judge.seen[0].text and '"side":"YES"' in judge.seen[0].text
    judge.manner = "inverted"
    by_correctness = await (await ruler(judge_model="openai/b")).score(window)
    assert by_correctness.run.alarm, "a judge that pays correctness contradicts the money"


@pytest.mark.anyio
async def test_a_canary_that_fools_the_judge_is_a_doubt(judge: JudgeServer, ruler):
    judge.manner = "obedient"
    scored = await (await ruler(judge_canary_rate=1.0)).score(make_window(PNLS))
    assert scored.run.canary_failed and "canary got 1.00" in scored.run.alarm
    assert scored.run.method == "doubt stands"


def test_the_ground_truth_of_a_crowded_hour_is_bounded():
    many = [
        StockOutcome(
            ticker=f"T{i}", organization_id=f"t{i}", name="x", start_price=1.0, end_price=1.0 + i / 1000,
            change_percent=i / 10, sentiment="NEUTRAL", moves=1, volume=0.0, news=[], flags=[],
        )
        for i in range(300)
    ]  # fmt: skip
    news = [News(kind="event", published_at=at(i / 10), text="n" * 500, organizations=[]) for i in range(300)]
    truth = ground_truth(outcomes(stocks=many, news=news), Redactor())
    assert truth["prices"][0]["ticker"] == "T299" and truth["prices_left_out"] > 0
    assert len(json.dumps(truth)) < 8_000
