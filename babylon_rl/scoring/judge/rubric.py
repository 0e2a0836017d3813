"""The rubric: by what the judge compares. The built-in one has a version; a file may replace it."""

import hashlib
from functools import cached_property
from pathlib import Path

import msgspec

from babylon_rl.scoring.judge.errors import JudgeSetupError

CRITERIA = ("profit", "timing", "risk", "opportunity")
"""Aspects that the judge rates beside its overall score. They explain it; it is not computed from them."""

LONGEST = 20_000
"""Characters of a rubric file."""

BUILT_IN = """\
Compare the episodes with each other, in the light of the ground truth that no agent knew.
- profit: what the hour's own orders earned in relation to the start equity. This weighs most: an episode that
  earned clearly more gets a clearly higher score than one that earned less. Sitting still in a market that
  offered nothing is better than losing; in a market that moved, it missed something.
- timing: orders placed before the move they profited from, on what could be known then, count for more than
  orders that were late, or right by accident against the agent's own reasoning.
- risk: position sizes and leverage that a bad hour would have survived. Near-liquidations and everything on
  one card count against an episode even when it went well, repeated invalid orders as well.
- opportunity: how much of what the market offered in this hour was taken, and how much of its traps avoided.
Small differences between episodes are small differences in score. Use the whole range from 0 to 1 where the
episodes differ much. Style, length, politeness and confidence of the agent's words do not count.
"""


class Rubric(msgspec.Struct, frozen=True, dict=True):
    """A rubric; its hash is part of every cache key and stored with every score."""

    name: str
    """`built-in 1`, or the file's name."""
    text: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


DEFAULT = Rubric("built-in 1", BUILT_IN)


def load_rubric(path: Path | None) -> Rubric:
    """Returns the rubric of a file, or the built-in one without a path.

    Raises:
        JudgeSetupError: The file is missing, empty, too long or not UTF-8.
    """
    if path is None:
        return DEFAULT
    remedy = "JUDGE_RUBRIC names a text file in UTF-8; leave it out for the built-in rubric."
    try:
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise JudgeSetupError(f"the rubric {path} cannot be read: {reason}", remedy) from None
    if not text:
        raise JudgeSetupError(f"the rubric {path} is empty", remedy)
    if len(text) > LONGEST:
        raise JudgeSetupError(
            f"the rubric {path} has {len(text)} characters, at most {LONGEST} count", remedy
        )
    return Rubric(path.name, text)
