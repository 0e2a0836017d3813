"""The embedded engine against one-at-a-time generation: tokens a second at 16 concurrent requests, no HTTP.

    python benchmarks/inference.py [--quick] [--json]

Baseline: the same model through transformers' `generate`, one request after the other, as a plain server
would do it. Both sample (temperature 1) the same prompts with the same limit; the speedup is the ratio of
generated tokens a second, measured in turns, the median over the rounds. Answers are also compared with those
of the engine at batch size 1: batching must not change them.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from babylon_rl.policy.batcher import Batcher
from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.settings import Settings
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import build_messages
from babylon_rl.training.tiny_base import ensure_base_model

CONCURRENT = 16
LIMIT = 12
"""Tokens that an order may have."""


def requests(count: int) -> list[ChatRequest]:
    """Decisions of traders, each with its own seed."""
    rng, tickers = random.Random(0), MarketSpec().tickers
    return [
        ChatRequest(
            build_messages(
                [(ticker, rng.choice(HEADLINES)) for ticker in tickers],
                rng.uniform(200, 2500),
                rng.randrange(5),
            ),
            max_tokens=LIMIT,
            seed=number,
        )
        for number in range(count)
    ]


async def concurrently(engine: EmbeddedEngine, asked: list[ChatRequest], callers: int) -> list[ChatAnswer]:
    """As many callers, each asking its next question when the last one is answered."""
    batcher, answers = Batcher(engine), {}
    waiting = iter(enumerate(asked))

    async def call() -> None:
        for number, request in waiting:
            answers[number] = await batcher.ask(request)

    await asyncio.gather(*(call() for _ in range(callers)))
    return [answers[number] for number in range(len(asked))]


def one_at_a_time(engine: EmbeddedEngine, asked: list[ChatRequest]) -> int:
    """Generated tokens of transformers' own loop."""
    import torch

    tokens = 0
    with torch.inference_mode():
        for request in asked:
            prompt = torch.tensor([engine.encode(request)])
            torch.manual_seed(request.seed or 0)
            generated = engine.model.generate(  # type: ignore[operator]
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                temperature=1.0,
                max_new_tokens=request.max_tokens,
                pad_token_id=engine.tokenizer.pad_token_id,
            )
            tokens += generated.shape[1] - prompt.shape[1]
    return tokens


def measure(engine: EmbeddedEngine, count: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of both, in turns, by the wall and by CPU time."""
    asked = requests(count)
    rates: dict[str, list[float]] = {"generate": [], "engine": []}
    cpu: dict[str, list[float]] = {"generate": [], "engine": []}
    one_at_a_time(engine, asked[:8])
    asyncio.run(concurrently(engine, asked[:64], CONCURRENT))
    for _ in range(rounds):
        for name in rates:
            began, spent = time.perf_counter(), time.process_time()
            if name == "generate":
                tokens = one_at_a_time(engine, asked)
            else:
                answers = asyncio.run(concurrently(engine, asked, CONCURRENT))
                tokens = sum(len(answer.token_ids) for answer in answers)
            rates[name].append(tokens / (time.perf_counter() - began))
            cpu[name].append(tokens / (time.process_time() - spent))
        ratio = rates["engine"][-1] / rates["generate"][-1]
        print(
            f"  generate {rates['generate'][-1]:7.0f} tokens/s, engine {rates['engine'][-1]:7.0f} tokens/s:"
            f" {ratio:.1f}x",
            flush=True,
        )
    ratios = [one / other for one, other in zip(rates["engine"], rates["generate"], strict=True)]
    cpu_ratios = [one / other for one, other in zip(cpu["engine"], cpu["generate"], strict=True)]
    alone = engine.sample(asked[:32])
    single = [engine.sample([request])[0] for request in asked[:32]]
    same = sum(one.token_ids == other.token_ids for one, other in zip(alone, single, strict=True))
    return {
        "speedup": round(statistics.median(ratios), 2),
        "speedup_cpu": round(statistics.median(cpu_ratios), 2),
        "generate_tokens_per_s": round(statistics.median(rates["generate"]), 1),
        "engine_tokens_per_s": round(statistics.median(rates["engine"]), 1),
        "prompt_tokens": len(engine.encode(asked[0])),
        "answer_limit": LIMIT,
        "concurrent": CONCURRENT,
        "same_answers": f"{same}/{len(single)}",
    }


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    count, rounds = (96, 2) if arguments.quick else (512, 7)
    home = Settings().home
    with tempfile.TemporaryDirectory() as folder:
        # a base model that is there already saves ten seconds
        path = ensure_base_model(home if (home / "models").is_dir() else Path(folder))
        engine = EmbeddedEngine.load(path, "v0.0.0")
        print(f"{count} requests, {CONCURRENT} at a time, 1 thread; load average {os.getloadavg()[0]:.1f}")
        figures = measure(engine, count, rounds)
    print(f"speedup {figures['speedup']}x ({figures['speedup_cpu']}x by CPU time)")
    if arguments.json:
        print(json.dumps(figures | {"quick": arguments.quick, "machine": machine()}))


if __name__ == "__main__":
    main()
