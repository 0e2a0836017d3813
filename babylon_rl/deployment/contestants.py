"""Registered models, ready to be compared: engines in this process, or shipped to a cluster's workers."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from babylon_rl.benchmark.rollouts import Play, play_here, play_shipped, ship
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path, open_engine
from babylon_rl.fanout import open_workers
from babylon_rl.policy.chat import Policy
from babylon_rl.settings import Settings


@asynccontextmanager
async def open_contestants(
    settings: Settings, models: Iterable[ModelRecord]
) -> AsyncIterator[tuple[dict[str, Policy], Play]]:
    """Opens each model once and says where they play: on the cluster of RAY_ADDRESS if there is one.

    Raises:
        RemoteCheckpointError: A checkpoint is not on this machine.
        CheckpointError: It is not what its manifest says.
        FanoutError: The cluster cannot be used.
    """
    chosen = {model.version: model for model in models}
    async with open_workers(settings) as workers:
        if workers is None:
            yield {version: open_engine(model) for version, model in chosen.items()}, play_here
        else:
            shipped: dict[str, Policy] = {
                version: await ship(workers, local_path(model, settings), version)
                for version, model in chosen.items()
            }
            yield shipped, play_shipped
