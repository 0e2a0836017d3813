"""Pictures of learning: the curve over checkpoints, reward against P&L, importance ratios of a training.

Each is SVG text, or None where nothing is there to be drawn; `charts.as_markdown` shows it in the UI.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from babylon_rl.benchmark.pictures import Point, curves, scatter
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.verdicts import BenchmarkRecord
from babylon_rl.deployment.versions import parse_version

_RATIOS = re.compile(r"ratio(?!_max)|second_moment|probs_corr|kl_")
"""Step metrics that say how far the data are from the policy that learns from them."""

_SHARES = re.compile(r"(?:clip|vetoed|masked|truncated|effective|logprobs)\w*_share")
"""Step metrics that say what became of the tokens for it."""

_REWARD_AND_PNL = """
WITH newest AS (
    SELECT DISTINCT ON (window_id, agent_id) window_id, agent_id, reward
      FROM rl.scores WHERE $1::text IS NULL OR left(window_id, 10) = $1
     ORDER BY window_id, agent_id, scored_at DESC)
SELECT reward, pnl FROM newest JOIN (
    SELECT window_id, agent_id, sum(value)::float8 AS pnl FROM rl.order_value
     WHERE horizon = $2 AND matured AND value IS NOT NULL GROUP BY window_id, agent_id) AS paid
  USING (window_id, agent_id)
 ORDER BY window_id DESC, agent_id LIMIT $3
"""
_DOTS = 2000


def learning_curve(records: Iterable[BenchmarkRecord]) -> str | None:
    """Return per held-out market of each judged checkpoint, its incumbent, and their difference."""
    gates = sorted(
        (record for record in records if record.purpose == "gate"),
        key=lambda record: parse_version(record.version),
    )
    series: dict[str, list[Point]] = {"checkpoint": [], "base": [], "gain over its incumbent": []}
    for x, record in enumerate(gates):
        standings = record.metrics.get("standings") or {}
        for name, version in (("checkpoint", record.version), ("base", "v0.0.0")):
            one = standings.get(version)
            if one is not None and one.get("return_low") is not None:
                point = Point(x, one["return_mean"], one["return_low"], one["return_high"])
                series[name].append(point)
        found = (record.metrics.get("verdict") or {}).get("difference")
        if found is not None:
            series["gain over its incumbent"].append(Point(x, found["mean"], found["low"], found["high"]))
    drawn = {name: points for name, points in series.items() if points}
    names = [record.version for record in gates]
    return curves(drawn, "Learning curve: return on start equity per held-out market", "checkpoint", names)


def reward_against_pnl(pairs: Sequence[tuple[float | None, float | None]]) -> str | None:
    """A dot per episode: attributed P&L in USD and reward; pairs with a gap are left out."""
    whole = [(pnl, reward) for pnl, reward in pairs if pnl is not None and reward is not None]
    return scatter(whole, "Reward against attributed P&L", "attributed P&L, $", "reward")


async def recorded_rewards(
    rl: asyncpg.Connection, day: str | None = None, horizon: str = "1h"
) -> list[tuple[float, float]]:
    """P&L and reward of the newest scored episodes, at most 2,000; of one day or all."""
    rows = await rl.fetch(_REWARD_AND_PNL, day, horizon, _DOTS)
    return [(row["pnl"], row["reward"]) for row in rows]


def importance_ratios(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """What the optimiser's steps say about the ratios of probabilities, step by step."""
    return _by_step(steps, _RATIOS, "Importance ratios by optimiser step")


def token_shares(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Shares of clipped, truncated and masked tokens and of the effective sample size, step by step."""
    return _by_step(steps, _SHARES, "Shares of tokens by optimiser step")


def _by_step(steps: Sequence[Mapping[str, Any]], wanted: re.Pattern[str], title: str) -> str | None:
    names = sorted({name for step in steps for name in step if wanted.search(name.lower())})
    series = {
        name: [
            Point(number, float(value), float(value), float(value))
            for number, step in enumerate(steps, start=1)
            if isinstance(value := step.get(name), int | float)
        ]
        for name in names
    }
    series = {name: points for name, points in series.items() if points}
    return curves(series, title, "step")


def steps_of(model: ModelRecord) -> list[dict[str, Any]]:
    """The step metrics that a checkpoint's manifest keeps; none where its backend keeps none."""
    steps = model.manifest.get("steps") or model.metrics.get("steps") or []
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
