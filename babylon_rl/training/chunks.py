"""A batch as ordered chunks that fit one submission.

Windows stay whole where they fit: the members of a group belong together. A window that is larger than a
chunk is split into parts of at least two members, and said so.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from babylon_rl.training.conversion import TrainableEpisode
from babylon_rl.training.errors import EmptyBatchError
from babylon_rl.training.options import CutRules

log = logging.getLogger(__name__)

_TOKEN_BYTES = 96
"""A token with its log-probability, as ART sends it."""
_CALL_BYTES = 320
"""The rest of a call besides its messages, its text and its tokens."""


@dataclass(frozen=True)
class Chunk:
    """One submission.

    Attributes:
        index: From 0, in the order of training.
        of: Number of chunks.
        sha256: Of the content, so that a row of the ledger can be matched with it.
        groups: Windows, or parts of one.
    """

    index: int
    of: int
    episodes: Sequence[TrainableEpisode] = field(repr=False)
    sha256: str

    @property
    def groups(self) -> int:
        return len({episode.window_id for episode in self.episodes})

    @property
    def trajectories(self) -> int:
        return len(self.episodes)

    @property
    def tokens(self) -> int:
        """Tokens that the policy produced."""
        return sum(len(call.token_ids) for episode in self.episodes for call in episode.calls)


def cut(episodes: Iterable[TrainableEpisode], rules: CutRules) -> list[Chunk]:
    """Cut a batch; the same batch and rules always give the same chunks.

    Raises:
        EmptyBatchError: There is nothing to train.
    """
    parts: list[list[TrainableEpisode]] = []
    windows = size = 0
    for window in _windows(episodes, rules):
        weight = sum(map(submitted_bytes, window))
        too_large = rules.max_bytes is not None and size + weight > rules.max_bytes
        if not parts or too_large or (rules.windows is not None and windows == rules.windows):
            parts.append([])
            windows = size = 0
        parts[-1] += window
        windows, size = windows + 1, size + weight
    if not parts:
        raise EmptyBatchError("The batch holds no episode")
    return [Chunk(index, len(parts), part, _digest(part)) for index, part in enumerate(parts)]


def submitted_bytes(episode: TrainableEpisode) -> int:
    """About how many bytes of JSON an episode makes in a submission, rounded up."""
    return sum(
        len(msgspec.json.encode(call.messages))
        + len(msgspec.json.encode(call.content))
        + _TOKEN_BYTES * len(call.token_ids)
        + _CALL_BYTES
        for call in episode.calls
    )


def _windows(episodes: Iterable[TrainableEpisode], rules: CutRules) -> list[list[TrainableEpisode]]:
    windows: dict[str, list[TrainableEpisode]] = {}
    for episode in episodes:
        windows.setdefault(episode.window_id, []).append(episode)
    found: list[list[TrainableEpisode]] = []
    for name, members in windows.items():
        weight = sum(map(submitted_bytes, members))
        parts = 1 if rules.max_bytes is None else -(-weight // rules.max_bytes)
        parts = max(1, min(parts, len(members) // 2))
        if parts > 1:
            log.warning("window %s (%d bytes) is larger than a chunk: split into %d", name, weight, parts)
        found += [members[part::parts] for part in range(parts)]
    return found


def _digest(episodes: Sequence[TrainableEpisode]) -> str:
    return hashlib.sha256(msgspec.json.encode(episodes, order="deterministic")).hexdigest()
