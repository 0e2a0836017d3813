"""Results of examinations: kept as JSON, and compared pairwise over the snapshots that two players share.

The unit of a comparison is the mean return per hour over as many decisions as a regime of the market lasts
(six hours), paired by snapshot and tick: hours of one regime are alike. Every model after the first that is
compared with the incumbent spends its own share of the error (`statistics.alpha_for`), in the order in which
they are named: trying ten checkpoints is no free lunch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from babylon_rl.benchmark.exam import Record
from babylon_rl.benchmark.gate import decide
from babylon_rl.benchmark.measures import Metrics, measure
from babylon_rl.benchmark.snapshot import Snapshot
from babylon_rl.benchmark.statistics import Interval, alpha_for, paired_interval, studentised_interval
from babylon_rl.errors import BabylonError
from babylon_rl.simulation.market import DECISION_TICKS, MarketSpec
from babylon_rl.simulation.play import RETURN_BOUND
from babylon_rl.simulation.trader import BANKROLL

FORMAT, VERSION = "babylon_rl examination", "1"
PER_HOUR = len(DECISION_TICKS)
PER_UNIT = PER_HOUR * MarketSpec().regime_hours
"""Decisions of one unit of a comparison."""


class ResultError(BabylonError):
    """Results that cannot be read or compared."""


class PlayerResult(msgspec.Struct, frozen=True, kw_only=True):
    """One player on one snapshot."""

    player: str
    snapshot: str
    model: str
    """Version or rule."""
    metrics: dict[str, Any]
    badge: str
    returns: list[float]
    """Return on the bankroll per hour, one entry per unit, in time order."""
    equity: list[float]
    rewards: list[float]
    actions: list[dict[str, Any]]
    """One entry per decision: tick, answer, outcome, seconds, matched."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of examinations found."""

    format: str = FORMAT
    version: str = VERSION
    snapshots: list[str]
    players: list[PlayerResult]
    populations: dict[str, Any] = {}

    def names(self) -> list[str]:
        """The players in the order in which they first occur."""
        return list(dict.fromkeys(player.player for player in self.players))

    def of(self, name: str) -> list[PlayerResult]:
        """A player's results, one per snapshot."""
        return [player for player in self.players if player.player == name]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One model against the incumbent."""

    player: str
    incumbent: str
    difference: dict[str, Any]
    detectable: float
    verdict: str
    reason: str
    number: int
    pnl_delta: float
    """Mean P&L per snapshot, USD, candidate minus incumbent."""
    accuracy_delta: float
    optimality_delta: float


def player_result(record: Record, snapshot: Snapshot, model: str) -> PlayerResult:
    """A record with its metrics."""
    metrics: Metrics = measure(record, snapshot)
    return PlayerResult(
        player=record.player,
        snapshot=snapshot.id,
        model=model,
        metrics=metrics.to_dict(),
        badge=metrics.badge,
        returns=unit_returns(record.account.equity, snapshot),
        equity=record.account.equity,
        rewards=record.rewards,
        actions=[
            {
                "tick": d.tick,
                "answer": d.answer,
                "outcome": d.outcome,
                "seconds": round(d.seconds, 6),
                "matched": d.matched,
            }
            for d in record.decisions
        ],
    )


def unit_returns(equity: Sequence[float], snapshot: Snapshot) -> list[float]:
    """Return on the bankroll per hour, each hour clipped, averaged over the hours of each unit."""
    marks = [equity[tick] for tick in snapshot.decisions[::PER_HOUR]] + [equity[-1]]
    hours = np.clip(np.diff(np.array(marks)) / BANKROLL, -RETURN_BOUND, RETURN_BOUND)
    per_unit = PER_UNIT // PER_HOUR
    return [float(hours[first : first + per_unit].mean()) for first in range(0, hours.size, per_unit)]


def compare(result: Result, incumbent: str | None = None, alpha: float = 0.05) -> list[Compared]:
    """Every player against the incumbent (by default the first one), in their order.

    Raises:
        ResultError: The incumbent did not play, or shares no snapshot with a player.
    """
    names = result.names()
    base = incumbent or names[0]
    if base not in names:
        raise ResultError(f"{base} did not play", f"Players are {', '.join(names)}.")
    found = []
    for number, name in enumerate((name for name in names if name != base), start=1):
        pairs = _pairs(result.of(name), result.of(base))
        if not pairs:
            raise ResultError(f"{name} and {base} share no snapshot", "Let both play the same ones.")
        differences = np.concatenate([np.array(one.returns) - np.array(two.returns) for one, two in pairs])
        interval = paired_interval(differences, -2 * RETURN_BOUND, 2 * RETURN_BOUND, alpha_for(number, alpha))
        verdict = decide(
            interval,
            invalid_rate=_share(pairs, 0, "invalid"),
            incumbent_invalid_rate=_share(pairs, 1, "invalid"),
            incumbent=base,
        )
        found.append(
            Compared(
                player=name,
                incumbent=base,
                difference=msgspec.to_builtins(interval),
                detectable=verdict.minimum_detectable_effect,
                verdict={"promoted": "better", "rejected": "worse"}.get(verdict.decision, "undecided"),
                reason=verdict.reason.partition(": ")[2].replace("markets", "stretches of six hours"),
                number=number,
                pnl_delta=_delta(pairs, "total_pnl"),
                accuracy_delta=_delta(pairs, "accuracy"),
                optimality_delta=_delta(pairs, "optimality_score"),
            )
        )
    return found


def mean_return(result: Result, name: str) -> Interval | None:
    """A player's return per unit with a plain interval, for pictures."""
    values = [value for one in result.of(name) for value in one.returns]
    return studentised_interval(values, correct_skewness=False) if len(values) > 1 else None


def read_results(paths: Sequence[Path]) -> Result:
    """Reads one or more results as one; a player that played a snapshot twice keeps the first.

    Raises:
        ResultError: A file is no result.
    """
    found: dict[tuple[str, str], PlayerResult] = {}
    populations: dict[str, Any] = {}
    for path in paths:
        try:
            one = msgspec.json.decode(
                (path / "result.json" if path.is_dir() else path).read_bytes(), type=Result
            )
        except (OSError, msgspec.DecodeError) as problem:
            raise ResultError(
                f"{path} is no result: {str(problem).splitlines()[0]}",
                "`babylon benchmark run` writes result.json.",
            ) from None
        if (one.format, one.version) != (FORMAT, VERSION):
            raise ResultError(f"{path} has the format {one.format!r} {one.version!r}")
        populations |= one.populations
        for player in one.players:
            found.setdefault((player.player, player.snapshot), player)
    snapshots = list(dict.fromkeys(snapshot for _, snapshot in found))
    return Result(snapshots=snapshots, players=list(found.values()), populations=populations)


def totals(result: Result, name: str) -> Mapping[str, float]:
    """Means over snapshots of a player's metrics."""
    mine = result.of(name)
    return {key: float(np.mean([one.metrics[key] for one in mine])) for key in mine[0].metrics}


def _pairs(
    first: Sequence[PlayerResult], second: Sequence[PlayerResult]
) -> list[tuple[PlayerResult, PlayerResult]]:
    others = {one.snapshot: one for one in second}
    return [(one, others[one.snapshot]) for one in first if one.snapshot in others]


def _share(pairs: Sequence[tuple[PlayerResult, PlayerResult]], side: int, key: str) -> float:
    decisions = sum(pair[side].metrics["decisions"] for pair in pairs)
    return sum(pair[side].metrics[key] for pair in pairs) / decisions if decisions else 0.0


def _delta(pairs: Sequence[tuple[PlayerResult, PlayerResult]], key: str) -> float:
    return float(np.mean([one.metrics[key] - two.metrics[key] for one, two in pairs]))
