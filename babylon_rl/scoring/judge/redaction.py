"""What must not leave for a judge: secrets, and what players wrote to each other in private.

    redactor = Redactor(secrets=known_secrets(settings), private=private_texts(episodes))
    redactor.text("my key is sk-…")     # "my key is [secret]"

Secrets are found by their shape, by the name in front of them, and by value where they are settings of ours.
Direct messages are left out where they are recorded; quotations of five words or more are found wherever an
agent repeats them.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from pydantic import SecretStr

from babylon_rl.records.steps import Step
from babylon_rl.settings import Settings

SECRET, PRIVATE, MAIL = "[secret]", "[direct message]", "[e-mail]"

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\b(?:gh[opsur]|glpat|npm|hf|gsk|xai)[-_][A-Za-z0-9_-]{16,}"
    r"|\bgithub_pat_\w{20,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|\b0x[0-9a-fA-F]{64}\b"
    r"|(?<=\bBearer )\s*[A-Za-z0-9._~+/=-]{8,}",
    re.DOTALL,
)
_NAMED = re.compile(
    r"((?:api[_ -]?key|secret|access[_ -]?token|auth[_ -]?token|password|passwd|private[_ -]?key|mnemonic"
    r"|seed[_ -]?phrase)\w*[\"']?\s*(?:[:=]|\bis\b)\s*[\"']?)([^\s\"',;}{]{4,})",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE)
_MAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,4}\b")
_SECRET_NAME = re.compile(
    r"key$|secret|token$|password|passwd|mnemonic|seed_?phrase|credential", re.IGNORECASE
)
_PRIVATE_NAME = re.compile(r"(?:^|_)(?:dms?|inbox|whisper|chats?|messages?|messaging)(?:_|$)")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s-]+")
_WORD = re.compile(r"\w+")

QUOTED_WORDS = 5
"""So many words of a direct message in a row count as a quotation."""
SHORTEST_SECRET = 6


def known_secrets(settings: Settings) -> list[str]:
    """Returns the values of all secret settings, to be removed wherever they occur."""
    values = [getattr(settings, name) for name in type(settings).model_fields]
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


@lru_cache(4096)
def is_private(name: str) -> bool:
    """Whether an action or a provider of this name deals with messages between players."""
    return _PRIVATE_NAME.search(_HUMP.sub("_", name).lower()) is not None


@lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a secret."""
    return _SECRET_NAME.search(name) is not None


def private_texts(steps: Iterable[Step]) -> Iterator[str]:
    """Yields everything in recorded steps that players wrote to each other in private."""
    for step in steps:
        yield from _texts(step.environment_state.unread_messages)
        for access in step.provider_accesses:
            if is_private(access.provider_name):
                yield from _texts(access.data)
        if is_private(step.action.action_type):
            yield from _texts(step.action.parameters)
            yield from _texts(step.action.result)


class Redactor:
    """Removes secrets and quotations of private texts.

    Args:
        secrets: Values that must not occur anywhere; short ones are ignored.
        private: Texts of which no part may be quoted.
    """

    def __init__(self, secrets: Iterable[str] = (), private: Iterable[str] = ()) -> None:
        values = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, values))) if values else None
        self._quotations: set[tuple[str, ...]] = set()
        for text in private:
            words = _words(text)
            self._quotations |= {
                tuple(words[i : i + QUOTED_WORDS]) for i in range(len(words) - QUOTED_WORDS + 1)
            }

    def text(self, text: str) -> str:
        """Returns a text without what must not leave."""
        if len(text) < SHORTEST_SECRET:
            return text
        if self._quotations:
            text = self._without_quotations(text)
        if self._values is not None:
            text = self._values.sub(SECRET, text)
        text = _SHAPES.sub(SECRET, text)
        text = _NAMED.sub(rf"\1{SECRET}", text)
        text = _ADDRESS.sub(rf"\1{SECRET}@", text)
        return _MAIL.sub(MAIL, text)

    def _without_quotations(self, text: str) -> str:
        found = list(_WORD.finditer(text))
        words = [match.group().lower() for match in found]
        parts, done, i = [], 0, 0
        while i + QUOTED_WORDS <= len(words):
            if tuple(words[i : i + QUOTED_WORDS]) not in self._quotations:
                i += 1
                continue
            last = i + QUOTED_WORDS
            while last < len(words) and tuple(words[last - QUOTED_WORDS + 1 : last + 1]) in self._quotations:
                last += 1
            parts += [text[done : found[i].start()], PRIVATE]
            done, i = found[last - 1].end(), last
        return "".join([*parts, text[done:]])


def _words(text: str) -> list[str]:
    return [match.group().lower() for match in _WORD.finditer(text)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
