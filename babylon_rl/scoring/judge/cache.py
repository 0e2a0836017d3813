"""Verdicts that were paid for: by a hash of everything they depend on, in PostgreSQL.

The key covers the views in the order in which they were shown, the ground truth, the rubric, the judge, its
host and parameters, and the versions of view and prompt. Names and marks of a request are random and not part
of it; nor are keys and ports.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from babylon_rl.scoring.judge.ledger import Ledger
from babylon_rl.scoring.judge.replies import EpisodeScore

_GET = "SELECT verdict FROM rl.judge_cache WHERE cache_key = $1"
# Whoever was first stays: two runs at the same time then go on with the same scores.
_PUT = """
INSERT INTO rl.judge_cache (cache_key, judge_model, verdict, input_tokens, output_tokens, cost_usd)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (cache_key) DO NOTHING
"""


class Verdict(msgspec.Struct):
    """The answer to one request: scores in the order of the bodies, or that there were too many of them."""

    scores: list[EpisodeScore]
    overflow: bool = False
    """The judge could not read so much at once; the group is split instead."""


def cache_key(parameters: dict[str, Any], truth: dict[str, Any], digests: Sequence[str]) -> str:
    """Returns the hash under which a verdict is kept.

    Args:
        parameters: Judge, rubric, versions: whatever else the answer depends on.
        truth: The ground truth as it is shown.
        digests: Of the bodies, in the order in which they are shown.
    """
    content = {"parameters": parameters, "truth": truth, "episodes": list(digests)}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class VerdictCache:
    """`rl.judge_cache` on the ledger's connection."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def get(self, key: str) -> Verdict | None:
        async with self._ledger.turn:
            stored = await self._ledger.connection.fetchval(_GET, key)
        return None if stored is None else msgspec.convert(stored, Verdict)

    async def put(
        self, key: str, judge_model: str, verdict: Verdict, tokens: tuple[int, int], cost_usd: float
    ) -> Verdict:
        """Keeps a verdict and returns the one that is kept."""
        async with self._ledger.turn:
            await self._ledger.connection.execute(
                _PUT, key, judge_model, msgspec.to_builtins(verdict), *tokens, cost_usd
            )
            stored = await self._ledger.connection.fetchval(_GET, key)
        return msgspec.convert(stored, Verdict)
