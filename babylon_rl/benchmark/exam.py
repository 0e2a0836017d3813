"""An examination: models and rules play a snapshot, each asked at every decision, and are measured.

The model decides everything it does: each decision is one prompt and one answer, counted and timed; nothing
stands in for an answer that did not come. A policy that cannot answer ends the examination with its error.
Nothing is written into any database: an examination is no training data.
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from babylon_rl.benchmark.answers import Closing, Reading, Said, Wanted, read_answer
from babylon_rl.benchmark.books import HOLD_TICKS, Account, Books
from babylon_rl.benchmark.snapshot import Snapshot
from babylon_rl.outcomes.perpetuals import value_perpetual
from babylon_rl.outcomes.pricing import PERPETUAL
from babylon_rl.policy.chat import ChatRequest, Message, Policy
from babylon_rl.simulation.market import HEADLINES, TICKS_PER_HOUR
from babylon_rl.simulation.play import ANSWER_TOKENS
from babylon_rl.simulation.trader import (
    BANKROLL,
    LEVERAGE,
    MAX_SIZE,
    UNIT_NOTIONAL,
    Hold,
    Invalid,
    build_messages,
)

FULL_TOKENS = 200
RULE_SIZE = MAX_SIZE * UNIT_NOTIONAL
_GRAMMAR = (
    "You trade perpetuals and prediction markets. Answer with one JSON object: "
    '{"action": "hold"} or {"action": "trade", "trade": {"action": "open_long" | "open_short" | "buy_yes" | '
    '"buy_no" | "close" | "sell", "market": ticker or market id, "amount": USD, "leverage": 1 to 20}} or '
    '{"action": "post", "content": text}.'
)

RULES = ("hold", "random", "momentum", "buy and hold", "headlines")

Rule = Callable[[Snapshot, int, random.Random], Reading]
"""A trader without a model: snapshot, tick and a random stream to what it wants; it looks at the past."""


@dataclass
class Decision:
    """One decision of one player."""

    tick: int
    answer: str
    reading: Reading
    outcome: str
    """`order`, `hold`, `post`, `invalid`, `refused` or `unpriced`."""
    seconds: float
    """Share of the time that the policy took for the answers of this tick."""
    matched: bool
    """Whether it was what hindsight would have done: market and direction."""
    position: int | None = None
    """Number of the position that it opened."""


@dataclass
class Record:
    """What a player did in a snapshot; `decisions` has one entry per decision tick, in order."""

    player: str
    snapshot: str
    account: Account
    decisions: list[Decision] = field(default_factory=list)

    @property
    def rewards(self) -> list[float]:
        """Reward of each decision: return of what it opened on the bankroll, 0 for anything else."""
        pnl = {position.number: position.pnl for position in self.account.positions}
        return [pnl[d.position] / BANKROLL if d.position is not None else 0.0 for d in self.decisions]


@dataclass(frozen=True)
class Player:
    """A contestant: exactly one of `policy` and `rule`."""

    name: str
    policy: Policy | None = None
    rule: Rule | None = None


async def play(
    snapshot: Snapshot,
    players: Sequence[Player],
    *,
    together: bool = False,
    view: str = "auto",
    impact: float = 1.0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Record]:
    """Lets players play a snapshot.

    Args:
        together: Whether they share one market; by default each has a copy of it for itself.
        view: `compact` (headlines; the simulator's prompt), `full` (all markets, answers in JSON), or `auto`:
            compact where the snapshot has headlines and no prediction markets.
        impact: Factor on the game's price impact, between players that share a market.
        on_progress: Called with the ticks done since the last call.

    Raises:
        PolicyError: A policy cannot answer.
    """
    if view == "auto":
        view = "compact" if snapshot.headlines and not snapshot.predictions else "full"
    books = [Books(snapshot, len(players), impact)] if together else [Books(snapshot, 1) for _ in players]
    places = [(books[0], i) if together else (books[i], 0) for i in range(len(players))]
    records = [
        Record(player.name, snapshot.id, book.accounts[seat])
        for player, (book, seat) in zip(players, places, strict=True)
    ]
    news = {tick: [] for tick in snapshot.decisions}
    for headline in snapshot.headlines:
        news.setdefault(headline.tick, []).append((headline.ticker, headline.word))
    deciding = set(snapshot.decisions)
    for tick in range(snapshot.ticks):
        for book in books:
            book.begin(tick)
        if tick in deciding:
            prompts = [_prompt(snapshot, book, seat, tick, news[tick], view) for book, seat in places]
            answers = await _answers(snapshot, players, prompts, tick, view, together)
            best = _best(snapshot, tick)
            queue = random.Random(f"{snapshot.id}/{tick}").sample(range(len(players)), len(players))
            for number in queue:
                book, seat = places[number]
                text, reading, seconds = answers[number]
                outcome, opened = _act(book, seat, reading, tick)
                matched = _matches(snapshot, reading, best)
                records[number].decisions.append(
                    Decision(tick, text, reading, outcome, seconds, matched, opened)
                )
        for book in books:
            book.end(tick)
        if on_progress is not None:
            on_progress(1)
    for book in books:
        book.finish()
    return records


def rules(snapshot: Snapshot) -> dict[str, Rule]:
    """The rules that every examination is compared with; `headlines` only where there are headlines."""
    found: dict[str, Rule] = {"hold": lambda *_: Hold(), "random": _random, "momentum": _momentum}
    found["buy and hold"] = _buy_and_hold
    return found | ({"headlines": _headlines} if snapshot.headlines else {})


async def _answers(
    snapshot: Snapshot,
    players: Sequence[Player],
    prompts: Sequence[list[Message]],
    tick: int,
    view: str,
    together: bool,
) -> list[tuple[str, Reading, float]]:
    found: list[tuple[str, Reading, float]] = [("", Hold(), 0.0)] * len(players)
    asked: dict[int, list[int]] = {}
    for number, player in enumerate(players):
        if player.rule is not None:
            rng = random.Random(f"{snapshot.id}/{tick}/{number if together else 0}")
            found[number] = ("", player.rule(snapshot, tick, rng), 0.0)
        else:
            asked.setdefault(id(player.policy), []).append(number)
    for numbers in asked.values():
        policy = players[numbers[0]].policy
        assert policy is not None
        tokens = ANSWER_TOKENS if view == "compact" else FULL_TOKENS
        # Players who differ in nothing but their weights draw the same random numbers.
        requests = [
            ChatRequest(prompts[i], max_tokens=tokens, seed=_seed(snapshot.id, tick, i if together else 0))
            for i in numbers
        ]
        started = time.perf_counter()
        answers = await policy.complete(requests)
        seconds = (time.perf_counter() - started) / len(numbers)
        for number, answer in zip(numbers, answers, strict=True):
            found[number] = (answer.content, read_answer(answer.content), seconds)
    return found


def _act(book: Books, seat: int, reading: Reading, tick: int) -> tuple[str, int | None]:
    if isinstance(reading, Invalid):
        return "invalid", None
    if isinstance(reading, Wanted):
        outcome = book.open(seat, reading, tick)
        return outcome, book.accounts[seat].positions[-1].number if outcome == "order" else None
    if isinstance(reading, Closing):
        return book.leave(seat, reading, tick), None
    return ("post" if isinstance(reading, Said) else "hold"), None


def _prompt(
    snapshot: Snapshot, book: Books, seat: int, tick: int, news: Sequence[tuple[str, str]], view: str
) -> list[Message]:
    account = book.accounts[seat]
    bound = sum(position.paid for position in account.open)
    if view == "compact":
        return build_messages(news, account.cash + bound, len(account.open))
    lines = [f"cash {account.cash:.2f} USD, {len(account.open)} open positions", "Perpetuals:"]
    for perpetual in snapshot.perpetuals:
        now, then = perpetual.prices[tick], perpetual.prices[max(0, tick - TICKS_PER_HOUR)]
        lines.append(f"{perpetual.ticker} {now:.6g} ({(now / then - 1) * 100:+.2f}% in an hour)")
    lines.append("Prediction markets:")
    for market in snapshot.predictions:
        if not book.resolved(market, tick):
            lines.append(f"{market.id}: {market.question} YES {book.pool(market.id).yes_price:.2f}")
    lines += [f"News: {ticker} {word}" for ticker, word in news]
    lines += [f"{post.author}: {post.content}" for post in snapshot.posts if tick - 3 < post.tick <= tick][
        -10:
    ]
    lines += [f"You hold {p.side} {p.instrument} since tick {p.opened}" for p in account.open][:20]
    return [{"role": "system", "content": _GRAMMAR}, {"role": "user", "content": "\n".join(lines)}]


def _best(snapshot: Snapshot, tick: int) -> tuple[str, str] | None:
    """Company and side that would have earned most in the hour after a tick; None where nothing would."""
    best, value = None, 0.0
    for perpetual in snapshot.perpetuals:
        path = perpetual.prices[tick + 1 : tick + 1 + HOLD_TICKS]
        for side in ("long", "short"):
            worth = value_perpetual(side, RULE_SIZE, LEVERAGE, perpetual.prices[tick], path).value
            if worth > value:
                best, value = (perpetual.ticker, side), worth
    return best


def _matches(snapshot: Snapshot, reading: Reading, best: tuple[str, str] | None) -> bool:
    if not isinstance(reading, Wanted):
        return isinstance(reading, Hold) and best is None
    if reading.kind == PERPETUAL:
        return (reading.instrument.lstrip("$").upper(), reading.side) == best
    outcomes: Mapping[str, bool] = {market.id: market.outcome for market in snapshot.predictions}
    return outcomes.get(reading.instrument) == (reading.side == "yes")


def _random(snapshot: Snapshot, tick: int, rng: random.Random) -> Reading:
    if not snapshot.perpetuals:
        return Hold()
    size = rng.randint(1, MAX_SIZE) * UNIT_NOTIONAL
    ticker = rng.choice(snapshot.perpetuals).ticker
    return Wanted(PERPETUAL, ticker, rng.choice(("long", "short")), size, LEVERAGE)


def _momentum(snapshot: Snapshot, tick: int, rng: random.Random) -> Reading:
    """The company that moved most in the last hour, in the direction in which it moved."""
    moves = [
        (p.prices[tick] / p.prices[max(0, tick - TICKS_PER_HOUR)] - 1, p.ticker) for p in snapshot.perpetuals
    ]
    move, ticker = max(moves, key=lambda pair: abs(pair[0]), default=(0.0, ""))
    if move == 0:
        return Hold()
    return Wanted(PERPETUAL, ticker, "long" if move > 0 else "short", RULE_SIZE, LEVERAGE)


def _buy_and_hold(snapshot: Snapshot, tick: int, rng: random.Random) -> Reading:
    """Long in one company after the other; a position lasts an hour, so that it is always in the market."""
    if not snapshot.perpetuals:
        return Hold()
    number = snapshot.decisions.index(tick) % len(snapshot.perpetuals)
    return Wanted(PERPETUAL, snapshot.perpetuals[number].ticker, "long", UNIT_NOTIONAL, LEVERAGE)


def _headlines(snapshot: Snapshot, tick: int, rng: random.Random) -> Reading:
    """The strongest headline, with its sign."""
    found = [(HEADLINES.index(h.word) - 2, h.ticker) for h in snapshot.headlines if h.tick == tick]
    rng.shuffle(found)
    strength, ticker = max(found, key=lambda pair: abs(pair[0]), default=(0, ""))
    if strength == 0:
        return Hold()
    return Wanted(PERPETUAL, ticker, "long" if strength > 0 else "short", RULE_SIZE, LEVERAGE)


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")
