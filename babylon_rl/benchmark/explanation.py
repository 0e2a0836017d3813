"""A verdict in one paragraph that a person can check by hand: every number that it follows from is in it."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from babylon_rl.benchmark.gate import TOLERATED_INVALID_GROWTH, TOLERATED_INVALID_RATE, Verdict


def explain(
    verdict: Verdict,
    *,
    candidate: str,
    returns: Mapping[str, float],
    seed_key: str,
    number: int,
    budget: float,
    crowd: Mapping[str, Any] | None = None,
) -> str:
    """The paragraph of a verdict.

    Args:
        candidate: The version that was judged.
        returns: Mean return on start equity per market of candidate and incumbent, by version.
        seed_key: What the markets followed from.
        number: Which candidate of this incumbent's reign it was, from 1.
        budget: Error level of the whole reign.
        crowd: `Crowd.summary()`, if the populations were played.
    """
    found, other = verdict.difference, verdict.incumbent
    error = found.sd / math.sqrt(found.n)
    z = NormalDist().inv_cdf(1 - found.alpha / 2)
    allowed = max(TOLERATED_INVALID_RATE, verdict.incumbent_invalid_rate + TOLERATED_INVALID_GROWTH)
    parts = [
        f"{candidate} and {other} played the same {found.n} one-hour markets, which follow from the hash of "
        f"the candidate's weights ({seed_key[:12]}…) and judge nobody else.",
        f"{candidate} earned {returns[candidate]:+.4f} of its start equity per market, {other} "
        f"{returns[other]:+.4f}: a difference of {found.mean:+.4f} with a standard deviation of "
        f"{found.sd:.4f}, so a standard error of {found.sd:.4f} / √{found.n} = {error:.4f}.",
        f"It is candidate number {number} against {other}, whose reign may promote a model that is no better "
        f"with probability {budget:g} in all: this one may spend {budget:g} / ({number} × {number + 1}) = "
        f"{found.alpha:.3g}.",
        f"At that level the {found.method} interval, valid for any shape of losses, is "
        f"[{found.low:+.4f}, {found.high:+.4f}]; for comparison, by hand and for normal differences only, "
        f"{found.mean:+.4f} ± {z:.2f} × {error:.4f} = [{found.mean - z * error:+.4f}, "
        f"{found.mean + z * error:+.4f}].",
        f"Its invalid actions are {verdict.invalid_rate:.1%} ({other}: {verdict.incumbent_invalid_rate:.1%}; "
        f"up to {allowed:.1%} may pass).",
        _conclusion(verdict),
        "A true difference of "
        f"{verdict.minimum_detectable_effect:.4f} would have been found in 8 of 10 such comparisons.",
    ]
    if crowd is not None:
        alone, together = crowd["among_incumbents"], crowd["all_candidates"]
        parts.append(
            f"With the game's price impact, {crowd['seats']} seats and {alone['n']} of the markets, one "
            f"{candidate} among {other}s earns {alone['mean']:+.4f} [{alone['low']:+.4f}, "
            f"{alone['high']:+.4f}] more, and all seats together {together['mean']:+.4f} "
            f"[{together['low']:+.4f}, {together['high']:+.4f}]; this is reported, not decided on."
        )
    return " ".join(parts)


def _conclusion(verdict: Verdict) -> str:
    found, threshold = verdict.difference, verdict.threshold
    low, high = f"{found.low:+.4f}", f"{found.high:+.4f}"
    if verdict.decision == "promoted":
        return f"The lower end {low} is above {threshold:+g}: promoted."
    if verdict.decision == "rejected":
        if found.high < 0:
            return f"The upper end {high} is below zero: rejected, and not trained further."
        return "It has lost the answer format: rejected, and not trained further."
    if found.low > threshold:
        return f"The lower end {low} is above {threshold:+g}, but it answers worse: inconclusive."
    return (
        f"The lower end {low} is not above {threshold:+g} and the upper end {high} not below zero: "
        "inconclusive."
    )
