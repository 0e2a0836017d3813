"""Version numbers of models: vMAJOR.MINOR.PATCH, compared as numbers."""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from babylon_rl.deployment.errors import InvalidVersionError

_PATTERN = re.compile(r"v?(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
_MODEL_ID_PREFIX = "babylon-agent-"


class Version(NamedTuple):
    """Compares as numbers: v0.0.10 is newer than v0.0.9."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"

    @property
    def model_id(self) -> str:
        """The name that the game and the gateway know it by."""
        return f"{_MODEL_ID_PREFIX}{self}"

    def next_patch(self) -> "Version":
        return self._replace(patch=self.patch + 1)


BASE = Version(0, 0, 0)
"""The base model, before any training."""


def parse_version(text: str) -> Version:
    """Reads `v0.0.3`, also as `0.0.3` or as the model id `babylon-agent-v0.0.3`.

    Raises:
        InvalidVersionError: Anything else.
    """
    match = _PATTERN.fullmatch(text.strip().removeprefix(_MODEL_ID_PREFIX))
    if match is None:
        raise InvalidVersionError(
            f"{text!r} is not a version", "Write it as v0.0.3; `babylon models` lists them."
        )
    return Version(*map(int, match.groups()))


def nearest(text: str, versions: Iterable[str], limit: int = 3) -> list[str]:
    """Registered versions that look like the text, best first; the newest ones when none does."""
    known = sorted(versions, key=parse_version, reverse=True)
    return difflib.get_close_matches(text, known, n=limit, cutoff=0.6) or known[:limit]
