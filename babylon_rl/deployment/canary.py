"""The canary of a deployment: does what is served differ from the base model, and is it what it says it is?

A checkpoint that was copied wrongly, an adapter that the server did not load, a name that points elsewhere:
all of them answer, like the base model or under another name. So the served model and the base answer the
same few prompts greedily, and their log-probabilities are compared.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from babylon_rl.deployment import registry, rollout_rows
from babylon_rl.deployment.deploy import current, rollback
from babylon_rl.deployment.errors import DeploymentError, NothingToRollBackError
from babylon_rl.policy.chat import Message
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import build_messages

log = logging.getLogger(__name__)

MAX_TOKENS = 12

_END = "UPDATE rl.deployments SET ended_at = now() WHERE id = $1 AND ended_at IS NULL"
_ARCHIVE = "UPDATE rl.models SET status = 'archived', archived_at = now() WHERE version = $1"
_RECORD = """
INSERT INTO rl.canaries (deployment_id, version, passed, reason, difference) VALUES ($1, $2, $3, $4, $5)
"""
_LATEST = """
SELECT passed FROM rl.canaries
 WHERE version = $1 AND deployment_id IS NOT NULL ORDER BY id DESC LIMIT 1
"""


class CanaryError(DeploymentError):
    """A deployed model is not what it should be, or that cannot be told."""


@dataclass(frozen=True)
class Probe:
    """One greedy answer."""

    claimed: str
    """What the answer says it comes from."""
    text: str
    logprobs: tuple[float, ...] | None
    """Of the answer's tokens; None where the server gives none."""


@dataclass(frozen=True)
class CanaryVerdict:
    """What the canary found."""

    passed: bool
    reason: str
    difference: float | None = None
    """Largest difference of a token's log-probability between the served model and the base, in nats, up to
    the first token where their answers part."""


def prompts() -> list[list[Message]]:
    """The questions: decisions of a trader, good and bad news mixed."""
    tickers = MarketSpec().tickers
    return [
        build_messages(
            [(ticker, HEADLINES[(start + i) % len(HEADLINES)]) for i, ticker in enumerate(tickers)], equity, 1
        )
        for start, equity in ((0, 1000.0), (1, 640.0), (2, 1900.0))
    ]


def judge(expected: str, served: Sequence[Probe], base: Sequence[Probe], tolerance: float) -> CanaryVerdict:
    """Compares the answers of a served model with those of the base.

    Args:
        expected: what the answers must say they come from.
        tolerance: nats by which equal models may differ (numerics of the server).
    """
    for probe in served:
        if probe.claimed != expected:
            return CanaryVerdict(
                False, f"it answers as {probe.claimed[:100]!r}, and should as {expected[:100]!r}"
            )
    if any(probe.logprobs is None for probe in (*served, *base)):
        return CanaryVerdict(
            False, "the server gives no log-probabilities, so the weights cannot be told apart"
        )
    difference = max(_difference(one, other) for one, other in zip(served, base, strict=True))
    if difference <= tolerance:
        return CanaryVerdict(
            False, f"it answers like the base model (difference {difference:.2g} nats)", difference
        )
    return CanaryVerdict(True, f"differs from the base model by up to {difference:.2g} nats", difference)


def _difference(one: Probe, other: Probe) -> float:
    pairs = list(zip(one.logprobs or (), other.logprobs or (), strict=False))
    largest = max((abs(a - b) for a, b in pairs), default=0.0)
    # Greedy answers of equal models are equal, whatever the numbers say.
    return largest if one.text == other.text else max(largest, 1.0)


async def record(
    rl: asyncpg.Connection, version: str, deployment_id: int | None, verdict: CanaryVerdict
) -> None:
    """Keeps a verdict in the history."""
    values = (deployment_id, version, verdict.passed, verdict.reason, verdict.difference)
    await rl.execute(_RECORD, *values)


async def latest(rl: asyncpg.Connection, version: str) -> bool | None:
    """Whether the version passed its last canary as a deployment; None before the first."""
    return await rl.fetchval(_LATEST, version)


async def fail_deployment(rl: asyncpg.Connection, deployment_id: int, reason: str) -> str | None:
    """Ends a deployment whose canary failed; the version before it serves again, or goes on where it was a
    rollout's candidate.

    Safe to call from several gateways: only the first one finds the deployment still current.

    Returns:
        The version that is deployed now; None where nothing was deployed before (the base model answers).
    """
    async with rl.transaction():
        await rl.execute(rollout_rows.LOCK)
        rollout = await rollout_rows.running(rl)
        failed = await current(rl)
        if rollout is not None and rollout.deployment_id == deployment_id:
            await rollout_rows.close(rl, rollout, "rolled_back", reason, "canary")
            return failed.version if failed else None
        if failed is None or failed.id != deployment_id:
            return failed.version if failed else None
        try:
            async with rl.transaction():
                return (await rollback(rl, None, reason=reason)).version
        except NothingToRollBackError:
            await rl.execute(_END, deployment_id)
            await rl.execute(_ARCHIVE, failed.version)
            return None


async def refused(rl: asyncpg.Connection, version: str) -> bool:
    """Whether the version's last canary failed, so that only a person should deploy it again."""
    return await latest(rl, (await registry.get(rl, version)).version) is False
