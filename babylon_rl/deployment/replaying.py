"""Decision replay of registered models: which recorded prompts may judge them, what it costs, what came out.

Held out is what lies at least `EMBARGO` after the newest window that either model, or anything it grew from,
was trained on, and whose orders have matured. The sample follows from the versions, so nobody chose it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from babylon_rl.benchmark.replay import (
    Answered,
    NothingToReplayError,
    RecordedDecision,
    Replay,
    ask,
    compare,
)
from babylon_rl.database.connection import Databases
from babylon_rl.deployment.lineage import ancestors
from babylon_rl.deployment.recorded_prompts import recorded_decisions, settle_answers
from babylon_rl.deployment.verdicts import record_benchmark
from babylon_rl.outcomes.pricing import read_clock
from babylon_rl.policy.chat import Policy
from babylon_rl.training.costs import PriceTable
from babylon_rl.windows import window_range

EMBARGO = timedelta(hours=72)
DECISIONS = 2000

_TRAINED_UNTIL = "SELECT max(window_id) FROM rl.trained_windows WHERE version = ANY($1::text[])"
_RECORDED = """
SELECT window_id FROM rl.window_rows WHERE excluded IS NULL AND window_id > $1
 GROUP BY window_id ORDER BY window_id
"""


@dataclass(frozen=True)
class Material:
    """The decisions of a replay."""

    key: str
    """Hash of the decisions' ids; two replays with one key saw the same prompts."""
    decisions: Sequence[RecordedDecision] = field(repr=False)
    windows: int
    trained_until: str | None
    """Newest window that either model was trained on."""


@dataclass(frozen=True)
class Estimate:
    """What a replay will use, before anything is asked."""

    decisions: int
    answers: int
    prompt_tokens: int
    answer_tokens: int
    """At most."""
    dollars: float
    """For answers of a hosted model; embedded ones cost nothing."""

    def __str__(self) -> str:
        return (
            f"{self.decisions} recorded decisions, {self.answers} answers, about {self.prompt_tokens:,} "
            f"prompt tokens and at most {self.answer_tokens:,} answer tokens, ${self.dollars:,.2f} by the "
            "price table"
        )


async def held_out_decisions(
    db: Databases,
    versions: Sequence[str],
    *,
    limit: int = DECISIONS,
    embargo: timedelta = EMBARGO,
    horizon: timedelta = timedelta(hours=1),
    now: datetime | None = None,
    salt: str = "",
) -> Material:
    """Samples recorded decisions that none of the versions was trained on, evenly over the windows.

    Args:
        salt: Another one gives another sample; only measurements of the replay itself use it.

    Raises:
        UnknownVersionError: A version is not registered.
        NothingToReplayError: There is none; the remedy says from when on there will be.
    """
    family = {model.version for version in versions for model in await ancestors(db.rl, version)}
    trained_until = await db.rl.fetchval(_TRAINED_UNTIL, sorted(family))
    clock = await read_clock(db.game, now)
    free_from = window_range(trained_until)[1] + embargo if trained_until else None
    recorded = [row["window_id"] for row in await db.rl.fetch(_RECORDED, trained_until or "")]
    window_ids = [
        window_id
        for window_id in recorded
        if (free_from is None or window_range(window_id)[0] >= free_from)
        and clock.has_passed(window_range(window_id)[1] + horizon)
    ]
    if not window_ids:
        since = f" and start at {free_from:%Y-%m-%d %H:%M} UTC or later" if free_from else ""
        raise NothingToReplayError(
            f"no recorded window may judge {' and '.join(versions)}",
            f"Windows must have matured ({horizon} after their end){since}; {len(recorded)} later ones are "
            "recorded.",
        )
    salt = "/".join([*sorted(versions), salt] if salt else sorted(versions))
    per_window = -(-limit // len(window_ids))
    chosen: list[RecordedDecision] = []
    for window_id in window_ids:
        found = await recorded_decisions(db, window_id)
        chosen += sorted(found, key=lambda one: _rank(salt, one.id))[:per_window]
    chosen = sorted(
        sorted(chosen, key=lambda one: _rank(salt, one.id))[:limit], key=lambda one: (one.at, one.id)
    )
    if not chosen:
        raise NothingToReplayError(
            f"the {len(window_ids)} held-out windows hold no decision of a language model",
            "Record llmCalls with their steps (`docs/data.md`).",
        )
    key = hashlib.sha256("\n".join(one.id for one in chosen).encode()).hexdigest()
    return Material(key, chosen, len(window_ids), trained_until)


def estimate(material: Material, prices: PriceTable, hosted: int) -> Estimate:
    """What two policies' answers will use; `hosted` of them are paid per answer."""
    asked = len(material.decisions)
    read = sum(one.tokens for one in material.decisions)
    written = sum(one.max_tokens for one in material.decisions)
    return Estimate(
        decisions=asked,
        answers=2 * asked,
        prompt_tokens=2 * read,
        answer_tokens=2 * written,
        dollars=hosted * prices.answers(asked, read, written),
    )


async def replay(
    db: Databases,
    material: Material,
    candidate: Policy,
    incumbent: Policy,
    *,
    horizon: str = "1h",
    alpha: float = 0.05,
    now: datetime | None = None,
    on_progress: Callable[[int], None] | None = None,
    store: bool = True,
) -> Replay:
    """Asks both policies, prices both orders of every decision, and compares them pairwise.

    Args:
        horizon: `1h` or `24h`; predictions count at the same one.
        on_progress: Called with the number of answers since the last call.
        store: Whether the result becomes a row of `rl.benchmarks` (purpose `replay`).
    """
    answers = {p.version: await ask(p, material.decisions, on_progress) for p in (candidate, incumbent)}
    usable = [
        index
        for index in range(len(material.decisions))
        if all(answers[version][index] is not None for version in answers)
    ]
    decisions = [material.decisions[index] for index in usable]
    answered: dict[str, list[Answered]] = {}
    for version, given in answers.items():
        usable_answers = [given[index] for index in usable]
        answered[version] = await settle_answers(db.game, decisions, usable_answers, horizon=horizon, now=now)
    found = compare(
        decisions,
        answered,
        candidate.version,
        incumbent.version,
        unanswerable=len(material.decisions) - len(usable),
        horizon=horizon,
        alpha=alpha,
    )
    if store:
        await _store(db.rl, material, found, horizon)
    return found


async def _store(rl: asyncpg.Connection, material: Material, found: Replay, horizon: str) -> None:
    low, high = found.difference.low, found.difference.high
    await record_benchmark(
        rl,
        version=found.candidate.version,
        incumbent=found.incumbent.version,
        purpose="replay",
        seed_key=f"replay:{found.incumbent.version}:{horizon}:{material.key}",
        windows=material.windows,
        metrics={"replay": found.to_dict(), "trained_until": material.trained_until},
        reason=(
            f"{found.finding.capitalize()}: {found.difference.mean:+.5f} of equity per decision "
            f"[{low:+.5f}, {high:+.5f}] over {found.decisions} recorded decisions in {found.blocks} blocks, "
            f"minimum detectable effect {found.difference.minimum_detectable_effect():.5f}"
        ),
    )


def _rank(salt: str, name: str) -> str:
    return hashlib.sha256(f"{salt}/{name}".encode()).hexdigest()
