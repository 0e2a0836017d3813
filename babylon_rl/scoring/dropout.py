"""The seeds' dropout: where more episodes were recorded than are worth judging, some are left out.

5,000 episodes where 1,000 are wanted lose 30 %, which is the most. Which ones is decided by window and agent
id alone, so a repetition leaves out the same, and no group falls below two.
"""

import hashlib
from collections.abc import Sequence

MOST = 0.3
FEWEST = 2


def dropout_rate(available: float, target: float | None, most: float = MOST) -> float:
    """Returns the share to leave out so that about `target` of `available` episodes remain.

    Args:
        available: Episodes there are.
        target: Episodes wanted; None for all.
        most: The share is never larger.
    """
    if target is None or available <= target:
        return 0.0
    return min(most, 1.0 - target / available)


def kept_agents(window_id: str, agent_ids: Sequence[str], rate: float) -> list[str]:
    """Returns the agents of a window that stay, in the given order: never fewer than two, or than there are.

    At most `rate` of the window is left out, so small groups lose nobody.
    """
    leaving = min(int(len(agent_ids) * rate + 1e-9), max(0, len(agent_ids) - FEWEST))
    gone = set(sorted(agent_ids, key=lambda agent_id: lot(window_id, agent_id))[:leaving])
    return [agent_id for agent_id in agent_ids if agent_id not in gone]


def lot(window_id: str, agent_id: str = "") -> str:
    """Returns what an agent of a window (or a window) draws; the smallest lots are taken first."""
    return hashlib.sha256(f"dropout:{window_id}:{agent_id}".encode()).hexdigest()
