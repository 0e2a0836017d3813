"""Control tokens inside recorded text, made harmless.

Market news, posts and users' prompts are other people's text. A chat template writes it between its own
markers, and a tokenizer reads `<|end|>` in it as the end of a turn: whoever can post could then write the
system's next message, and what is trained would be another conversation than the one that was shown. One
space takes the marker apart; serving and training do the same, so that a prompt has the same tokens in both.
"""

import re
from collections.abc import Iterable, Mapping

_CONTROL = re.compile(
    r"<(?=\|[^<>|]{1,64}\|>|/?s>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>|/?think>|\u2581|\uff5c)"
    r"|\[(?=/?INST\])"
)
"""Markers of ChatML, Llama, Mistral, Gemma, DeepSeek and of our tiny model."""


def neutralise(text: str) -> str:
    """The text without a control token; unchanged where there is none, and repeating it changes nothing."""
    return _CONTROL.sub(lambda found: f"{found.group()} ", text)


def neutral_messages(messages: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Chat messages as they are shown to a model: role and content, contents made harmless."""
    return [{"role": message["role"], "content": neutralise(message["content"])} for message in messages]
