"""The tiny base model: the same bytes everywhere, a format and no opinion."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from babylon_rl.benchmark.arena import contest, difference, held_out
from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import Hold, Invalid, Order, parse_decision
from babylon_rl.training.tiny_base import (
    BASE_MODEL_NAME,
    TinyBaseConfig,
    build_tokenizer,
    demonstration,
    ensure_base_model,
)

SPEC = MarketSpec()
SHORT = TinyBaseConfig(max_steps=4)
"""A warm-up that is long enough to change every weight."""


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (read_manifest(ensure_base_model(tmp_path / name, SHORT)) for name in ("a", "b"))
    assert one == other and one["warm_up"]["steps"] == 4 and one["base_model"] == BASE_MODEL_NAME
    another = read_manifest(ensure_base_model(tmp_path / "a", TinyBaseConfig(max_steps=4, seed=1)))
    assert another["files"]["model.safetensors"] != one["files"]["model.safetensors"]
    assert len(list((tmp_path / "a" / "models").glob(f"{BASE_MODEL_NAME}-*/"))) == 2


@pytest.mark.long
def test_another_process_builds_the_same_bytes(base_checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from babylon_rl.training.tiny_base import ensure_base_model\n"
        "print(ensure_base_model(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    assert Path(built).name == base_checkpoint.name
    assert read_manifest(Path(built)) == read_manifest(base_checkpoint)


def test_it_is_built_once_however_many_ask(tmp_path: Path) -> None:
    steps: Counter[int] = Counter()

    def build(number: int) -> Path:
        return ensure_base_model(tmp_path, SHORT, lambda step, loss, echo: steps.update([number]))

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(build, range(4)))
    assert len(paths) == 1 and list(steps.values()) == [4]
    assert ensure_base_model(tmp_path, SHORT) in paths and sum(steps.values()) == 4


def test_a_spoiled_base_model_is_not_used(base_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base_checkpoint, tmp_path / "models" / base_checkpoint.name)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer.json does not match its checksum"):
        ensure_base_model(tmp_path)


@pytest.fixture(scope="module")
def demonstrations() -> list[tuple[list[str], int, Order, str]]:
    """Words of the prompt by position, position of the ticker, the order and the named headline."""
    rng, found = random.Random(7), []
    while len(found) < 20_000:
        messages, answer = demonstration(rng, SPEC, hold_share=0.1)
        decision = parse_decision(answer, SPEC.tickers)
        if isinstance(decision, Order):
            news = [line.split() for line in messages[-1]["content"].splitlines()[1:]]
            words = [word for _, word in news]
            position = [ticker for ticker, _ in news].index(decision.ticker)
            found.append((words, position, decision, answer.split()[1]))
    return found


def p_of_independence(first: list, second: list) -> float:
    from scipy.stats import chi2_contingency

    rows, columns = (sorted(set(values)) for values in (first, second))
    table = np.zeros((len(rows), len(columns)))
    for one, other in zip(first, second, strict=True):
        table[rows.index(one), columns.index(other)] += 1
    return float(chi2_contingency(table)[1])  # type: ignore[arg-type]


def test_demonstrations_name_the_tickers_own_headline(demonstrations: list) -> None:
    assert all(words[position] == named for words, position, _, named in demonstrations)


def test_demonstrations_tie_nothing_to_the_news(demonstrations: list) -> None:
    from scipy.stats import chisquare

    named = [HEADLINES.index(word) for *_, word in demonstrations]
    sides = [order.side for _, _, order, _ in demonstrations]
    sizes = [order.size for _, _, order, _ in demonstrations]
    positions = [position for _, position, _, _ in demonstrations]
    strengths = [[abs(HEADLINES.index(word) - 2) for word in words] for words, *_ in demonstrations]
    moods = [sum(HEADLINES.index(word) - 2 for word in words) for words, *_ in demonstrations]
    strongest = [int(np.argmax(values)) for values in strengths]
    pairs = {
        "named headline and side": (named, sides),
        "named headline and size": (named, sizes),
        "mood of all news and side": (moods, sides),
        "side and size": (sides, sizes),
        "ticker and side": (positions, sides),
        "ticker and size": (positions, sizes),
        "first strongest headline and ticker": (strongest, positions),
    } | {
        f"headline of ticker {i} and ticker": ([words[i] for words, *_ in demonstrations], positions)
        for i in range(len(SPEC.tickers))
    }
    for name, (first, second) in pairs.items():
        assert p_of_independence(first, second) > 1e-3, name
    for name, values in {"side": sides, "size": sizes, "ticker": positions, "headline": named}.items():
        assert chisquare(list(Counter(values).values())).pvalue > 1e-3, f"{name} is not uniform"


def test_some_demonstrations_hold(demonstrations: list) -> None:
    rng = random.Random(3)
    answers = [demonstration(rng, SPEC, hold_share=0.1)[1] for _ in range(4000)]
    assert 0.08 < sum(answer == "HOLD" for answer in answers) / 4000 < 0.12


def test_reserved_tokens_have_the_highest_ids() -> None:
    """ART takes the highest id that no text uses as a sentinel; it must survive decoding and encoding."""
    tokenizer = build_tokenizer(TinyBaseConfig(), SPEC)
    top = len(tokenizer) - 1
    text = str(tokenizer.decode([top]))
    assert text == "<|reserved_3|>" and tokenizer.encode(text, add_special_tokens=False) == [top]
    assert len(tokenizer) == TinyBaseConfig().vocabulary


def test_the_template_keeps_content_as_it_is() -> None:
    tokenizer = build_tokenizer(TinyBaseConfig(), SPEC)
    messages = [{"role": "user", "content": "  AURUM\n\n crash \t"}, {"role": "assistant", "content": " x "}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|user|>  AURUM\n\n crash \t<|end|><|assistant|> x <|end|>"
    odd = "Übermut 🚀 \x00 <html> {{ 7 * 7 }}"
    assert tokenizer.decode(tokenizer.encode(odd, add_special_tokens=False)) == odd


def test_the_base_model_knows_the_format(base_engine: EmbeddedEngine) -> None:
    rng = random.Random(11)
    prompts = [demonstration(rng, SPEC, 0.1)[0] for _ in range(1024)]
    answers = base_engine.sample([ChatRequest(messages, seed=i) for i, messages in enumerate(prompts)])
    decisions = [parse_decision(answer.content, SPEC.tickers) for answer in answers]
    assert sum(isinstance(decision, Invalid) for decision in decisions) < 0.05 * len(decisions)
    assert 0.03 < sum(isinstance(decision, Hold) for decision in decisions) / len(decisions) < 0.25
    true = sum(
        f"{ticker} {headline}\n" in f"{messages[-1]['content']}\n"
        for messages, answer in zip(prompts, answers, strict=True)
        if len(answer.content.split()) == 4
        for ticker, headline in [answer.content.split()[:2]]
    )
    orders = sum(isinstance(decision, Order) for decision in decisions)
    assert true > 0.95 * orders, "the named headline is the ticker's own"


@pytest.mark.anyio
async def test_the_base_model_knows_nothing_about_trading(base_engine: EmbeddedEngine) -> None:
    standings = await contest({"base": base_engine}, held_out("the base model's own held-out hours", 512))
    base = standings["base"].summary()
    assert base["return_low"] < 0 < base["return_high"]
    against_random = difference(standings["base"], standings["random"])
    assert against_random.low < 0 < against_random.high
    assert standings["oracle"].returns.mean() > 5 * abs(base["return_mean"])


def test_the_manifest_says_how_it_was_made(base_checkpoint: Path) -> None:
    manifest = read_manifest(base_checkpoint)
    assert manifest["parent"] is None and manifest["warm_up"]["seed"] == 0
    assert 50 < manifest["warm_up"]["steps"] < TinyBaseConfig().max_steps, "it stopped because it had learned"
    assert json.loads((base_checkpoint / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
