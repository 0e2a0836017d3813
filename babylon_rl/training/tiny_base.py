"""The tiny base model: a 0.1 M parameter Llama that knows the format of an order and nothing about trading.

It is built from a seed on first use: a byte-level BPE vocabulary over the simulator's prompts, and a short
supervised warm-up in which ticker, side and size are uniformly random. The only thing the warm-up ties to the
prompt is the headline that the answer names after the ticker, which is part of the format.
"""

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from babylon_rl.policy.checkpoints import MANIFEST, save_checkpoint, verify_checkpoint
from babylon_rl.policy.threads import fit_threads
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import MAX_SIZE, SIDES, SYSTEM_PROMPT, build_messages, format_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant")
END = "<|end|>"
PAD = "<|pad|>"
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(4))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    + END
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class TinyBaseConfig:
    """Shape and warm-up of the tiny base model."""

    seed: int = 0
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 192
    vocabulary: int = 448
    context: int = 256
    batch_rows: int = 64
    learning_rate: float = 6e-3
    initializer_range: float = 0.08
    """Standard deviation of the initial weights; at the usual 0.02 a model this narrow never learns to copy.
    """
    echo_weight: float = 6.0
    """Weight of the named headline in the loss: the other words are coin flips by construction."""
    anneal_steps: int = 60
    """Steps after the format is learned, with a falling learning rate, that even out the coin flips."""
    max_steps: int = 600
    hold_share: float = 0.1
    """Share of demonstrations that hold."""
    echo_loss: float = 0.02
    """The warm-up ends when the smoothed loss of the named headline falls below this many nats."""


BASE_MODEL_NAME = "babylon-tiny"


def ensure_base_model(
    home: Path,
    config: TinyBaseConfig | None = None,
    on_step: "Callable[[int, float, float], None] | None" = None,
) -> Path:
    """The checkpoint directory of the tiny base model; built once per configuration (about 7 CPU seconds)."""
    config, spec = config or TinyBaseConfig(), MarketSpec()
    identity = json.dumps(
        [asdict(config), spec.tickers, HEADLINES, SYSTEM_PROMPT, CHAT_TEMPLATE], sort_keys=True
    )
    path = home / "models" / f"{BASE_MODEL_NAME}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(path.with_suffix(".lock")):
        if (path / MANIFEST).exists():
            verify_checkpoint(path)
            return path
        tokenizer = build_tokenizer(config, spec)
        model = build_model(config, len(tokenizer))
        steps = warm_up(model, tokenizer, config, spec, on_step)
        manifest = {
            "base_model": BASE_MODEL_NAME,
            "parent": None,
            "warm_up": {**asdict(config), "steps": steps},
        }
        save_checkpoint(path, model, tokenizer, manifest)
    return path


def demonstration(
    rng: random.Random, spec: MarketSpec, hold_share: float
) -> tuple[list[dict[str, str]], str]:
    """A prompt and an answer in the right format whose ticker, side and size are uniformly random."""
    headlines = [(ticker, rng.choice(HEADLINES)) for ticker in spec.tickers]
    messages = build_messages(headlines, rng.uniform(200, 2500), rng.randrange(5))
    if rng.random() < hold_share:
        return messages, "HOLD"
    ticker, headline = rng.choice(headlines)
    return messages, format_order(ticker, headline, rng.choice(sorted(SIDES)), rng.randint(1, MAX_SIZE))


def build_tokenizer(config: TinyBaseConfig, spec: MarketSpec) -> "PreTrainedTokenizerFast":
    """Train the vocabulary on demonstrations; reserved tokens get the highest ids, where ART looks for a
    sentinel.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(config.seed)
    texts = []
    for _ in range(2000):
        messages, answer = demonstration(rng, spec, config.hold_share)
        texts += [*(message["content"] for message in messages), answer]
    special = [PAD, END, *(f"<|{role}|>" for role in ROLES), *RESERVED]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for token in special:
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES] + list(RESERVED),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(config: TinyBaseConfig, vocabulary: int) -> "LlamaForCausalLM":
    """A randomly initialised Llama of the configured shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            initializer_range=config.initializer_range,
        )
    )
    fit_threads(model.num_parameters())
    return model


def warm_up(
    model: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
    config: TinyBaseConfig,
    spec: MarketSpec,
    on_step: "Callable[[int, float, float], None] | None" = None,
) -> int:
    """Teach the format by supervised learning on fresh demonstrations; returns the number of steps taken.

    ``on_step`` receives the step, the loss of the whole answer and the smoothed loss of the named headline
    (nats).
    """
    import torch

    rng = random.Random(config.seed + 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    smoothed, learned_at = 2.0, None
    model.train()
    for step in range(1, config.max_steps + 1):
        rows = [demonstration(rng, spec, config.hold_share) for _ in range(config.batch_rows)]
        ids, mask = _encode_rows(tokenizer, rows)
        logits = model(input_ids=ids[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        answer = mask[:, 1:]
        echo = (answer.cumsum(1) == 2) & (answer == 1) & (answer.sum(1, keepdim=True) > 2)
        weights = answer + (config.echo_weight - 1.0) * echo
        loss = (losses * weights).sum() / weights.sum()
        smoothed += 0.1 * (((losses * echo).sum() / echo.sum()).item() - smoothed)
        remaining = 1.0 if learned_at is None else 1.0 - (step - learned_at) / config.anneal_steps
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, step / 20, remaining)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if on_step:
            on_step(step, loss.item(), smoothed)
        if learned_at is None and smoothed < config.echo_loss:
            learned_at = step
        if learned_at is not None and step - learned_at == config.anneal_steps:
            break
    model.eval()
    return step


def _encode_rows(tokenizer: "PreTrainedTokenizerFast", rows: list) -> tuple:
    """Right-padded ids and the mask of the answer's tokens, both of shape ``(rows, length)``."""
    import torch

    encoded = []
    for messages, answer in rows:
        text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        completion = tokenizer(answer + END, add_special_tokens=False)["input_ids"]
        encoded.append((prompt, completion))
    longest = max(len(prompt) + len(completion) for prompt, completion in encoded)
    ids = torch.full((len(rows), longest), cast(int, tokenizer.pad_token_id))
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for row, (prompt, completion) in enumerate(encoded):
        length = len(prompt) + len(completion)
        ids[row, :length] = torch.tensor(prompt + completion)
        mask[row, len(prompt) : length] = 1
    return ids, mask
