"""Where the rollouts of a benchmark are played: in this process, or as tasks on a cluster.

    episodes = await play(policies, markets, seeds)      # by the policies' names, in the order of the markets

A task plays as many markets as the engine answers in one forward pass, and the same ones together as in this
process: so its answers are the same to the last bit, on the same kind of processor.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from babylon_rl.fanout import Shared, Workers, map_tasks
from babylon_rl.policy.adapters import base_of
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.checkpoints import is_adapter
from babylon_rl.policy.engine import MAX_BATCH, EmbeddedEngine
from babylon_rl.simulation.market import MarketPath
from babylon_rl.simulation.play import Episode, play_policy

Play = Callable[
    [Mapping[str, Policy], Sequence[MarketPath], Sequence[int]], Awaitable[dict[str, list[Episode]]]
]
"""Lets every policy play every market; see `simulation.play.play_policy`."""

KEPT = 4
"""Engines that a worker keeps, so that each loads a checkpoint once."""


async def play_here(
    policies: Mapping[str, Policy], markets: Sequence[MarketPath], seeds: Sequence[int]
) -> dict[str, list[Episode]]:
    """One policy after the other, in this process."""
    return {name: await play_policy(policy, markets, seeds) for name, policy in policies.items()}


@dataclass(frozen=True)
class Cargo:
    """A checkpoint on its way to the workers."""

    version: str
    key: str
    """Hash of the files; under it a worker keeps the engine."""
    files: Shared[dict[str, bytes]] = field(compare=False)
    """By path; the checkpoint lies in `checkpoint/`, the base of an adapter beside it."""


class ShippedPolicy:
    """A checkpoint whose engine is on the workers.

    Args:
        workers: Where it answers.
        cargo: The checkpoint; see `ship`.
    """

    def __init__(self, workers: Workers, cargo: Cargo) -> None:
        self.workers, self.cargo = workers, cargo

    @property
    def version(self) -> str:
        return self.cargo.version

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers every request in order, a forward pass per task."""
        tasks = [
            (self.cargo, list(requests[start : start + MAX_BATCH]))
            for start in range(0, len(requests), MAX_BATCH)
        ]
        return [answer for part in await map_tasks(self.workers, _answer, tasks) for answer in part]

    async def play(self, markets: Sequence[MarketPath], seeds: Sequence[int]) -> list[Episode]:
        """Plays every market, `MAX_BATCH` of them per task."""
        tasks = [
            (self.cargo, markets[start : start + MAX_BATCH], seeds[start : start + MAX_BATCH])
            for start in range(0, len(markets), MAX_BATCH)
        ]
        return [episode for part in await map_tasks(self.workers, _play, tasks) for episode in part]


async def play_shipped(
    policies: Mapping[str, Policy], markets: Sequence[MarketPath], seeds: Sequence[int]
) -> dict[str, list[Episode]]:
    """All policies at the same time, on the workers where they are shipped."""

    async def one(policy: Policy) -> list[Episode]:
        if isinstance(policy, ShippedPolicy):
            return await policy.play(markets, seeds)
        return await play_policy(policy, markets, seeds)

    played = await asyncio.gather(*map(one, policies.values()))
    return dict(zip(policies, played, strict=True))


async def ship(workers: Workers, checkpoint: Path, version: str) -> ShippedPolicy:
    """Makes a checkpoint on this machine's disk available to all workers, which need not see the disk.

    Raises:
        CheckpointError: The base of an adapter is not there.
        FanoutError: There is no room for it on the cluster.
    """
    folders = {"checkpoint": checkpoint}
    if is_adapter(checkpoint):
        base = base_of(checkpoint)
        folders[base.name] = base
    files = {
        f"{name}/{file.name}": file.read_bytes()
        for name, folder in folders.items()
        for file in sorted(folder.iterdir())
    }
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return ShippedPolicy(workers, Cargo(version, digest.hexdigest(), await workers.share(files)))


@lru_cache(maxsize=KEPT)
def _engine(cargo: Cargo) -> EmbeddedEngine:
    with tempfile.TemporaryDirectory(prefix="babylon-rollouts-") as folder:
        for name, content in cargo.files.get().items():
            file = Path(folder, name)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        return EmbeddedEngine.load(Path(folder, "checkpoint"), cargo.version)


def _answer(task: tuple[Cargo, list[ChatRequest]]) -> list[ChatAnswer]:
    """On a worker."""
    cargo, requests = task
    return _engine(cargo).sample(requests)


def _play(task: tuple[Cargo, Sequence[MarketPath], Sequence[int]]) -> list[Episode]:
    """On a worker."""
    cargo, markets, seeds = task
    return asyncio.run(play_policy(_engine(cargo), markets, seeds))
