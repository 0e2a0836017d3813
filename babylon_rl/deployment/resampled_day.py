"""The batch of a day under `GROUPING=resample`: asked for once, whoever asks and however often.

    batch = await resampled_batch(db, store, settings, day, rules, report)

Runs over the same day wait for each other. A day that has been trained keeps its batch, and a batch that was
made with the same prompts, parent and settings is found again. Where a server answers, the estimate is
reported before the first request, `RESAMPLE_DAILY_BUDGET_USD` refuses, and a run that died left its answers
behind (`paid_answers`).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg

from babylon_rl.database.connection import Databases
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.lineage import parent_for_training
from babylon_rl.deployment.paid_answers import PaidPolicy
from babylon_rl.deployment.resampling import DayPrompts, ResampleRules, build_resampled, day_prompts, key_of
from babylon_rl.policy.chat import Policy
from babylon_rl.records.store import ArtifactStore
from babylon_rl.serving.target_policy import TargetPolicy, open_policy
from babylon_rl.settings import Settings
from babylon_rl.training.backends import choose_backend
from babylon_rl.training.batch import BatchRules, TrainingBatch, load_batch
from babylon_rl.training.batch_records import frozen_batch
from babylon_rl.training.costs import read_prices
from babylon_rl.training.resample import plan
from babylon_rl.windows import parse_day

_TURN = "SELECT pg_advisory_lock(hashtext('babylon_rl'), hashtext('resample ' || $1::text))"
_NEXT = "SELECT pg_advisory_unlock(hashtext('babylon_rl'), hashtext('resample ' || $1::text))"
_ASKED = """
UPDATE rl.training_batches SET created_at = now()
 WHERE batch_sha256 = (SELECT batch_sha256 FROM rl.training_batches
                        WHERE day = $1::text::date AND config ->> 'resample_key' = $2
                        ORDER BY created_at DESC LIMIT 1)
RETURNING uri
"""


async def resampled_batch(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    day: str,
    needed: BatchRules,
    report: Callable[[str], None],
) -> TrainingBatch:
    """The day's batch of same-prompt groups; what was asked before is not asked again.

    Args:
        report: Receives what will be asked and what it will cost, before it is.

    Raises:
        AnswerBudgetError: A server's answers could cost more than is left of the day's budget.
        PolicyError: The parent does not answer.
    """
    rules = ResampleRules(
        prompts=settings.resample_prompts,
        answers=settings.resample_answers,
        horizon=settings.training_horizon,
        invalid_penalty=settings.invalid_action_penalty,
    )
    async with _turn(db.rl, day):
        if (frozen := await frozen_batch(db.rl, parse_day(day))) is not None:
            return load_batch(store, frozen["uri"])[0]
        await ensure_base(db.rl, settings, backend=choose_backend(settings).name)
        parent = (await parent_for_training(db.rl, parse_day(day))).model
        found = await day_prompts(db, day, rules)
        known = await find_batch(db.rl, store, day, key_of(parent.version, found, rules, needed))
        if known is not None:
            return known
        async with open_policy(settings, parent) as policy:
            asked = await _accounted(policy, db.rl, settings, found, rules, report)
            return await build_resampled(db, store, day, asked, found, rules, needed)


async def find_batch(
    rl: asyncpg.Connection, store: ArtifactStore, day: str, key: str
) -> TrainingBatch | None:
    """The batch that was made with this key; it becomes the newest of its day, which is what is trained."""
    uri = await rl.fetchval(_ASKED, day, key)
    return None if uri is None else load_batch(store, uri)[0]


async def _accounted(
    policy: Policy,
    rl: asyncpg.Connection,
    settings: Settings,
    found: DayPrompts,
    rules: ResampleRules,
    report: Callable[[str], None],
) -> Policy:
    """The policy as it is asked: a server's answers are estimated, limited and kept."""
    report(
        f"{policy.version} answers {len(found.decisions)} prompts of {found.windows} windows "
        f"{rules.answers} times each"
    )
    if not isinstance(policy, TargetPolicy) or found.leaks:
        return policy
    requests = plan(found.prompts, rules.answers, seed=rules.seed)
    prices, budget = read_prices(settings.price_table), settings.resample_daily_budget_usd
    paid = await PaidPolicy.open(policy, rl, requests, prices, budget)
    report(f"{policy.version}: {paid.estimate}")
    await paid.require_budget()
    return paid


@asynccontextmanager
async def _turn(rl: asyncpg.Connection, day: str) -> AsyncIterator[None]:
    """Alone with the day; a connection that is lost gives its turn back."""
    await rl.execute(_TURN, day)
    try:
        yield
    finally:
        if not rl.is_closed():
            await rl.execute(_NEXT, day)
