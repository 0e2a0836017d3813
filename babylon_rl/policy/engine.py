"""The embedded engine: batched sampling from a small causal language model with a key-value cache.

One forward pass serves the whole batch; prompts are padded on the left so that every sequence grows at the
same column. Each request draws from its own random stream, so its answer depends on its seed and not on its
neighbours.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from babylon_rl.policy.chat import ChatAnswer, ChatRequest, TokenSink
from babylon_rl.policy.checkpoints import load_checkpoint
from babylon_rl.policy.control_tokens import neutral_messages
from babylon_rl.policy.errors import PromptTooLongError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_BATCH = 256
"""Sequences per forward pass; measured best on two CPU cores."""

COLDEST = 1e-6
"""Temperatures below this count as zero: dividing logits by them overflows."""


class EmbeddedEngine:
    """Answers chat requests with a model held in memory.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template and an end-of-turn token as ``eos_token``.
        version: version of the weights, reported with every answer.
        name: model name that the answers carry.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        version: str,
        name: str = "babylon-agent",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self._version = version
        self.chat_template_hash = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path, version: str) -> "EmbeddedEngine":
        """Load a verified checkpoint directory (see ``policy.checkpoints``)."""
        model, tokenizer = load_checkpoint(path)
        return cls(model, tokenizer, version)

    @property
    def version(self) -> str:
        return self._version

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.config.max_position_embeddings

    async def complete(
        self, requests: Sequence[ChatRequest], on_token: TokenSink | None = None
    ) -> list[ChatAnswer]:
        """Answer every request in order; sampling runs in a worker thread, which also calls ``on_token``."""
        return await asyncio.to_thread(self.sample, requests, on_token)

    def sample(self, requests: Sequence[ChatRequest], on_token: TokenSink | None = None) -> list[ChatAnswer]:
        """Answer every request in order, ``MAX_BATCH`` at a time."""
        answers: list[ChatAnswer] = []
        for start in range(0, len(requests), MAX_BATCH):
            answers += self._sample_batch(requests[start : start + MAX_BATCH], start, on_token)
        return answers

    def text(self, token_ids: Sequence[int]) -> str:
        """What the tokens say; a character whose bytes are not all there yet ends it as U+FFFD."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def encode(self, request: ChatRequest) -> list[int]:
        """Token ids of the prompt, with the header of the assistant's turn.

        Raises:
            PromptTooLongError: prompt and answer do not fit the model's context.
        """
        encoded = self.tokenizer.apply_chat_template(
            neutral_messages(request.messages), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = list(encoded["input_ids"])  # type: ignore[index]
        if len(ids) + request.max_tokens > self.context_length:
            raise PromptTooLongError(len(ids), request.max_tokens, self.context_length)
        return ids

    def _sample_batch(
        self, requests: Sequence[ChatRequest], start: int, on_token: TokenSink | None
    ) -> list[ChatAnswer]:
        known: dict[str, list[int]] = {}
        prompts = [
            known.get(key := repr((request.messages, request.max_tokens)))
            or known.setdefault(key, self.encode(request))
            for request in requests
        ]
        sink = None if on_token is None else lambda row, *token: on_token(start + row, *token)
        token_ids, logprobs = self._generate(prompts, requests, sink)
        return [
            self._answer(request, prompt, tokens, values)
            for request, prompt, tokens, values in zip(requests, prompts, token_ids, logprobs, strict=True)
        ]

    def _answer(
        self, request: ChatRequest, prompt: list[int], tokens: list[int], logprobs: list[float]
    ) -> ChatAnswer:
        stopped = bool(tokens) and tokens[-1] == self.tokenizer.eos_token_id
        text = self.text(tokens[:-1] if stopped else tokens)
        if (end := first_stop(text, request.stop)) is not None:
            text, stopped = text[:end], True
        return ChatAnswer(
            content=text,
            finish_reason="stop" if stopped else "length",
            prompt_token_ids=prompt,
            token_ids=tokens,
            logprobs=logprobs,
            policy_version=self._version,
            model=self.name,
            response_id=f"chatcmpl-{uuid.uuid4().hex}",
            chat_template_hash=self.chat_template_hash,
        )

    def _generate(
        self, prompts: list[list[int]], requests: Sequence[ChatRequest], on_token: TokenSink | None
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Sample until every sequence has ended or reached its own limit; equal prompts are read once."""
        import torch
        from transformers import DynamicCache

        device, eos = self.model.device, self.tokenizer.eos_token_id
        distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        copies = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device)
        longest = max(map(len, prompts))
        steps = max(request.max_tokens for request in requests)
        ids = torch.full((len(distinct), longest), cast(int, self.tokenizer.pad_token_id), dtype=torch.long)
        mask = torch.zeros((len(distinct), longest + steps), dtype=torch.long)
        for row, prompt in enumerate(distinct):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask[:, :longest].cumsum(1) - 1).clamp(min=0)
        uniforms = torch.from_numpy(np.stack([_stream(request, steps) for request in requests])).to(device)
        temperature = torch.tensor([request.temperature for request in requests], device=device)
        top_p = _top_p(requests, device)
        token_ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        alive = set(range(len(prompts)))
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            for step in range(steps):
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask[:, : longest + step],
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                logits = output.logits[:, -1].float()
                if step == 0 and len(distinct) < len(prompts):
                    logits, mask, positions = logits[copies], mask[copies], positions[copies]
                    cache.batch_select_indices(copies)
                chosen, values = _choose(logits, temperature, top_p, uniforms[:, step])
                tokens, log_probabilities = chosen.tolist(), values.tolist()
                for row in list(alive):
                    token_ids[row].append(tokens[row])
                    logprobs[row].append(log_probabilities[row])
                    if on_token is not None:
                        on_token(row, tokens[row], log_probabilities[row])
                    if (
                        tokens[row] == eos
                        or len(token_ids[row]) == requests[row].max_tokens
                        or self._wrote_stop(token_ids[row], requests[row].stop)
                    ):
                        alive.discard(row)
                if not alive:
                    break
                ids, positions = chosen[:, None], positions[:, -1:] + 1
        return token_ids, logprobs

    def _wrote_stop(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        return bool(stop) and first_stop(self.text(tokens), stop) is not None


def first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the first of the stop texts begins; None if none occurs."""
    found = [position for one in stop if (position := text.find(one)) >= 0]
    return min(found) if found else None


def _top_p(requests: Sequence[ChatRequest], device: "torch.device") -> "torch.Tensor | None":
    """Shape ``(batch, 1)``; None where every request samples from the whole distribution."""
    import torch

    if all(request.top_p >= 1.0 for request in requests):
        return None
    return torch.tensor([[request.top_p] for request in requests], device=device)


def _stream(request: ChatRequest, steps: int) -> np.ndarray:
    """Uniform numbers for one request: a function of its seed alone, or fresh ones without a seed."""
    rng = np.random.default_rng(None if request.seed is None else [request.seed, 7])
    return rng.random(steps)


def _choose(
    logits: "torch.Tensor",
    temperature: "torch.Tensor",
    top_p: "torch.Tensor | None",
    uniform: "torch.Tensor",
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Inverse-transform sampling; returns chosen ids and their log-probabilities, each of shape
    ``(batch,)``.
    """
    import torch

    greedy = temperature < COLDEST
    scaled = logits / torch.where(greedy, torch.ones_like(temperature), temperature)[:, None]
    if top_p is not None:
        scaled = _keep_nucleus(scaled, top_p)
    log_probabilities = torch.log_softmax(scaled, dim=-1)
    cumulative = log_probabilities.double().exp().cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    sampled = (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)
    chosen = torch.where(greedy, logits.argmax(-1), sampled)
    return chosen, log_probabilities.gather(1, chosen[:, None])[:, 0]


def _keep_nucleus(logits: "torch.Tensor", top_p: "torch.Tensor") -> "torch.Tensor":
    """Logits without the tokens beyond the first ``top_p`` of the probability; the likeliest stays."""
    import torch

    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    beyond = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), float("-inf"))
