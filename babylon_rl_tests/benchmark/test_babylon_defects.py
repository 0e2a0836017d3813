"""The defects B1 to B16 of Babylon's own benchmark, none of which this one has; a test for each."""

import asyncio
import inspect
import json
from pathlib import Path

import asyncpg
import msgspec
import pytest

from babylon_rl.benchmark import books, comparison, exam, measures, snapshot
from babylon_rl.benchmark.answers import Closing, Wanted
from babylon_rl.benchmark.babylon_format import from_babylon, to_babylon
from babylon_rl.benchmark.books import Books
from babylon_rl.benchmark.comparison import player_result
from babylon_rl.benchmark.exam import Player, play, rules
from babylon_rl.benchmark.measures import measure
from babylon_rl.benchmark.snapshot import Perpetual, Snapshot, SnapshotConfig, SnapshotError, generate, inside
from babylon_rl.policy.errors import PolicyError
from babylon_rl.policy.remote import RemotePolicy, RemotePolicyError
from babylon_rl.policy.server import PolicyServer
from babylon_rl_tests.benchmark.players import Fixed, Skilled

pytestmark = pytest.mark.anyio

SMALL = SnapshotConfig(ticks=36, predictions=3)


def flat(prices: list[float], **fields: object) -> Snapshot:
    values = {"seed": 0, "ticks": len(prices) - 1, "decisions": [0]} | fields
    return Snapshot(perpetuals=[Perpetual("BTC", prices)], **values)  # type: ignore[arg-type]


def perp(side: str, size: float = 500.0, ticker: str = "BTC") -> Wanted:
    return Wanted("perp", ticker, side, size, 10)


async def test_b1_the_model_is_asked_at_every_decision_and_its_answer_is_what_is_traded() -> None:
    market = generate(SnapshotConfig(ticks=48))
    asked = Fixed("asked", "HOLD")
    requests: list = []
    complete = asked.complete

    async def counted(batch):
        requests.extend(batch)
        return await complete(batch)

    asked.complete = counted  # type: ignore[method-assign]
    good, idle = await play(market, [Player("good", policy=Skilled("g", 1.0)), Player("idle", policy=asked)])
    assert len(requests) == len(market.decisions) == len(idle.decisions) == 16
    assert measure(good, market).total_trades == 16 and measure(idle, market).total_trades == 0
    assert measure(good, market).total_pnl != measure(idle, market).total_pnl


def test_b2_positions_of_the_same_moment_do_not_overwrite_each_other() -> None:
    book = Books(flat([100.0] * 5), 1)
    assert [book.open(0, perp("long"), 0) for _ in range(5)] == ["order"] * 5
    assert len({p.number for p in book.accounts[0].positions}) == 5 == len(book.accounts[0].open)


@pytest.mark.parametrize("side", ["long", "LONG", "open_long"])
async def test_b3_a_long_in_any_spelling_is_a_long(side: str) -> None:
    answer = json.dumps({"action": "trade", "trade": {"action": side, "market": "btc", "amount": 500}})
    [record] = await play(flat([100.0, 110.0, 110.0]), [Player("p", policy=Fixed("p", answer))], view="full")
    assert record.account.positions[0].side == "long" and record.account.positions[0].pnl > 0


async def test_b4_nothing_that_a_player_or_a_rule_sees_depends_on_the_future() -> None:
    """Two markets that are equal up to a tick get equal prompts, answers and account up to it."""
    market = generate(SMALL)
    cut = market.decisions[-1]
    changed = [
        Perpetual(p.ticker, [*p.prices[: cut + 1], *(2 * x for x in p.prices[cut + 1 :])])
        for p in market.perpetuals
    ]  # noqa: E501
    others = [
        snapshot.Prediction(
            id=m.id, question=m.question, resolves=m.resolves, outcome=not m.outcome, trades=m.trades
        )
        for m in market.predictions
        if m.resolves > cut
    ]
    kept = [m for m in market.predictions if m.resolves <= cut]
    order = [m.id for m in market.predictions]
    predictions = sorted(kept + others, key=lambda m: order.index(m.id))
    twin = msgspec.structs.replace(market, perpetuals=changed, predictions=predictions)
    seen: list[list] = [[], []]

    class Watching(Fixed):
        def __init__(self, into: list) -> None:
            super().__init__("w", '{"action": "open_long", "market": "AURUM", "amount": 10}')
            self.into = into

        async def complete(self, requests):
            self.into.extend(request.messages[-1]["content"] for request in requests)
            return await super().complete(requests)

    for one, into in ((market, seen[0]), (twin, seen[1])):
        players = [Player("w", policy=Watching(into))]
        players += [Player(name, rule=rule) for name, rule in rules(one).items()]
        records = await play(one, players, view="full")
        into.append([[d.reading for d in record.decisions] for record in records])
    assert seen[0] == seen[1]
    assert "outcome" not in str(seen[0]).lower()


@pytest.mark.parametrize("ticks", [1, 2, 3, 4, 5])
async def test_b5_fewer_than_five_ticks_end(ticks: int) -> None:
    market = generate(SnapshotConfig(ticks=ticks, predictions=2))
    assert market.ticks == ticks
    records = await play(market, [Player(name, rule=rule) for name, rule in rules(market).items()])
    assert all(len(record.decisions) == len(market.decisions) for record in records)


def test_b6_seed_0_counts_and_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    for number in (0, 1):
        snapshot.write(generate(SnapshotConfig(seed=number)), tmp_path / f"{number}.json")
        snapshot.write(generate(SnapshotConfig(seed=number)), tmp_path / f"{number}-again.json")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "0-again.json").read_bytes()
    assert (tmp_path / "0.json").read_bytes() != (tmp_path / "1.json").read_bytes()
    assert generate(SnapshotConfig(seed=0)).seed == 0


def test_b7_every_perpetual_has_a_ticker_and_a_history_of_its_own() -> None:
    market = generate(SnapshotConfig(ticks=24, perpetuals=60))
    assert (
        len({p.ticker for p in market.perpetuals}) == 60 == len({tuple(p.prices) for p in market.perpetuals})
    )
    assert max(len(p.ticker) for p in market.perpetuals) <= 12


def test_b8_prediction_prices_move_markets_resolve_and_every_tick_has_its_time() -> None:
    plain = to_babylon(generate(SnapshotConfig(ticks=288, predictions=4)))
    for number in range(4):
        markets = [tick["state"]["predictionMarkets"][number] for tick in plain["ticks"]]
        assert len({market["yesPrice"] for market in markets}) > 5
        assert not markets[0]["resolved"] and markets[-1]["resolved"]
    times = [tick["timestamp"] for tick in plain["ticks"]]
    assert len(set(times)) == 288
    assert all(event["timestamp"] == tick["timestamp"] for tick in plain["ticks"] for event in tick["events"])
    book = Books(generate(SMALL), 1)
    before = book.pool("market-0").yes_price
    book.open(0, Wanted("prediction", "market-0", "yes", 200.0), 0)
    assert book.pool("market-0").yes_price > before, "a trade moves the state"


def test_b9_money_is_debited_selling_is_recorded_and_amounts_are_positive() -> None:
    book = Books(generate(SMALL), 1)
    account = book.accounts[0]
    assert book.open(0, Wanted("prediction", "market-0", "yes", 100.0), 0) == "order"
    assert account.cash == 900.0
    assert book.leave(0, Closing("market-0", account.positions[0].shares / 2), 0) == "order"
    assert account.positions[0].received > 0 and account.cash > 900 and account.open
    assert book.leave(0, Closing("market-0"), 0) == "order" and not account.open
    assert 999.6 < account.cash < 1000, "selling at once costs the fees alone"
    for amount in (-5.0, 0.0, float("nan"), 5_000.0):
        assert book.open(0, Wanted("prediction", "market-0", "yes", amount), 0) == "refused"
        assert book.open(0, perp("long", 20 * amount, "AURUM"), 0) == "refused"


@pytest.mark.parametrize("number", [10, 11])
async def test_b10_and_b11_an_examination_writes_nothing_into_any_database(
    connection: asyncpg.Connection, number: int
) -> None:
    counted = """SELECT relname, n_tup_ins FROM pg_stat_xact_user_tables ORDER BY relname"""
    rows = 'SELECT (SELECT count(*) FROM "trajectories") + (SELECT count(*) FROM "AgentTrade") + (SELECT count(*) FROM "Post")'  # noqa: E501
    before = await connection.fetchval(rows), await connection.fetch(counted)
    post = '{"action": "post", "content": "hello"}'
    await play(generate(SMALL), [Player("p", policy=Fixed("p", post))], view="full")
    assert (await connection.fetchval(rows), await connection.fetch(counted)) == before
    for room in (exam, books, measures, comparison):
        assert "asyncpg" not in inspect.getsource(room) and "recorder" not in inspect.getsource(room)


@pytest.mark.parametrize("verb", ["get_trending_tags", "create_comment", "fly", "post", "close"])
async def test_b12_an_action_that_is_unknown_or_impossible_is_counted_and_the_tick_goes_on(verb: str) -> None:
    answer = json.dumps({"action": verb, "content": "hm", "market": "BTC"})
    market = generate(SMALL)
    [record] = await play(market, [Player("p", policy=Fixed("p", answer))], view="full")
    metrics = measure(record, market)
    assert metrics.invalid + metrics.refused + metrics.posts_created == len(market.decisions)
    assert len(record.account.equity) == market.ticks + 2


async def test_b13_actions_rewards_and_states_have_one_entry_per_decision() -> None:
    market = generate(SMALL)
    [record] = await play(market, [Player("random", rule=rules(market)["random"])])
    assert [d.tick for d in record.decisions] == market.decisions and len(record.rewards) == len(
        market.decisions
    )
    paid = {p.number: p.pnl for p in record.account.positions}
    for decision, reward in zip(record.decisions, record.rewards, strict=True):
        expected = paid[decision.position] / 1000 if decision.position is not None else 0.0
        assert reward == pytest.approx(expected)


async def test_b14_a_model_that_cannot_answer_ends_the_examination_with_its_error() -> None:
    class Broken(Fixed):
        async def complete(self, requests):
            raise PolicyError("the model is gone", "Start it again.")

    with pytest.raises(PolicyError, match="the model is gone"):
        await play(generate(SMALL), [Player("p", policy=Broken("p", ""))])


async def test_b15_a_model_is_asked_for_by_exactly_its_name_at_exactly_its_address() -> None:
    named: list[str] = []
    request = exam.ChatRequest([{"role": "user", "content": "x"}], max_tokens=4)
    with PolicyServer(Fixed("v", "HOLD")) as server:
        for name in ("my-llama-8b", "qwen", "babylon-agent-v0.0.1"):
            remote = RemotePolicy(name, server.base_url, name, server.api_key)
            named.append(remote.model)
            assert (await remote.complete([request]))[0].content == "HOLD", "served here, whatever its name"
    assert named == ["my-llama-8b", "qwen", "babylon-agent-v0.0.1"]
    with pytest.raises(RemotePolicyError, match="127.0.0.1:9/v1"):
        from babylon_rl.policy import remote as module

        module.FIRST_WAIT = 0.001
        await RemotePolicy("qwen", "http://127.0.0.1:9/v1", "qwen").complete([request])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x.json", "a/b.json", "..", ".hidden", "", "x/../../y", "~/x", "a\\..\\b/c"]
)
def test_b16_a_name_from_outside_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(SnapshotError, match="is no name of a snapshot"):
        inside(tmp_path, name)
    assert inside(tmp_path, "ok.json") == tmp_path / "ok.json"
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    with pytest.raises(SnapshotError):
        inside(tmp_path, "link.json")


def test_a_file_of_babylons_generator_is_read_with_its_defects_repaired() -> None:
    """Its reserves never move, its markets resolve after the end, two perpetuals share a ticker."""
    plain = to_babylon(generate(SnapshotConfig(ticks=40, perpetuals=2, predictions=2)))
    first = plain["initialState"]["predictionMarkets"]
    for tick in plain["ticks"]:
        tick["state"]["predictionMarkets"] = first
    first[0]["resolveAt"] += 10**9
    plain["initialState"]["perpetualMarkets"].append(dict(plain["initialState"]["perpetualMarkets"][0]))
    del plain["seed"]
    market = from_babylon(json.loads(json.dumps(plain)))
    assert [p.ticker for p in market.perpetuals] == ["AURUM", "BOREAL"] and market.predictions[
        0
    ].resolves == 40
    assert len(market.notes) == 2
    book = Books(market, 1)
    prices = []
    for tick in range(40):
        book.begin(tick)
        prices.append(book.pool("market-0").yes_price)
    assert len(set(prices)) > 1
    records = asyncio.run(play(market, [Player("hold", rule=rules(market)["hold"])]))
    assert player_result(records[0], market, "hold").metrics["total_pnl"] == 0
