"""Can yesterday's logs teach as much as fresh play? Training from recorded decisions, against on-policy.

    python benchmarks/off_policy.py [--quick] [--json]

Every seed has a base model and a world of its own, and trains it once per arm for the same number of days on
the same markets. `on-policy` learns from what the newest weights played. `lag k` learns from windows that the
weights of k days before had played. `foreign` learns from windows that another lineage of the same base
played, one that was trained on other markets for another reward. Each of these runs with the correction
(decoupled ratio with truncated importance weights), two also without (every recorded token counts as the
newest policy's own: ratio one). Beside them, not in the pooled ratio: `foreign text`, from the base model of
another seed with another vocabulary, which has no usable log-probabilities and is trained on positive
advantages only; and `resample`, which answers the prompts of one-day-old logs anew with the newest weights
and prices the orders against the recorded path.

All arms of a seed are judged on the same vault. A gain is trained minus base; a ratio is an arm's mean gain
over the on-policy arm's, with a jackknife interval over seeds.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import learning
import numpy as np
from learning import AGENTS, machine

from babylon_rl.benchmark.arena import contest, held_out
from babylon_rl.outcomes.perpetuals import value_perpetual
from babylon_rl.policy.chat import ChatAnswer
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.settings import get_settings
from babylon_rl.simulation.market import DECISION_TICKS, MarketPath, MarketSpec, generate_market
from babylon_rl.simulation.play import Episode, play_policy
from babylon_rl.simulation.trader import BANKROLL, Invalid, Order, parse_decision
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl.training.resample import RecordedPrompt, resample

WINDOWS_PER_DAY = 16
FOREIGN, TEXT = "foreign", "foreign text"
FOREIGN_DAYS = 3
"""Days that the foreign lineage was trained for."""
CORRECTED = ("lag 1", "lag 3", "lag 7", FOREIGN)
UNCORRECTED = ("lag 7, uncorrected", f"{FOREIGN}, uncorrected")
ARMS = ("on-policy", *CORRECTED, *UNCORRECTED, TEXT, "resample")
CORRECTION: dict[str, Any] = {"truncated_importance": 2.0}
"""What `TRAINING_TRUNCATED_IMPORTANCE=2` sets."""


@dataclass(frozen=True)
class Run:
    """All arms of one seed."""

    seed: int
    days: int
    windows: int
    arms: tuple[str, ...]
    credit: str = "decision"
    """As `TRAINING_CREDIT`."""


@dataclass(frozen=True)
class Outcome:
    """What became of an arm; returns are on start equity per held-out hour."""

    seed: int
    arm: str
    base: float
    trained: float
    oracle: float
    invalid_rate: float
    cpu_seconds: float
    effective_share: float
    """Mean over the days of the effective sample size's share."""
    clipped_share: float

    @property
    def gain(self) -> float:
        return self.trained - self.base


def run_seed(run: Run) -> list[Outcome]:
    """One seed, in a process of its own on one thread."""
    import torch

    torch.set_num_threads(1)
    return asyncio.run(_run_seed(run))


async def _run_seed(run: Run) -> list[Outcome]:
    engines, spent, measured = {"base": _engine(run.seed)}, {}, {}
    for arm in run.arms:
        started = time.process_time()
        engines[arm], measured[arm] = await _train(run, arm)
        spent[arm] = time.process_time() - started
    standings = await contest(engines, held_out(f"off-policy:{run.seed}", run.windows, vault=True))
    return [
        Outcome(
            seed=run.seed,
            arm=arm,
            base=float(standings["base"].returns.mean()),
            trained=float(standings[arm].returns.mean()),
            oracle=float(standings["oracle"].returns.mean()),
            invalid_rate=standings[arm].invalid_rate,
            cpu_seconds=spent[arm],
            effective_share=_mean(measured[arm], "off_policy/effective_share"),
            clipped_share=_mean(measured[arm], "off_policy/clipped_share"),
        )
        for arm in run.arms
    ]


async def _train(run: Run, arm: str) -> tuple[EmbeddedEngine, list[dict[str, float]]]:
    """Train the seed's base for all days of an arm; returns it with the metrics of every optimiser step."""
    from babylon_rl.training.conversion import to_art_groups
    from babylon_rl.training.gradient import optimise

    name, corrected = arm.removesuffix(", uncorrected"), not arm.endswith(", uncorrected")
    options = CORRECTION if corrected and name != "on-policy" else {}
    config = EmbeddedTrainConfig(seed=run.seed, **options)
    engine, recorder = _engine(run.seed), _engine(run.seed % 8 + 1 if name == TEXT else run.seed)
    if name == FOREIGN:
        await _estrange(run, recorder)
    lag = int(name.removeprefix("lag ")) if name.startswith("lag ") else 1 if name == "resample" else 0
    history, metrics = [_weights(engine)], []
    for day in range(run.days):
        markets = _markets(run.seed, day)
        if name not in (FOREIGN, TEXT):
            recorder.model.load_state_dict(history[max(0, day - lag)])
        seeds = [_stream(run.seed, day) * 1000 + index for index in range(len(markets))]
        episodes = await play_policy(recorder, markets, seeds)
        if name == "resample":
            trainable = await _resampled(run, day, engine, episodes, markets)
        else:
            trainable = _trainable(episodes, corrected, run.credit, text=name == TEXT)
        metrics += optimise(
            engine.model, engine.tokenizer, to_art_groups(trainable, engine.tokenizer), config
        )
        history.append(_weights(engine))
    return engine, metrics


def _trainable(episodes: Sequence[Episode], corrected: bool, credit: str, *, text: bool) -> list[Any]:
    """The day's episodes as a batch would hold them."""
    from dataclasses import replace

    scores = learning._scores(learning._scorer("pnl"), episodes)
    recorded = learning._trainable(episodes, scores, credit)
    if corrected and not text:
        return recorded
    # Nothing is known of the policy that wrote it; token ids of another vocabulary say nothing either.
    blind = [
        replace(e, calls=[replace(c, logprobs=[], token_ids=[] if text else c.token_ids) for c in e.calls])
        for e in recorded
    ]
    if not corrected:
        return blind
    better = [
        replace(e, calls=[c for c in e.calls if (e.advantage if c.advantage is None else c.advantage) > 0])
        for e in blind
    ]
    return [e for e in better if e.calls]


async def _resampled(
    run: Run, day: int, engine: EmbeddedEngine, episodes: Sequence[Episode], markets: Sequence[MarketPath]
) -> list[Any]:
    """Same-prompt groups of the newest policy: as many answers as the other arms have decisions."""
    engine.model.eval()
    penalty, prompts = get_settings().invalid_action_penalty, list[RecordedPrompt]()
    places: dict[str, tuple[MarketPath, int]] = {}
    for index in range(0, len(markets), AGENTS):
        for decision in range(len(DECISION_TICKS)):
            request, _ = episodes[index].calls[decision]
            name = f"{day}/{index}/{decision}"
            prompts.append(RecordedPrompt(name, str(index), "0", request.messages, 1.0, request.max_tokens))
            places[name] = markets[index], decision

    async def rewards(pairs: Sequence[tuple[RecordedPrompt, ChatAnswer]]) -> list[float]:
        return [
            _reward(answer, market, decision, penalty)
            for prompt, answer in pairs
            for market, decision in [places[prompt.id]]
        ]

    found = await resample(engine, prompts, AGENTS, rewards, seed=run.seed)
    return found.episodes


def _reward(answer: ChatAnswer, market: MarketPath, decision: int, penalty: float) -> float:
    """Return on equity of one answer's order against the recorded path."""
    choice = parse_decision(answer.content, market.spec.tickers)
    if isinstance(choice, Invalid):
        return -penalty
    if not isinstance(choice, Order):
        return 0.0
    prices = market.price_path(market.spec.tickers.index(choice.ticker), DECISION_TICKS[decision])
    return (
        value_perpetual(choice.side, choice.size, choice.leverage, float(prices[0]), prices[1:]).value
        / BANKROLL
    )


def _engine(seed: int) -> EmbeddedEngine:
    from babylon_rl.training.tiny_base import TinyBaseConfig, ensure_base_model

    home = Path(tempfile.gettempdir()) / f"babylon-learning-{os.getuid()}"
    return EmbeddedEngine.load(ensure_base_model(home, TinyBaseConfig(seed=seed)), f"base-{seed}")


async def _estrange(run: Run, engine: EmbeddedEngine) -> None:
    """Make another lineage of a base: trained on other markets with the seeds' heuristic reward."""
    from babylon_rl.training.conversion import to_art_groups
    from babylon_rl.training.gradient import optimise

    for day in range(FOREIGN_DAYS):
        markets = _markets(run.seed, 500 + day)
        seeds = [_stream(run.seed, 500 + day) * 1000 + index for index in range(len(markets))]
        episodes = await play_policy(engine, markets, seeds)
        scores = learning._scores(learning._scorer("heuristic"), episodes)
        groups = to_art_groups(learning._trainable(episodes, scores))
        optimise(engine.model, engine.tokenizer, groups, EmbeddedTrainConfig(seed=run.seed))


def _weights(engine: EmbeddedEngine) -> dict[str, Any]:
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


def _markets(seed: int, day: int) -> list[MarketPath]:
    first = _stream(seed, day)
    windows = [generate_market(MarketSpec(), first + index, hours=1) for index in range(WINDOWS_PER_DAY)]
    return [market for market in windows for _ in range(AGENTS)]


def _stream(seed: int, day: int) -> int:
    """First seed of a day's markets; the arms of a seed share them."""
    return (seed * 1000 + day) * WINDOWS_PER_DAY + 3_000_000_000


def _mean(samples: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([sample[name] for sample in samples])) if samples else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 4 days: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seeds", type=int, default=8, help="seeds (default 8)")
    parser.add_argument("--days", type=int, default=8, help="simulated days per arm (default 8)")
    parser.add_argument(
        "--credit", choices=("decision", "episode"), default="decision", help="TRAINING_CREDIT"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="only these beside on-policy")
    arguments = parser.parse_args()
    seeds, days = (2, 4) if arguments.quick else (arguments.seeds, arguments.days)
    arms = tuple(arm for arm in ARMS if arm == ARMS[0] or arm in arguments.arms)
    runs = [Run(seed, days, 1024, arms, arguments.credit) for seed in range(1, seeds + 1)]
    started, outcomes = time.perf_counter(), list[Outcome]()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{'arm':<24}{'seed':>5}{'base':>9}{'trained':>9}{'gain':>9}  invalid  effective  clipped  cpu s")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        for found in pool.map(run_seed, runs):
            outcomes += found
            for one in found:
                print(
                    f"{one.arm:<24}{one.seed:>5}{one.base:>+9.4f}{one.trained:>+9.4f}{one.gain:>+9.4f}"
                    f"{one.invalid_rate:>8.1%}{one.effective_share:>10.2f}{one.clipped_share:>9.1%}"
                    f"{one.cpu_seconds:>7.0f}",
                    flush=True,
                )
    figures = summarise(outcomes, arms)
    figures |= {"days": days, "windows_per_day": WINDOWS_PER_DAY, "agents": AGENTS}
    figures |= {"seconds": round(time.perf_counter() - started, 1), "quick": arguments.quick}
    figures |= {"cpu_seconds": round(sum(one.cpu_seconds for one in outcomes)), "machine": machine()}
    print_summary(figures)
    if arguments.json:
        print(json.dumps(figures | {"runs": [asdict(one) for one in outcomes]}))


def summarise(outcomes: Sequence[Outcome], arms: Sequence[str]) -> dict[str, Any]:
    """The figures of the report; `gain_ratio` pools the corrected arms."""
    gains = {arm: np.array([one.gain for one in outcomes if one.arm == arm]) for arm in arms}
    invalid = {arm: float(np.mean([o.invalid_rate for o in outcomes if o.arm == arm])) for arm in arms}
    corrected = [arm for arm in CORRECTED if arm in gains]
    blind = [arm for arm in UNCORRECTED if arm in gains]
    by_lag = {
        arm: ratio(gains[arm], gains[ARMS[0]]) | {"gain": float(gains[arm].mean()), "invalid": invalid[arm]}
        for arm in arms
    }
    pooled = ratio(_pool(gains, corrected), gains[ARMS[0]]) if corrected else {"ratio": None, "ci": None}
    uncorrected = ratio(_pool(gains, blind), gains[ARMS[0]]) if blind else {"ratio": None, "ci": None}
    return {
        "seeds": len(gains[ARMS[0]]),
        "gain_on_policy": float(gains[ARMS[0]].mean()),
        "gain_ratio": pooled["ratio"],
        "gain_ratio_ci": pooled["ci"],
        "gain_ratio_uncorrected": uncorrected["ratio"],
        "gain_ratio_uncorrected_ci": uncorrected["ci"],
        "invalid_rate": float(np.mean([invalid[arm] for arm in corrected])) if corrected else None,
        "invalid_rate_uncorrected": float(np.mean([invalid[arm] for arm in blind])) if blind else None,
        "by_lag": by_lag,
        "resample_ratio": by_lag["resample"]["ratio"] if "resample" in by_lag else None,
        "resample_ratio_ci": by_lag["resample"]["ci"] if "resample" in by_lag else None,
    }


def _pool(gains: dict[str, np.ndarray], arms: Sequence[str]) -> np.ndarray:
    return np.mean([gains[arm] for arm in arms], axis=0)


def ratio(gains: np.ndarray, reference: np.ndarray, confidence: float = 0.95) -> dict[str, Any]:
    """Ratio of two means over the same seeds, with Student's interval of the jackknife's pseudo-values."""
    from scipy import stats

    n, whole = gains.size, gains.mean() / reference.mean()
    left_out = np.array(
        [np.delete(gains, i).mean() / np.delete(reference, i).mean() for i in range(n)] if n > 1 else [whole]
    )
    pseudo = n * whole - (n - 1) * left_out
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * pseudo.std(ddof=1) / n**0.5 if n > 1 else float("nan")
    centre = float(pseudo.mean())
    return {"ratio": float(whole), "ci": [centre - float(half), centre + float(half)]}


def print_summary(figures: dict[str, Any]) -> None:
    print(f"\n{'arm':<24}{'gain':>9}{'ratio':>8}   95 % interval   invalid")
    for arm, found in figures["by_lag"].items():
        low, high = found["ci"]
        print(
            f"{arm:<24}{found['gain']:>+9.4f}{found['ratio']:>8.2f}   [{low:+.2f}, {high:+.2f}]"
            f"{found['invalid']:>10.1%}"
        )
    for name in ("gain_ratio", "gain_ratio_uncorrected"):
        if figures[name] is not None:
            low, high = figures[f"{name}_ci"]
            print(f"{name}: {figures[name]:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
