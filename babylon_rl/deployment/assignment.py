"""Which agent gets which version, and when: a function of hashes, so that all gateways agree.

Outside experiments the arm is hash(agent, salt) against the percentage: sticky, and monotone when it rises.
During an experiment it is hash(agent, pair of blocks, salt): a switchback. In the second block of a pair the
draw is mirrored, so that at 50 % every agent plays one block with each version, in an order that the hash
chose. Assignment that sticks to persistent agents makes A/A tests wrong far more often than they say
(`python benchmarks/rollout.py`, sticky_false_promotion).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

HOUR = 3600.0
"""Seconds of a window."""

Arm = Literal["candidate", "active"]
"""Variants of a rollout; `active` is the incumbent."""

_SPAN = float(2**64)


def draw(agent_id: str, salt: str, pair: int | None = None) -> float:
    """A number in [0, 100) that depends on nothing else: below the percentage means the candidate.

    Args:
        salt: The rollout's own; another salt gives independent draws.
        pair: Number of the pair of blocks in an experiment; None for sticky assignment.
    """
    text = f"{salt}\0{'' if pair is None else pair}\0{agent_id}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    # 53 bits: what a float holds exactly, so that the largest draw stays below 100.
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**11 / _SPAN * 100.0


def pair_draws(agents: Sequence[str], pairs: int, salt: str) -> NDArray[np.float64]:
    """`draw` of each agent in pairs 0 to `pairs` - 1, shape (agents, pairs)."""
    rows = [[draw(agent, salt, pair) for pair in range(pairs)] for agent in agents]
    return np.array(rows, dtype=np.float64).reshape(len(agents), pairs)


def arms(draws: NDArray[np.float64], percentage: float) -> NDArray[np.bool_]:
    """True where the candidate plays; shape of `draws` with one more axis: the two blocks of the pair.

    The second block mirrors the draw. Each block plays the candidate with probability percentage / 100, and
    which of two differing blocks does so is a fair coin.
    """
    return np.stack([draws < percentage, 100.0 - draws <= percentage], axis=-1)


@dataclass(frozen=True)
class Assignment:
    """How a running rollout divides the agents; immutable, derived from its rows in `rl`."""

    rollout_id: int
    version: str
    """The candidate's."""
    incumbent: str
    salt: str
    experiment: bool
    block_windows: int
    origin: float
    """Seconds since 1970 in UTC: start of the first window of the experiment."""
    stages: tuple[tuple[float, float], ...]
    """(seconds since 1970, percentage), ascending."""
    agents: frozenset[str] = frozenset()
    """Agents that get the candidate by name, all others the incumbent (strategy test)."""

    def percentage_at(self, at: float) -> float:
        """Percent of agents with the candidate; in an experiment of a whole pair of blocks."""
        if self.experiment and at >= self.origin:
            at = self.origin + self.pair_at(at) * self.pair_seconds
        index = bisect_right(self.stages, at, key=lambda stage: stage[0])
        return self.stages[index - 1][1] if index else 0.0

    @property
    def pair_seconds(self) -> float:
        return 2 * self.block_windows * HOUR

    def pair_at(self, at: float) -> int:
        """Number of the pair of blocks at a moment; negative before the experiment."""
        return int((at - self.origin) // self.pair_seconds)

    def next_pair_start(self, at: float) -> float:
        """The moment from which a change may hold without touching a pair that has begun."""
        if at <= self.origin:
            return self.origin
        return self.origin + -int(-(at - self.origin) // self.pair_seconds) * self.pair_seconds

    def arm(self, agent_id: str | None, at: float) -> Arm:
        """The arm of an agent at a moment: one and the same for the whole window in an experiment.

        A caller without an agent always gets the incumbent.
        """
        if agent_id is None:
            return "active"
        if self.agents:
            return "candidate" if agent_id in self.agents else "active"
        percentage = self.percentage_at(at)
        if not self.experiment:
            return "candidate" if draw(agent_id, self.salt) < percentage else "active"
        if at < self.origin:
            return "active"
        pair = self.pair_at(at)
        second = at - self.origin - pair * self.pair_seconds >= self.block_windows * HOUR
        value = draw(agent_id, self.salt, pair)
        chosen = 100.0 - value <= percentage if second else value < percentage
        return "candidate" if chosen else "active"
