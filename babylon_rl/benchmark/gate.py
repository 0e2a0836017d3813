"""The gate: may a candidate take the incumbent's place? A pure decision over measured intervals.

- `promoted`: the lower end of candidate minus incumbent lies above the threshold, and the candidate makes no
  notably larger share of invalid actions.
- `rejected`: the upper end lies below zero, or the candidate mostly fails to answer in the agreed form. A
  rejected checkpoint is not trained further.
- `inconclusive`: everything else. It is not deployed, but the next day's training may start from it.

Every verdict says n, the interval and the minimum detectable effect, so that "inconclusive" can be told from
"no effect".
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from babylon_rl.benchmark.statistics import Interval
from babylon_rl.errors import BabylonError

Decision = Literal["promoted", "inconclusive", "rejected"]

TOLERATED_INVALID_RATE = 0.05
"""A share of invalid actions up to this never stands in the way of a promotion."""

TOLERATED_INVALID_GROWTH = 0.02
"""Above it, the candidate may exceed the incumbent by two points."""

INVALID_RATE_LIMIT = 0.20
"""Beyond this share, and worse than the incumbent, a candidate has lost the format and is rejected."""


class GateInputError(BabylonError):
    """What the gate was given cannot be judged: a rate outside [0, 1] or an interval that is not finite."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate decided, and on what.

    Attributes:
        decision: `promoted`, `inconclusive` or `rejected`.
        reason: One sentence with n, interval and minimum detectable effect, for a person.
        incumbent: Version that the candidate was compared with.
        difference: Candidate minus incumbent, return on start equity per window, at the alpha it was allowed.
        minimum_detectable_effect: True difference that these markets would have shown with power 0.8.
        threshold: What the lower end had to exceed.
        invalid_rate: Candidate's share of invalid actions.
        incumbent_invalid_rate: Incumbent's.
        over_base: Candidate minus base model, where it was played; reported, not decided on.
    """

    decision: Decision
    reason: str
    incumbent: str
    difference: Interval
    minimum_detectable_effect: float
    threshold: float
    invalid_rate: float
    incumbent_invalid_rate: float
    over_base: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `rl.benchmarks.metrics` and `trained_models.evalMetrics`."""
        return asdict(self)


def decide(
    difference: Interval,
    *,
    invalid_rate: float,
    incumbent_invalid_rate: float,
    incumbent: str = "the incumbent",
    over_base: Interval | None = None,
    threshold: float = 0.0,
    invalid_rate_limit: float = INVALID_RATE_LIMIT,
    power: float = 0.8,
) -> Verdict:
    """Judge a candidate by its paired difference to the incumbent on the same held-out markets.

    Args:
        difference: Candidate minus incumbent, already at the alpha that this candidate may spend
            (`statistics.alpha_for`).
        invalid_rate: Candidate's share of invalid actions, 0 to 1.
        incumbent_invalid_rate: The incumbent's on the same markets.
        incumbent: Its version, for the sentence.
        over_base: Candidate minus base model, for the report.
        threshold: Return on start equity per window that the lower end must exceed.
        invalid_rate_limit: See `INVALID_RATE_LIMIT`.
        power: Power of the minimum detectable effect.

    Raises:
        GateInputError: A rate outside [0, 1], or ends that are not finite.
    """
    for name, rate in (("candidate", invalid_rate), ("incumbent", incumbent_invalid_rate)):
        if not 0.0 <= rate <= 1.0:
            raise GateInputError(f"the {name}'s invalid-action rate is {rate}, not a share between 0 and 1")
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        raise GateInputError(f"the interval {difference} is not finite", "Run the benchmark again.")

    allowed = max(TOLERATED_INVALID_RATE, incumbent_invalid_rate + TOLERATED_INVALID_GROWTH)
    invalid = f"invalid actions {invalid_rate:.1%} against {incumbent_invalid_rate:.1%}"
    if difference.high < 0.0:
        decision, because = "rejected", f"it earns less than {incumbent}: the whole interval lies below zero"
    elif invalid_rate > invalid_rate_limit and invalid_rate > incumbent_invalid_rate:
        decision, because = (
            "rejected",
            f"it loses the answer format: {invalid}, limit {invalid_rate_limit:.0%}",
        )
    elif difference.low > threshold and invalid_rate <= allowed:
        decision, because = "promoted", f"it earns more than {incumbent}, {invalid}"
    elif difference.low > threshold:
        decision = "inconclusive"
        because = (
            f"it earns more than {incumbent} but answers worse: {invalid}, at most {allowed:.1%} allowed"
        )
    else:
        decision = "inconclusive"
        because = (
            f"the interval's lower end is not above {threshold:+.4g}, so chance may explain the difference"
        )
        because += f" to {incumbent}"
    detectable = difference.minimum_detectable_effect(power)
    reason = (
        f"{decision.capitalize()}: {because}; difference {difference.mean:+.4f} per window "
        f"[{difference.low:+.4f}, {difference.high:+.4f}] at alpha {difference.alpha:.3g} over n = "
        f"{difference.n} markets, minimum detectable effect {detectable:.4f}"
    )
    return Verdict(
        decision=decision,
        reason=reason,
        incumbent=incumbent,
        difference=difference,
        minimum_detectable_effect=detectable,
        threshold=threshold,
        invalid_rate=invalid_rate,
        incumbent_invalid_rate=incumbent_invalid_rate,
        over_base=over_base,
    )
