"""Sampling plus update against TRL's GRPOTrainer: CPU seconds for the same model, prompts and updates.

    python benchmarks/training_throughput.py [--quick] [--json] [--trl PYTHON]

A cycle samples several answers to each prompt at temperature 1 and makes the same optimiser steps with them
on both sides: float32, AdamW, PPO clipping, four epochs of four minibatches, no KL term, no gradient
checkpointing, one thread. The learning rate is so small that both go on sampling from the same
distribution; what the answers still differ in length by is divided out: a ratio compares CPU seconds per
completion token. Sampling is the engine here and `generate` there; everything else (tokenising, packing,
scoring, old log-probabilities, forward and backward passes, our measurement of the signal) counts as
update. The sides take turns; ratios are medians over the cycles, the first of which is not counted.

Both sides answer each prompt several times (TRL knows nothing else), and ours reads such a prompt once. On a
day of windows each answer has a prompt of its own: `ratio_update_distinct` is our update of as many answers
to distinct prompts beside the update of TRL.

TRL runs in a virtual environment of its own, which is made under BABYLON_HOME/benchmarks the first time
(torch and transformers at our versions); `--trl` names the interpreter of one that exists.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parts.cpu import forget_peak, peak_mb
from parts.machine import machine

from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.settings import Settings
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import build_messages
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode, to_art_groups
from babylon_rl.training.gradient import optimise
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl.training.tiny_base import ensure_base_model

TRL = "1.16.0"
ANSWERS, LIMIT = 8, 12
"""Answers to a prompt, and the tokens that each may have."""
RECIPE = EmbeddedTrainConfig(learning_rate=1e-7)


def prompts(count: int) -> list[list[dict[str, str]]]:
    """What traders are asked."""
    rng, tickers = random.Random(0), MarketSpec().tickers
    return [
        build_messages(
            [(ticker, rng.choice(HEADLINES)) for ticker in tickers], rng.uniform(200, 2500), rng.randrange(5)
        )
        for _ in range(count)
    ]


class Ours:
    """Our side: the embedded engine, then the embedded backend's update of groups of `ANSWERS` rows."""

    def __init__(self, model: Path, asked: list[list[dict[str, str]]], answers: int) -> None:
        self._engine = EmbeddedEngine.load(model, "base")
        self._trained = EmbeddedEngine.load(model, "trained").model
        self._asked, self._answers = asked, answers
        self._cycle = 0

    def cycle(self) -> dict[str, float]:
        """CPU seconds of both phases, and completion tokens."""
        began = time.process_time()
        self._cycle += 1
        requests = [
            ChatRequest(messages, max_tokens=LIMIT, seed=self._cycle * 10**6 + number)
            for number, messages in enumerate(m for m in self._asked for _ in range(self._answers))
        ]
        answers = self._engine.sample(requests)
        sampled = time.process_time()
        optimise(self._trained, self._engine.tokenizer, self._groups(requests, answers), RECIPE)
        tokens = sum(len(answer.token_ids) for answer in answers)
        return {"sampling": sampled - began, "update": time.process_time() - sampled, "tokens": tokens}

    def _groups(self, requests: list[ChatRequest], answers: list[ChatAnswer]) -> Any:
        return to_art_groups(
            TrainableEpisode(
                window_id=str(number // ANSWERS),
                agent_id=str(number % ANSWERS),
                advantage=sum(answer.token_ids) % 97 / 97,
                calls=[
                    TrainableCall(
                        request.messages,
                        answer.content,
                        answer.token_ids,
                        answer.logprobs,
                        answer.finish_reason,
                    )
                ],
            )
            for number, (request, answer) in enumerate(zip(requests, answers, strict=True))
        )


class Theirs:
    """TRL's side: a process that does one cycle for each line it is sent."""

    def __init__(self, python: Path, job: dict[str, Any], folder: Path) -> None:
        file = folder / "job.json"
        file.write_text(json.dumps(job))
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).parent / "parts" / "trl_side.py"), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "trl.log").open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        )
        self._log = folder / "trl.log"

    def cycle(self) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"TRL ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def trl_python(home: Path) -> Path:
    """The interpreter of TRL's environment, which is made if it is not there."""
    folder = home / "benchmarks" / f"trl-{TRL}"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        print(f"making an environment for TRL {TRL} in {folder} (a few minutes)", flush=True)
        pins = (Path(__file__).parents[1] / "constraints.txt").read_text()
        same = re.findall(r"^(?:torch|transformers|accelerate)==\S+", pins, re.MULTILINE)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = [f"trl=={TRL}", "datasets", *same]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / ".installed").touch()
    return python


def measure(model: Path, python: Path, count: int, cycles: int) -> dict[str, Any]:
    """Medians over the cycles of both sides, in turns."""
    asked = prompts(count)
    with tempfile.TemporaryDirectory(prefix="babylon-bench-") as name:
        job = {"model": str(model), "prompts": asked, "answers": ANSWERS, "limit": LIMIT, "scratch": name}
        job |= {"epochs": RECIPE.epochs, "minibatches": RECIPE.minibatches, "cycles": cycles + 1}
        theirs = Theirs(python, job | {"learning_rate": RECIPE.learning_rate}, Path(name))
        ours, distinct = Ours(model, asked, ANSWERS), Ours(model, prompts(count * ANSWERS), 1)
        try:
            theirs.cycle()
            ours.cycle()
            forget_peak()
            pairs = []
            for _ in range(cycles):
                pairs.append((theirs.cycle(), ours.cycle()))
                print(f"  TRL {_shown(pairs[-1][0])}; ours {_shown(pairs[-1][1])}", flush=True)
            peak = peak_mb()
            windows = [distinct.cycle() for _ in range(cycles + 1)][1:]
        finally:
            theirs.close()

    def ratio(*phases: str, ours: list[dict[str, float]] | None = None) -> float:
        beside = zip([trl for trl, _ in pairs], ours or [own for _, own in pairs], strict=True)
        return round(statistics.median(_per_token(t, phases) / _per_token(o, phases) for t, o in beside), 2)

    return {
        "ratio": ratio("sampling", "update"),
        "ratio_sampling": ratio("sampling"),
        "ratio_update": ratio("update"),
        "ratio_update_distinct": ratio("update", ours=windows),
        "peak_mb": round(peak),
        "prompts": count,
        "answers": ANSWERS,
        "updates": RECIPE.epochs * RECIPE.minibatches,
        "tokens_ours": statistics.median(ours["tokens"] for _, ours in pairs),
        "tokens_trl": statistics.median(trl["tokens"] for trl, _ in pairs),
        "cycles": cycles,
    }


def _per_token(measured: dict[str, float], phases: tuple[str, ...]) -> float:
    return sum(measured[phase] for phase in phases) / measured["tokens"]


def _shown(measured: dict[str, float]) -> str:
    return (
        f"{measured['sampling']:.2f} s sampling, {measured['update']:.2f} s update, "
        f"{measured['tokens']:.0f} tokens"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few prompts and cycles: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--trl", type=Path, metavar="PYTHON", help="interpreter of an environment with TRL")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    home = Settings().home
    count, cycles = (8, 2) if arguments.quick else (32, 7)
    started = time.perf_counter()
    model = ensure_base_model(home)
    figures = measure(model, arguments.trl or trl_python(home), count, cycles)
    print(f"CPU per completion token, TRL over ours: {figures['ratio']:.2f}x")
    print(f"  sampling {figures['ratio_sampling']:.2f}x, update {figures['ratio_update']:.2f}x")
    print(f"  update where every answer has a prompt of its own {figures['ratio_update_distinct']:.2f}x")
    figures |= {"trl": TRL, "quick": arguments.quick, "seconds": round(time.perf_counter() - started, 1)}
    figures |= {"machine": machine("torch", "transformers", "openpipe-art")}
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
