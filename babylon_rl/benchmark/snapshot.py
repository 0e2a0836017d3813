"""Snapshots: a market written down once, so that any model can be examined on it again.

A snapshot is a pure function of its configuration, seed 0 included: id and time follow from the content,
never from the clock. Twelve ticks are an hour of the market (`simulation.market`); agents decide at four of
them. Prediction markets have reserves that move with every trade and are resolved inside the snapshot. The
file is JSON (`.json`, or `.json.zst`); `babylon_format` reads and writes the game's own version 1.0.0.
"""

import hashlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from babylon_rl.errors import BabylonError
from babylon_rl.simulation.market import (
    DECISION_TICKS,
    HEADLINES,
    REGIMES,
    TICKS_PER_HOUR,
    VAULT_REGIMES,
    MarketSpec,
    generate_market,
)

FORMAT, VERSION = "babylon_rl snapshot", "1"
START = datetime(2026, 1, 1, tzinfo=UTC)
RESERVE = 500.0
"""Shares of each side that a prediction market starts with, as the game's routes make them."""
_NAMES = (
    *("aurum", "boreal", "cobalt", "dynamo", "ember", "fjord", "granit", "helios", "indigo", "jasper"),
    *("krypton", "lumen", "mistral", "nimbus", "onyx", "pylon", "quartz", "radon", "sierra", "titan"),
)
_MAX_TICKS = 100_000


class SnapshotError(BabylonError):
    """A snapshot that cannot be made, read or played."""


class Perpetual(msgspec.Struct, frozen=True):
    """One company's perpetual; `prices` has one more entry than the snapshot has ticks."""

    ticker: str
    prices: list[float]


class Trade(msgspec.Struct, frozen=True):
    """What somebody else bought of a prediction market."""

    tick: int
    yes: bool
    amount: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction market; nobody who plays sees `outcome` before tick `resolves`."""

    id: str
    question: str
    yes_shares: float = RESERVE
    no_shares: float = RESERVE
    resolves: int
    outcome: bool
    trades: list[Trade] = []


class Headline(msgspec.Struct, frozen=True):
    """A word about a company, published at a tick."""

    tick: int
    ticker: str
    word: str


class Post(msgspec.Struct, frozen=True):
    """What somebody posted at a tick."""

    tick: int
    author: str
    content: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A market from its first to its last tick."""

    format: str = FORMAT
    version: str = VERSION
    id: str = ""
    seed: int
    created_at: datetime = START
    tick_seconds: int = 300
    ticks: int
    decisions: list[int]
    """Ticks at which agents decide."""
    perpetuals: list[Perpetual]
    predictions: list[Prediction] = []
    headlines: list[Headline] = []
    posts: list[Post] = []
    agents: int = 8
    notes: list[str] = []
    """What had to be repaired when it was read."""

    def moment(self, tick: int) -> datetime:
        """The time of a tick; no two ticks share one."""
        return self.created_at + timedelta(seconds=tick * self.tick_seconds)

    def prices(self, ticker: str) -> list[float]:
        """A company's prices, one per tick and the last.

        Raises:
            SnapshotError: It is not in this market.
        """
        for perpetual in self.perpetuals:
            if perpetual.ticker == ticker:
                return perpetual.prices
        raise SnapshotError(f"there is no perpetual {ticker!r} in snapshot {self.id}")


class SnapshotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is made from."""

    seed: int = 0
    ticks: int = 24 * TICKS_PER_HOUR
    tick_seconds: int = 300
    perpetuals: int = 4
    predictions: int = 0
    agents: int = 8
    vault: bool = False
    """Also the regimes that nothing was tuned on."""


def generate(config: SnapshotConfig) -> Snapshot:
    """Makes the snapshot of a configuration; equal ones give equal bytes.

    Raises:
        SnapshotError: A number is out of range.
    """
    limits = {"seed": (0, 2**63), "ticks": (1, _MAX_TICKS), "tick_seconds": (1, 86_400)}
    limits |= {"perpetuals": (1, 200), "predictions": (0, 200), "agents": (1, 1_000)}
    for name, (low, high) in limits.items():
        if not low <= getattr(config, name) <= high:
            raise SnapshotError(f"{name} is {getattr(config, name)}", f"It must be {low} to {high}.")
    companies = tuple(_NAMES[i] if i < len(_NAMES) else f"company{i}" for i in range(config.perpetuals))
    spec = MarketSpec(companies=companies, regimes=VAULT_REGIMES if config.vault else REGIMES)
    hours = -(-config.ticks // TICKS_PER_HOUR)
    path = generate_market(spec, config.seed, hours)
    all_decisions = (hour * TICKS_PER_HOUR + tick for hour in range(hours) for tick in DECISION_TICKS)
    decisions = [tick for tick in all_decisions if tick < config.ticks] or [0]
    words = path.headlines.reshape(-1, len(companies))
    headlines = [
        Headline(tick, ticker, HEADLINES[words[number, i]])
        for number, tick in enumerate(decisions)
        for i, ticker in enumerate(spec.tickers)
    ]
    rng = random.Random(f"predictions/{config.seed}")
    snapshot = Snapshot(
        seed=config.seed,
        tick_seconds=config.tick_seconds,
        ticks=config.ticks,
        decisions=decisions,
        perpetuals=[
            Perpetual(ticker, [float(p) for p in path.prices[: config.ticks + 1, i]])
            for i, ticker in enumerate(spec.tickers)
        ],
        predictions=[_prediction(rng, number, config.ticks) for number in range(config.predictions)],
        headlines=headlines,
        agents=config.agents,
    )
    return named(snapshot)


def named(snapshot: Snapshot) -> Snapshot:
    """The same with the id that follows from its content."""
    plain = msgspec.structs.replace(snapshot, id="")
    digest = hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()
    return msgspec.structs.replace(snapshot, id=f"snapshot-{digest[:16]}")


def write(snapshot: Snapshot, path: Path) -> None:
    """Writes it as JSON, compressed where the name ends in `.zst`."""
    data = msgspec.json.encode(snapshot, order="deterministic")
    if path.suffix == ".zst":
        import zstandard

        data = zstandard.compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read(path: Path) -> Snapshot:
    """Reads a snapshot of either format and checks it.

    Raises:
        SnapshotError: It cannot be read, or is not whole.
    """
    from babylon_rl.benchmark.babylon_format import from_babylon, is_babylon

    try:
        data = path.read_bytes()
        if path.suffix == ".zst":
            import zstandard

            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        plain = msgspec.json.decode(data)
        if is_babylon(plain):
            return from_babylon(plain)
        snapshot = msgspec.convert(plain, Snapshot)
    except OSError as problem:
        raise SnapshotError(f"{path} cannot be read: {problem.strerror}") from None
    except Exception as problem:
        if isinstance(problem, SnapshotError):
            raise
        raise SnapshotError(
            f"{path} is no snapshot: {str(problem).splitlines()[0]}",
            "Make one with `babylon benchmark generate`, or give a file of Babylon's version 1.0.0.",
        ) from None
    return check(snapshot)


def check(snapshot: Snapshot) -> Snapshot:
    """Returns the snapshot if it can be played.

    Raises:
        SnapshotError: What is missing or contradicts itself.
    """
    tickers = [perpetual.ticker for perpetual in snapshot.perpetuals]
    problem = ""
    if (snapshot.format, snapshot.version) != (FORMAT, VERSION):
        problem = f"format {snapshot.format!r} version {snapshot.version!r} is unknown"
    elif not 1 <= snapshot.ticks <= _MAX_TICKS:
        problem = f"it has {snapshot.ticks} ticks"
    elif len(set(tickers)) < len(tickers):
        problem = "two perpetuals share a ticker"
    elif len({market.id for market in snapshot.predictions}) < len(snapshot.predictions):
        problem = "two prediction markets share an id"
    elif not tickers and not snapshot.predictions:
        problem = "it has no market"
    elif any(not 0 <= tick < snapshot.ticks for tick in snapshot.decisions) or not snapshot.decisions:
        problem = "its decisions lie outside its ticks"
    for perpetual in snapshot.perpetuals:
        if len(perpetual.prices) != snapshot.ticks + 1 or not all(p > 0 for p in perpetual.prices):
            problem = problem or f"{perpetual.ticker} has not {snapshot.ticks + 1} positive prices"
    if problem:
        raise SnapshotError(f"snapshot {snapshot.id or '(no id)'} cannot be played: {problem}")
    return snapshot


def inside(folder: Path, name: str) -> Path:
    """The path of a snapshot that is asked for by name from outside, for example over HTTP.

    Raises:
        SnapshotError: The name leads out of the folder.
    """
    path = (folder / name).resolve()
    if name != Path(name).name or name.startswith(".") or path.parent != folder.resolve():
        raise SnapshotError(
            f"{name!r} is no name of a snapshot", "Give the bare name of a file in the folder."
        )
    return path


def _prediction(rng: random.Random, number: int, ticks: int) -> Prediction:
    """Others trade on both sides, a little more often on the right one, until it is resolved."""
    outcome, resolves = rng.random() < rng.uniform(0.2, 0.8), rng.randint(max(1, ticks // 2), ticks)
    trades = [
        Trade(tick, outcome if rng.random() < 0.6 else not outcome, round(rng.uniform(10, 100), 2))
        for tick in range(resolves)
        if rng.random() < 0.1
    ]
    company = _NAMES[number % len(_NAMES)].capitalize()
    question = f"Will {company} announce project {number + 1} before tick {resolves}?"
    return Prediction(
        id=f"market-{number}", question=question, resolves=resolves, outcome=outcome, trades=trades
    )
