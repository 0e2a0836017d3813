"""Beside the admin server: open jobs are followed to their end, and the game's batches are claimed."""

import asyncio
import logging

from babylon_rl.api.dagster_client import DagsterClient
from babylon_rl.api.errors import AdminError
from babylon_rl.api.game_batches import claim, show
from babylon_rl.api.jobs import follow, open_job
from babylon_rl.api.pools import Pools
from babylon_rl.settings import Settings

FOLLOW_SECONDS = 2.0
CLAIM_SECONDS = 15.0

log = logging.getLogger(__name__)


async def follow_jobs(settings: Settings, pools: Pools, dagster: DagsterClient) -> None:
    """Until cancelled. What fails is tried again; several admin processes may do the same at once."""
    next_claim, told = 0.0, ""
    clock = asyncio.get_running_loop().time
    while True:
        try:
            claiming = settings.project_to_game and clock() >= next_claim
            if claiming:
                next_claim = clock() + CLAIM_SECONDS
            await _once(pools, dagster, claiming)
            told = ""
        except (
            Exception
        ) as problem:  # whatever happens to a database or to Dagster, the next look may succeed
            if str(problem) != told:
                told = str(problem)
                log.warning("cannot follow the training jobs: %s", problem)
        await asyncio.sleep(FOLLOW_SECONDS)


async def _once(pools: Pools, dagster: DagsterClient, claiming: bool) -> None:
    async with pools.reading() as db:
        job = await open_job(db.rl)
    if job is not None:
        async with pools.writing() as db:
            await show(db.game, await follow(db.rl, dagster, job))
    elif claiming:
        async with pools.writing() as db:
            try:
                await claim(db.game, db.rl, dagster)
            except AdminError as problem:
                if problem.status != 409:  # another one is in progress
                    raise
