"""Error bursts: a model that fails where another one answers is taken back within seconds, not after a test.

A failure is a call that ended in an error of ours (status 500 and more) or that the fallback had to serve.
What fails for everybody is an outage, and no reason to change models.
"""

import math
from datetime import timedelta

import asyncpg
import msgspec

from babylon_rl.deployment.deploy import Deployment
from babylon_rl.deployment.rollout_rows import RolloutRow

LOOK_BACK = timedelta(minutes=5)
PROBATION = timedelta(hours=24)
"""How long after its deployment a version may be taken back by itself."""
FEWEST = 10
"""Failures before anything is called a burst."""
CANDIDATE_RATE, ACTIVE_RATE = 0.2, 0.5
CHANCE = 1e-4
"""Probability by chance, of the candidate's failures given everybody's, below which they are its own."""

_BY_ARM = """
SELECT variant, count(*)::int AS calls,
       count(*) FILTER (WHERE fallback OR status >= 500)::int AS failures
  FROM rl.llm_calls
 WHERE rollout_id = $1 AND started_at > now() - $2::interval GROUP BY variant
"""
_OF_ACTIVE = """
SELECT count(*)::int AS calls, count(*) FILTER (WHERE fallback OR status >= 500)::int AS failures,
       count(*) FILTER (WHERE fallback AND status < 400)::int AS rescued
  FROM rl.llm_calls
 WHERE variant = 'active' AND started_at > greatest(now() - $1::interval, $2::timestamptz)
   AND started_at > now() - interval '1 day'
"""
_BEFORE = """
SELECT count(*)::int AS calls, count(*) FILTER (WHERE status >= 500)::int AS failures
  FROM rl.llm_calls WHERE started_at BETWEEN $1::timestamptz - interval '30 minutes' AND $1
"""
_AGE = "SELECT now() - $1::timestamptz"


class Burst(msgspec.Struct, frozen=True):
    """Failures that are a model's own."""

    calls: int
    failures: int
    reason: str


async def candidate_burst(rl: asyncpg.Connection, row: RolloutRow) -> Burst | None:
    """A burst of the candidate of a running rollout, compared with its incumbent."""
    found = {one["variant"]: one for one in await rl.fetch(_BY_ARM, row.id, LOOK_BACK)}
    mine, theirs = found.get("candidate"), found.get("active")
    if mine is None:
        return None
    others = (theirs["calls"], theirs["failures"]) if theirs else (0, 0)
    if not is_burst((mine["calls"], mine["failures"]), others):
        return None
    reason = (
        f"error burst: {mine['failures']} of the candidate's last {mine['calls']} calls failed, "
        f"{others[1]} of the incumbent's {others[0]}"
    )
    return Burst(mine["calls"], mine["failures"], reason)


def is_burst(candidate: tuple[int, int], incumbent: tuple[int, int]) -> bool:
    """Whether a candidate's failures are many and its own, each as (calls, failures).

    Fisher's exact test, one-sided: failures spread over both at random would give the candidate this many or
    more with a probability below `CHANCE`. Without calls of the incumbent half of the calls must fail.
    """
    calls, failures = candidate
    if failures < FEWEST or failures < CANDIDATE_RATE * calls:
        return False
    if incumbent[0] < FEWEST:
        return failures >= ACTIVE_RATE * calls
    return _tail(failures, calls, failures + incumbent[1], calls + incumbent[0]) < CHANCE


async def active_burst(rl: asyncpg.Connection, active: Deployment) -> Burst | None:
    """A burst of a version that was deployed lately: the base answered for it, or all was well before it.

    A version that a rollback brought back is left alone, so that an outage cannot walk through the history.
    """
    age: timedelta = await rl.fetchval(_AGE, active.started_at)  # type: ignore[assignment]
    if active.cause == "rollback" or age > PROBATION:
        return None
    row = await rl.fetchrow(_OF_ACTIVE, LOOK_BACK, active.started_at)
    assert row is not None
    calls, failures = row["calls"], row["failures"]
    if failures < 2 * FEWEST or failures < ACTIVE_RATE * calls:
        return None
    if row["rescued"] < 0.8 * failures:
        before = await rl.fetchrow(_BEFORE, active.started_at)
        assert before is not None
        well = before["calls"] >= 2 * FEWEST and before["failures"] < 0.1 * before["calls"]
        if age > LOOK_BACK * 2 or not well:
            return None
    reason = f"error burst: {failures} of the last {calls} calls of {active.version} failed"
    return Burst(calls, failures, reason)


def _tail(hits: int, drawn: int, marked: int, total: int) -> float:
    """P(at least `hits` of `drawn` are marked), `marked` of `total` being so: the hypergeometric tail."""

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = log_choose(total, drawn)
    last = min(drawn, marked)
    terms = (
        log_choose(marked, k) + log_choose(total - marked, drawn - k) - whole
        for k in range(max(hits, drawn - (total - marked)), last + 1)
    )
    return math.fsum(map(math.exp, terms))
