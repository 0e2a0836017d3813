"""What `babylon doctor` found: one line each, with the remedy where one is needed."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `note` (works, but know this) or `bad` (something will fail).
        subject: What was looked at.
        text: What was found, and the remedy where one is needed.
    """

    level: Level
    subject: str
    text: str
