"""What training costs: the price table, an estimate before, what is known after, and the seeds' month.

Prices are USD and configuration (PRICE_TABLE); the defaults are those of the seed documents. A range has a
low and a high end. Nobody sends us W&B's bill, so a serverless run has an estimate only.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from babylon_rl.training.errors import TrainingError
from babylon_rl.training.options import BackendName


class PriceTableError(TrainingError):
    """A price table that cannot be used."""


@dataclass(frozen=True)
class Range:
    """Dollars between a low and a high end."""

    low: float
    high: float

    def __mul__(self, factor: float) -> "Range":
        return Range(self.low * factor, self.high * factor)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        return f"${self.low:,.0f}" if self.low == self.high else f"${self.low:,.0f} to ${self.high:,.0f}"


@dataclass(frozen=True)
class PriceTable:
    """Prices in USD, and the month that the comparison is made for."""

    serverless_job: Range = Range(1.0, 2.0)
    """One training job at W&B."""
    serverless_million_tokens: Range = Range(0.0, 0.0)
    """Trained tokens at W&B, on top of the job."""
    serverless_request: float = 0.001
    """One answer of a hosted model."""
    serverless_million_prompt_tokens: float = 0.0
    """Tokens that a hosted model reads, on top of the answer."""
    serverless_million_answer_tokens: float = 0.0
    """Tokens that it writes, on top of the answer."""
    gpu_hour: float = 0.0
    """An hour of the GPU here; 0 for one that is owned."""
    cpu_hour: float = 0.0
    """An hour of one CPU core here."""
    self_managed_month: float = 7000.0
    """Rented GPUs, run by oneself, for a month."""
    jobs_per_day: float = 24.0
    days_per_month: float = 30.0
    requests_per_month: Range = field(default_factory=lambda: Range(100_000, 280_000))

    def answers(self, count: int, prompt_tokens: int, answer_tokens: int) -> float:
        """What answers of a hosted model cost."""
        read = prompt_tokens / 1e6 * self.serverless_million_prompt_tokens
        written = answer_tokens / 1e6 * self.serverless_million_answer_tokens
        return count * self.serverless_request + read + written


@dataclass(frozen=True)
class Cost:
    """Dollars of one run.

    Attributes:
        estimated: From the price table before the run.
        actual: What was measured or billed; None where nobody says.
    """

    estimated: Range
    actual: float | None

    def metrics(self) -> dict[str, float]:
        """As metrics of a run."""
        found = {
            "costs/estimated_low_usd": self.estimated.low,
            "costs/estimated_high_usd": self.estimated.high,
        }
        return found if self.actual is None else {**found, "costs/actual_usd": self.actual}


@dataclass(frozen=True)
class MonthlyCosts:
    """The seeds' table, recomputed."""

    training: Range
    inference: Range
    total: Range
    self_managed: float
    saved: Range
    """Share of the self-managed price that is saved, in percent."""


def read_prices(path: Path | None) -> PriceTable:
    """The price table of a JSON file; keys that are left out keep their defaults.

    Raises:
        PriceTableError: The file is unreadable, has an unknown key, or a price that is no amount.
    """
    if path is None:
        return PriceTable()
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise PriceTableError(f"{path} cannot be read: {reason}", "Check PRICE_TABLE.") from None
    known = {item.name: item.default for item in fields(PriceTable)}
    if not isinstance(values, dict) or (unknown := sorted(set(values) - set(known))):
        what = f"the unknown key {unknown[0]}" if isinstance(values, dict) else "no keys"
        raise PriceTableError(f"{path} has {what}", f"It knows {', '.join(known)}.")
    ranges = {item.name for item in fields(PriceTable) if item.type is Range}
    return PriceTable(**{name: _price(path, name, value, name in ranges) for name, value in values.items()})


def estimate(
    prices: PriceTable, backend: BackendName, *, chunks: int, tokens: int, hours: float = 0.0
) -> Range:
    """What a unit will cost.

    Args:
        chunks: Submissions; each is a job.
        tokens: Tokens that are trained.
        hours: Expected hours on this machine.
    """
    if backend == "serverless":
        return prices.serverless_job * chunks + prices.serverless_million_tokens * (tokens / 1e6)
    price = prices.gpu_hour if backend == "local" else prices.cpu_hour
    return Range(price * hours, price * hours)


def cost_of_run(
    prices: PriceTable,
    backend: BackendName,
    *,
    chunks: int,
    tokens: int,
    seconds: float,
    metrics: dict[str, float],
) -> Cost:
    """Estimate and actual cost of a finished unit.

    Args:
        seconds: CPU seconds (embedded) or wall seconds (local) that it took here.
        metrics: Of the training; ART's own `costs/` entries win where there are any.
    """
    estimated = estimate(prices, backend, chunks=chunks, tokens=tokens, hours=seconds / 3600)
    told = [value for name, value in metrics.items() if name.startswith("costs/")]
    if told:
        return Cost(estimated, sum(told))
    return Cost(estimated, None if backend == "serverless" else estimated.low)


def monthly(prices: PriceTable) -> MonthlyCosts:
    """The seeds' comparison for a month of hourly training."""
    training = prices.serverless_job * (prices.jobs_per_day * prices.days_per_month)
    inference = prices.requests_per_month * prices.serverless_request
    total = training + inference
    saved = [100 * (1 - cost / prices.self_managed_month) for cost in (total.high, total.low)]
    return MonthlyCosts(training, inference, total, prices.self_managed_month, Range(*saved))


def render_prices(prices: PriceTable) -> str:
    """The table as JSON, to be edited and named by PRICE_TABLE."""
    return json.dumps(asdict(prices), indent=2)


def _price(path: Path, name: str, value: Any, is_range: bool) -> Any:
    if is_range:
        ends: list[Any] = (
            [value.get(end) for end in ("low", "high")] if isinstance(value, dict) else [value] * 2
        )
        if all(map(_is_amount, ends)) and ends[0] <= ends[1]:
            return Range(*map(float, ends))
    elif _is_amount(value):
        return float(value)
    raise PriceTableError(
        f"{path}: {name} is {value!r}, which is no amount",
        'Write a number that is not negative, or {"low": 1, "high": 2} for a range.',
    )


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
