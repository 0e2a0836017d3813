"""One candidate among incumbents, and all candidates, in the market of a snapshot (`crowd` does it for the
gate's hours). Players of a population share reserves and prices; seats, random streams and market are the
same in all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from babylon_rl.benchmark.comparison import unit_returns
from babylon_rl.benchmark.exam import Player, Record, play
from babylon_rl.benchmark.snapshot import Snapshot
from babylon_rl.benchmark.statistics import Interval, paired_interval
from babylon_rl.simulation.play import RETURN_BOUND

SEATS = 4


async def populations(
    snapshots: Sequence[Snapshot],
    candidate: Player,
    incumbent: Player,
    *,
    seats: int = SEATS,
    view: str = "auto",
    impact: float = 1.0,
) -> dict[str, Any]:
    """The three differences of `crowd.Crowd`, per unit of a comparison, over all snapshots."""
    one, beside, together = [], [], []
    for snapshot in snapshots:

        async def returns(players: Sequence[Player], market: Snapshot = snapshot) -> np.ndarray:
            records = await play(market, players, together=True, view=view, impact=impact)
            return np.array([unit_returns(_equity(record), market) for record in records])

        incumbents = await returns([incumbent] * seats)
        mixed = await returns([candidate] + [incumbent] * (seats - 1))
        candidates = await returns([candidate] * seats)
        one.append(mixed[0] - incumbents[0])
        if seats > 1:
            beside.append(mixed[1:].mean(axis=0) - incumbents[1:].mean(axis=0))
        together.append(candidates.mean(axis=0) - incumbents.mean(axis=0))
    return {
        "seats": seats,
        "among_incumbents": _plain(one),
        "on_others": _plain(beside or [np.zeros(1)]),
        "all_candidates": _plain(together),
    }


def _equity(record: Record) -> list[float]:
    return record.account.equity


def _plain(parts: Sequence[np.ndarray]) -> dict[str, float]:
    found: Interval = paired_interval(np.concatenate(parts), -2 * RETURN_BOUND, 2 * RETURN_BOUND)
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
