"""From which checkpoint the next training starts.

When every day starts from yesterday's checkpoint, whatever the gate says of it, the parent drifts from the
served policy, and one collapsed day poisons all later ones. So a rejected checkpoint is passed over, and with
it what was trained from it and has not been judged itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import asyncpg

from babylon_rl.deployment.errors import UnknownVersionError
from babylon_rl.deployment.registry import USABLE, ModelRecord, active, get, list_models
from babylon_rl.deployment.versions import BASE

_TRAINED_DAYS = "SELECT day, unit_key FROM rl.trained_days WHERE version IS NOT NULL"
_PARENT_OF_DAY = """
SELECT unit.parent_version FROM rl.trained_days AS trained
  JOIN rl.training_units AS unit USING (unit_key) WHERE trained.day = $1 AND trained.version IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class ParentChoice:
    """The checkpoint to start from, and why, for the manifest."""

    model: ModelRecord
    reason: str


async def newest_not_rejected(rl: asyncpg.Connection, *, before: date | None = None) -> ModelRecord | None:
    """The newest checkpoint of the live chain that is whole and not rejected, None when there is none.

    Side branches (a window trained alone, a retraining, a day's second unit) do not count, nor does the base
    model.

    Args:
        before: Only checkpoints of earlier days, so that a repeated day does not start from its own result.
    """
    models = await list_models(rl)
    by_version = {model.version: model for model in models}
    live = {row["day"]: row["unit_key"] for row in await rl.fetch(_TRAINED_DAYS)}
    for model in models:
        if model.is_base or model.branch is not None or model.status not in USABLE:
            continue
        if before is not None and model.day is not None and model.day >= before:
            continue
        if model.day in live and model.unit_key != live[model.day]:
            continue
        if not _descends_from_rejected(model, by_version):
            return model
    return None


async def parent_for_training(rl: asyncpg.Connection, day: date | None = None) -> ParentChoice:
    """The parent of a day's training: newest checkpoint not rejected, else incumbent, else base model.

    A day that was trained before gets the parent that it had, so that repeating it finds the same unit.

    Raises:
        UnknownVersionError: Not even the base model is registered.
    """
    if day is not None:
        recorded = await rl.fetchval(_PARENT_OF_DAY, day)
        if recorded is not None:
            return ParentChoice(await get(rl, recorded), f"{day} was trained from it")
    newest = await newest_not_rejected(rl, before=day)
    if newest is not None:
        return ParentChoice(newest, f"newest checkpoint not rejected ({newest.verdict or 'not judged yet'})")
    incumbent = await active(rl)
    if incumbent is not None and incumbent.verdict != "rejected" and _is_earlier(incumbent, day):
        return ParentChoice(incumbent, "incumbent: every newer checkpoint was rejected")
    try:
        return ParentChoice(await get(rl, str(BASE)), "base model: no usable checkpoint of an earlier day")
    except UnknownVersionError as missing:
        raise UnknownVersionError(missing.problem, "Register the base model first (`ensure_base`).") from None


async def ancestors(rl: asyncpg.Connection, version: str) -> Sequence[ModelRecord]:
    """The model, its parent, and so on down to the base model."""
    by_version = {model.version: model for model in await list_models(rl)}
    chain = [await get(rl, version)]
    while (parent := by_version.get(chain[-1].parent_version or "")) is not None:
        chain.append(parent)
    return chain


def _is_earlier(model: ModelRecord, day: date | None) -> bool:
    """Whether a model may be a day's parent: of the live chain, and of no later day."""
    return model.branch is None and (day is None or model.day is None or model.day < day)


def _descends_from_rejected(model: ModelRecord, by_version: Mapping[str, ModelRecord]) -> bool:
    """Walks up to the first ancestor that the gate has judged; a parent is always older than its child."""
    current: ModelRecord | None = model
    while current is not None:
        if current.verdict is not None:
            return current.verdict == "rejected"
        current = by_version.get(current.parent_version or "")
    return False
