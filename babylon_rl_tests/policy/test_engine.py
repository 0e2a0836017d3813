"""The embedded engine against a plain forward pass of the same weights."""

from pathlib import Path

import numpy as np
import pytest

from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.engine import MAX_BATCH, EmbeddedEngine
from babylon_rl.policy.errors import PromptTooLongError
from babylon_rl.simulation.trader import build_messages

LONG = build_messages(
    [("AURUM", "surge"), ("BOREAL", "quiet"), ("COBALT", "crash"), ("DYNAMO", "quiet")], 980, 2
)
MEDIUM = build_messages([("AURUM", "bearish")], 1000, 0)
SHORT = [{"role": "user", "content": "x"}]
PROMPTS = (LONG, MEDIUM, SHORT)


def reference(engine: EmbeddedEngine, answer: ChatAnswer, temperature: float) -> list[float]:
    """Log-probabilities of the answer's tokens by one forward pass without cache, padding or batch."""
    import torch

    ids = torch.tensor([answer.prompt_token_ids + answer.token_ids])
    with torch.inference_mode():
        logits = engine.model(input_ids=ids).logits[0].double() / temperature
    values = torch.log_softmax(logits, dim=-1)
    first = len(answer.prompt_token_ids) - 1
    return [float(values[first + i, token]) for i, token in enumerate(answer.token_ids)]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_log_probabilities_are_those_of_a_plain_forward_pass(
    base_engine: EmbeddedEngine, temperature: float
) -> None:
    requests = [ChatRequest(PROMPTS[i % 3], temperature, 4 + i % 9, seed=i) for i in range(48)]
    answers = base_engine.sample(requests)
    assert len({len(answer.prompt_token_ids) for answer in answers}) == 3
    for answer in answers:
        assert answer.logprobs == pytest.approx(reference(base_engine, answer, temperature), abs=1e-4)


def test_prompt_tokens_are_the_chat_templates(base_engine: EmbeddedEngine) -> None:
    [answer] = base_engine.sample([ChatRequest(MEDIUM)])
    system, user = (message["content"] for message in MEDIUM)
    text = f"<|system|>{system}<|end|><|user|>{user}<|end|><|assistant|>"
    assert base_engine.tokenizer.decode(answer.prompt_token_ids) == text


def test_a_seed_gives_the_same_answer_alone_and_among_others(base_engine: EmbeddedEngine) -> None:
    requests = [ChatRequest(PROMPTS[i % 3], 1.0, 3 + i % 10, seed=1000 + i) for i in range(40)]
    together = base_engine.sample(requests)
    backwards = base_engine.sample(requests[::-1])[::-1]
    for request, one, other in zip(requests, together, backwards, strict=True):
        [alone] = base_engine.sample([request])
        assert one.token_ids == other.token_ids == alone.token_ids
        assert one.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert len({tuple(answer.token_ids) for answer in together}) > 20, "different seeds, different answers"


def test_a_longer_limit_continues_the_same_answer(base_engine: EmbeddedEngine) -> None:
    [cut], [whole] = (base_engine.sample([ChatRequest(LONG, 1.0, limit, seed=3)]) for limit in (2, 12))
    assert cut.finish_reason == "length" and len(cut.token_ids) == 2
    assert whole.finish_reason == "stop" and whole.token_ids[:2] == cut.token_ids


def test_without_a_seed_answers_differ(base_engine: EmbeddedEngine) -> None:
    answers = base_engine.sample([ChatRequest(LONG)] * 32)
    assert len({answer.content for answer in answers}) > 4
    assert len({answer.response_id for answer in answers}) == 32


def test_sampling_follows_the_models_distribution(base_engine: EmbeddedEngine) -> None:
    """First tokens of 2000 answers against the softmax, by a chi-square test."""
    import torch
    from scipy.stats import chisquare

    answers = base_engine.sample([ChatRequest(LONG, 1.3, 1, seed=i) for i in range(2000)])
    with torch.inference_mode():
        logits = base_engine.model(input_ids=torch.tensor([answers[0].prompt_token_ids])).logits[0, -1]
    expected = 2000 * torch.softmax(logits.double() / 1.3, -1).numpy()
    counts = np.bincount([answer.token_ids[0] for answer in answers], minlength=expected.size)
    common = expected >= 5
    observed = [*counts[common], counts[~common].sum()]
    assert chisquare(observed, [*expected[common], expected[~common].sum()]).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 1e-40])
def test_zero_temperature_takes_the_most_likely_token(
    base_engine: EmbeddedEngine, temperature: float
) -> None:
    import torch

    answers = base_engine.sample([ChatRequest(LONG, temperature, seed=i) for i in range(3)])
    assert len({answer.content for answer in answers}) == 1
    ids = torch.tensor([answers[0].prompt_token_ids + answers[0].token_ids])
    with torch.inference_mode():
        best = base_engine.model(input_ids=ids).logits[0].argmax(-1).tolist()
    first = len(answers[0].prompt_token_ids) - 1
    assert answers[0].token_ids == best[first : first + len(answers[0].token_ids)]
    assert np.isfinite(answers[0].logprobs).all()


def test_a_batch_may_mix_temperatures_and_limits(base_engine: EmbeddedEngine) -> None:
    cold, hot, brief = base_engine.sample(
        [ChatRequest(LONG, 0.0, 12), ChatRequest(MEDIUM, 1.0, 12, seed=5), ChatRequest(LONG, 1.0, 1, seed=6)]
    )
    assert cold.content == base_engine.sample([ChatRequest(LONG, 0.0, 12)])[0].content
    assert hot.logprobs == pytest.approx(reference(base_engine, hot, 1.0), abs=1e-4)
    assert len(brief.token_ids) == 1


def test_tokens_decode_to_the_content(base_engine: EmbeddedEngine) -> None:
    answers = base_engine.sample([ChatRequest(LONG, 1.0, 3 + i % 10, seed=i) for i in range(64)])
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    end = base_engine.tokenizer.eos_token_id
    for answer in answers:
        assert len(answer.logprobs) == len(answer.token_ids)
        if answer.finish_reason == "stop":
            assert answer.token_ids[-1] == end
        spoken = [token for token in answer.token_ids if token != end]
        assert len(spoken) == len(answer.token_ids) - (answer.finish_reason == "stop"), "one end, at the end"
        assert base_engine.tokenizer.decode(spoken) == answer.content
        assert answer.policy_version == "v0.0.0"


def test_more_requests_than_a_batch_holds_keep_their_order(base_engine: EmbeddedEngine) -> None:
    requests = [ChatRequest(PROMPTS[i % 3], 1.0, 4, seed=i) for i in range(MAX_BATCH + 5)]
    answers = base_engine.sample(requests)
    [last] = base_engine.sample(requests[-1:])
    assert len(answers) == len(requests) and answers[-1].token_ids == last.token_ids
    assert base_engine.sample([]) == []


def test_a_prompt_that_does_not_fit_is_refused(base_engine: EmbeddedEngine) -> None:
    context = base_engine.context_length
    words = [{"role": "user", "content": "AURUM crash\n" * context}]
    with pytest.raises(PromptTooLongError, match=rf"context is {context} tokens\. Shorten the messages"):
        base_engine.sample([ChatRequest(words)])
    fits = context - len(base_engine.encode(ChatRequest(SHORT)))
    assert base_engine.encode(ChatRequest(SHORT, max_tokens=fits))
    with pytest.raises(PromptTooLongError):
        base_engine.encode(ChatRequest(SHORT, max_tokens=fits + 1))


def test_answers_name_the_template_they_were_made_with(
    base_engine: EmbeddedEngine, base_checkpoint: Path
) -> None:
    [answer] = base_engine.sample([ChatRequest(SHORT)])
    assert answer.chat_template_hash == EmbeddedEngine.load(base_checkpoint, "v9.9.9").chat_template_hash
    assert len(answer.chat_template_hash) == 16
