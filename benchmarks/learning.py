"""Does the loop learn? Training from scratch on simulated days, judged on markets that no choice was made on.

    python benchmarks/learning.py [--quick] [--json] [--picture docs/learning_curve.svg]

Every seed builds its own base model and its own world, plays each day with the newest weights, scores the
windows like the pipeline does, trains with the embedded backend, and is compared with its base on a vault of
its own. A seed wins when the lower end of candidate minus the better of base and hold lies above zero. The
null runs do the same with the rewards of each day shuffled among all its episodes and decisions: there is
nothing to learn in them, so no more than 2.5 % of them may win.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from babylon_rl.benchmark.arena import contest, difference, held_out
from babylon_rl.benchmark.pictures import Point, curves
from babylon_rl.benchmark.statistics import studentised_interval
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.steps import LlmCall
from babylon_rl.scoring.episodes import Decision
from babylon_rl.scoring.episodes import Episode as ScoredEpisode
from babylon_rl.scoring.groups import leave_one_out, reward_decisions
from babylon_rl.scoring.local import HeuristicScorer, PnlScorer, Score, Scorer
from babylon_rl.settings import get_settings
from babylon_rl.simulation.market import MarketSpec, generate_market
from babylon_rl.simulation.play import Episode, play_policy
from babylon_rl.simulation.trader import BANKROLL

AGENTS = 8
WINDOWS_PER_DAY = 24


@dataclass(frozen=True)
class Run:
    """One training run."""

    seed: int
    days: int
    scorer: str
    shuffled: bool
    windows: int
    """Held-out markets that judge it."""
    credit: str = field(default="decision", repr=False)
    """As `TRAINING_CREDIT`; not in the name that the vault is drawn by."""


@dataclass(frozen=True)
class Result:
    """What became of a run; returns are on start equity per held-out hour."""

    seed: int
    scorer: str
    base: float
    trained: float
    oracle: float
    gain_low: float
    """Lower end of trained minus the better of base and hold."""
    gain: float
    invalid_rate: float
    daily_returns: list[float]
    cpu_seconds: float

    @property
    def won(self) -> bool:
        return self.gain_low > 0


def train_and_judge(run: Run) -> Result:
    """One run from an untrained model to its verdict; a process of its own, on one thread."""
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    return asyncio.run(_train_and_judge(run, started))


async def _train_and_judge(run: Run, started: float) -> Result:
    from babylon_rl.training.conversion import to_art_groups
    from babylon_rl.training.embedded import EmbeddedTrainConfig, optimise
    from babylon_rl.training.tiny_base import TinyBaseConfig, ensure_base_model

    home = Path(tempfile.gettempdir()) / f"babylon-learning-{os.getuid()}"
    # Null runs share a base: what they test is the training, and a base costs as much as three days.
    path = ensure_base_model(home, TinyBaseConfig(seed=0 if run.shuffled else run.seed))
    base, engine = EmbeddedEngine.load(path, "base"), EmbeddedEngine.load(path, "trained")
    scorer, spec, daily = _scorer(run.scorer), MarketSpec(), []
    for day in range(run.days):
        path_of_day = [
            generate_market(spec, seed, hours=1)
            for seed in range(_stream(run, day), _stream(run, day) + WINDOWS_PER_DAY)
        ]
        markets = [market for market in path_of_day for _ in range(AGENTS)]
        seeds = [_stream(run, day) * 1000 + i for i in range(len(markets))]
        episodes = await play_policy(engine, markets, seeds)
        daily.append(float(np.mean([episode.clipped_return for episode in episodes])))
        scores = _scores(scorer, episodes)
        if run.shuffled:
            scores = _shuffled(scores, np.random.default_rng([run.seed, day]))
        groups = to_art_groups(_trainable(episodes, scores, run.credit))
        optimise(engine.model, engine.tokenizer, groups, EmbeddedTrainConfig(seed=run.seed))
    material = held_out(f"learning:{run}", run.windows, vault=True)
    standings = await contest({"base": base, "trained": engine}, material)
    trained, untrained = standings["trained"], standings["base"]
    rival = untrained if untrained.returns.mean() > 0 else standings["hold"]
    gain = difference(trained, rival)
    return Result(
        seed=run.seed,
        scorer=run.scorer,
        base=float(untrained.returns.mean()),
        trained=float(trained.returns.mean()),
        oracle=float(standings["oracle"].returns.mean()),
        gain_low=gain.low,
        gain=gain.mean,
        invalid_rate=trained.invalid_rate,
        daily_returns=daily,
        cpu_seconds=time.process_time() - started,
    )


def _stream(run: Run, day: int) -> int:
    """First seed of a day's markets; runs and days never share one."""
    return ((run.seed * 2 + run.shuffled) * 1000 + day) * WINDOWS_PER_DAY + 1_000_000_000


def _scorer(name: str) -> Scorer:
    penalty = get_settings().invalid_action_penalty
    return PnlScorer(invalid_penalty=penalty) if name == "pnl" else HeuristicScorer(invalid_penalty=penalty)


def _scores(scorer: Scorer, episodes: Sequence[Episode]) -> list[Score]:
    """Of every episode, window by window."""
    scores = []
    for first in range(0, len(episodes), AGENTS):
        window = [_scored(agent, episode) for agent, episode in enumerate(episodes[first : first + AGENTS])]
        scores += scorer.score(window)
    return scores


def _shuffled(scores: Sequence[Score], rng: np.random.Generator) -> list[Score]:
    """The day's rewards, given to episodes and decisions at random."""
    hours = rng.permutation([score.reward for score in scores])
    decisions = np.array([score.decisions for score in scores])
    rng.shuffle(decisions.reshape(-1))
    return [
        Score(score.agent_id, float(reward), {}, list(own))
        for score, reward, own in zip(scores, hours, decisions, strict=True)
    ]


def _scored(agent: int, episode: Episode) -> ScoredEpisode:
    return ScoredEpisode(
        window_id="",
        agent_id=str(agent),
        trajectory_ids=[],
        steps=[],
        calls=list[LlmCall](),
        policy_versions=[],
        actions=episode.decisions,
        invalid_actions=episode.invalid,
        horizon="1h",
        attributed_pnl=episode.pnl,
        pnl_source="orders",
        start_equity=BANKROLL,
        trades=episode.orders,
        wins=episode.wins,
        losses=episode.orders - episode.wins,
        pending_orders=0,
        unpriced_orders=0,
        decisions=[Decision(made or 0.0, made is None) for made in episode.made],
    )


def _trainable(episodes: Sequence[Episode], scores: Sequence[Score], credit: str = "decision") -> list[Any]:
    from babylon_rl.training.conversion import TrainableCall, TrainableEpisode

    trainable = []
    for first in range(0, len(episodes), AGENTS):
        window = scores[first : first + AGENTS]
        hours = leave_one_out(np.array([score.reward for score in window]))
        decisions = reward_decisions([score.decisions if credit == "decision" else [] for score in window])
        for agent, episode in enumerate(episodes[first : first + AGENTS]):
            calls = [
                TrainableCall(
                    messages=request.messages,
                    content=answer.content,
                    token_ids=answer.token_ids,
                    logprobs=answer.logprobs,
                    finish_reason=answer.finish_reason,
                    advantage=decisions[agent][place].advantage if decisions[agent] else None,
                )
                for place, (request, answer) in enumerate(episode.calls)
                if answer.finish_reason != "length"
            ]
            if calls:
                trainable.append(
                    TrainableEpisode(str(first // AGENTS), str(agent), float(hours[agent]), calls)
                )
    return trainable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 4 null runs: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seeds", type=int, default=6, help="runs per scorer (default 6)")
    parser.add_argument("--days", type=int, default=12, help="simulated days per run (default 12)")
    parser.add_argument("--null-seeds", type=int, default=20, help="runs with shuffled rewards (default 20)")
    parser.add_argument(
        "--credit", choices=("decision", "episode"), default="decision", help="TRAINING_CREDIT"
    )
    parser.add_argument("--picture", type=Path, help="write the learning curve as SVG")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: an interval over seeds needs at least 2")
    seeds, nulls = (2, 4) if arguments.quick else (arguments.seeds, arguments.null_seeds)
    windows = 256 if arguments.quick else 1024
    runs = [
        Run(seed, arguments.days, scorer, False, windows, arguments.credit)
        for scorer in ("pnl", "heuristic")
        for seed in range(1, seeds + 1)
    ] + [Run(seed, 4, "pnl", True, windows, arguments.credit) for seed in range(1, nulls + 1)]
    started, results = time.perf_counter(), []
    print(f"{'run':<22}{'base':>9}{'trained':>9}{'oracle':>9}{'gain':>9}{'lower':>9}  invalid  won  cpu s")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for run, result in zip(runs, pool.map(train_and_judge, runs), strict=True):
            results.append(result)
            name = f"{'shuffled' if run.shuffled else run.scorer} seed {run.seed}"
            print(
                f"{name:<22}{result.base:>+9.4f}{result.trained:>+9.4f}{result.oracle:>+9.4f}{result.gain:>+9.4f}"
                f"{result.gain_low:>+9.4f}{result.invalid_rate:>8.1%}  {'yes' if result.won else 'no':<4}"
                f"{result.cpu_seconds:>6.0f}",
                flush=True,
            )
    default = get_settings().scorer
    figures: dict[str, Any] = {"default_scorer": default}
    for scorer in ("pnl", "heuristic"):
        chosen = [
            result
            for run, result in zip(runs, results, strict=True)
            if run.scorer == scorer and not run.shuffled
        ]
        figures[scorer] = _summary(chosen)
        print(f"{scorer}: {_sentence(figures[scorer])}")
    null = [result for run, result in zip(runs, results, strict=True) if run.shuffled]
    figures |= figures[default]
    figures |= {"null_seeds": len(null), "null_wins": sum(result.won for result in null)}
    figures |= {"days": arguments.days, "curves": [r.daily_returns for r in results[:seeds]]}
    figures |= {"seconds": round(time.perf_counter() - started, 1), "quick": arguments.quick}
    figures |= {"cpu_seconds": round(sum(r.cpu_seconds for r in results)), "machine": machine()}
    print(f"shuffled rewards: {figures['null_wins']} of {figures['null_seeds']} runs won")
    if arguments.picture:
        arguments.picture.write_text(picture(runs, results))
        print(f"learning curve: {arguments.picture}")
    if arguments.json:
        print(json.dumps(figures | {"runs": [asdict(result) for result in results]}))


def picture(runs: Sequence[Run], results: Sequence[Result]) -> str:
    """Mean return per hour of the agents of each day, before that day was learned from, over the seeds; bands
    are 95 % intervals over seeds. The last point is the trained model on its vault."""
    series: dict[str, list[list[float]]] = {}
    for run, result in zip(runs, results, strict=True):
        name = "shuffled rewards" if run.shuffled else f"scorer {run.scorer}"
        series.setdefault(name, []).append([*result.daily_returns, result.trained])
    oracle = float(np.mean([result.oracle for result in results]))
    drawn = {}
    for name, rows in series.items():
        by_day = [studentised_interval(column, correct_skewness=False) for column in np.array(rows).T]
        drawn[name] = [Point(day, i.mean, i.low, i.high) for day, i in enumerate(by_day)]
    days = max(len(points) for points in drawn.values())
    drawn["oracle"] = [Point(day, oracle, oracle, oracle) for day in (0, days - 1)]
    svg = curves(drawn, "Return on start equity per simulated hour, by days of training", "days trained")
    assert svg is not None
    return svg


def _summary(results: Sequence[Result]) -> dict[str, Any]:
    gains = np.array([result.gain for result in results])
    interval = studentised_interval(gains, correct_skewness=False)
    return {
        "seeds": len(results),
        "wins": sum(result.won for result in results),
        "gain_mean": interval.mean,
        "gain_ci": [interval.low, interval.high],
        "oracle_share": float(np.mean([result.trained / result.oracle for result in results])),
        "invalid_rate": float(np.mean([result.invalid_rate for result in results])),
    }


def _sentence(summary: dict[str, Any]) -> str:
    low, high = summary["gain_ci"]
    return (
        f"{summary['wins']} of {summary['seeds']} seeds won, gain {summary['gain_mean']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] per hour, {summary['oracle_share']:.0%} of the oracle, "
        f"{summary['invalid_rate']:.1%} invalid"
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {name: version(name) for name in ("torch", "transformers", "openpipe-art")}
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "versions": {"python": platform.python_version(), **versions},
    }


if __name__ == "__main__":
    main()
