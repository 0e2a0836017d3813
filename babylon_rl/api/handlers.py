"""One method per path of the admin API."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from babylon_rl.api.ai_models import read_ai_models, write_ai_models
from babylon_rl.api.bodies import (
    AiModelsBody,
    CancelBody,
    DeployBody,
    PromoteBody,
    RollbackBody,
    TriggerBody,
    WorkerBody,
    read_body,
)
from babylon_rl.api.dagster_client import DagsterClient
from babylon_rl.api.dashboard import read_dashboard
from babylon_rl.api.errors import AdminError
from babylon_rl.api.formats import iso
from babylon_rl.api.game_batches import claim, show
from babylon_rl.api.jobs import cancel, choose_day, find_job, start_job
from babylon_rl.api.models import list_models
from babylon_rl.api.pools import Pools
from babylon_rl.api.readiness import read_readiness
from babylon_rl.api.releases import finish, read_rollout, release, take_back
from babylon_rl.api.status import Statistics, job_json, read_status
from babylon_rl.api.training_data import read_training_data
from babylon_rl.api.uploads import receive_model
from babylon_rl.errors import BabylonError
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.serving.wanted import read_override
from babylon_rl.settings import Settings
from babylon_rl.windows import parse_day

DASHBOARD_SECONDS = 1.5
"""All pages that look within this time share one reading of the database."""

_SCORED_LATELY = """
SELECT count(*)::int AS windows, coalesce(sum(rows), 0)::int AS rows
  FROM rl.window_state WHERE group_status = 'scored' AND updated_at > now() - interval '1 hour'
"""


class Handlers:
    """What they share: settings, databases, Dagster, and the last reading of the dashboard."""

    def __init__(self, settings: Settings, pools: Pools, dagster: DagsterClient) -> None:
        self._settings, self._pools, self._dagster = settings, pools, dagster
        self._statistics = Statistics()
        self._reading = asyncio.Lock()
        self._shown: tuple[float, dict[str, Any]] = (-1e9, {})

    async def status(self, _: Request) -> Response:
        async with self._pools.reading() as db:
            return JSONResponse(await read_status(db.game, db.rl, self._settings, self._statistics))

    async def dashboard(self, _: Request) -> Response:
        async with self._reading:
            if time.monotonic() - self._shown[0] > DASHBOARD_SECONDS:
                async with self._pools.reading() as db:
                    body = {
                        **await read_status(db.game, db.rl, self._settings, self._statistics),
                        **await read_dashboard(db.rl),
                        "rollout": await read_rollout(db.rl, self._settings, await read_override(db.game)),
                        "dagsterUrl": self._settings.dagster_page,
                    }
                self._shown = (time.monotonic(), body)
        return JSONResponse(self._shown[1])

    async def readiness(self, _: Request) -> Response:
        async with self._pools.reading() as db:
            return JSONResponse((await read_readiness(db.rl, self._settings)).to_json())

    async def trigger(self, request: Request) -> Response:
        body = await read_body(request, TriggerBody)
        if body.day is not None:
            parse_day(body.day)
        await self._take_news()
        async with self._pools.writing() as db:
            day = await choose_day(db.rl, self._settings, body.day, force=body.force)
            job = await start_job(
                db.rl,
                self._dagster,
                day.day,
                source="api",
                batch_size=body.batchSize,
                force=body.force,
            )
        self._shown = (-1e9, {})
        return JSONResponse({"success": True, **job_json(job)}, 202)

    async def job(self, request: Request) -> Response:
        async with self._pools.reading() as db:
            return JSONResponse(job_json(await find_job(db.rl, _plain(request.path_params["job"]))))

    async def cancel(self, request: Request) -> Response:
        await read_body(request, CancelBody)
        async with self._pools.writing() as db:
            job = await cancel(db.rl, self._dagster, _plain(request.path_params["job"]))
            await show(db.game, job)
        self._shown = (-1e9, {})
        return JSONResponse({"success": True, **job_json(job)}, 202)

    async def models(self, _: Request) -> Response:
        async with self._pools.reading() as db:
            models, total = await list_models(db.rl)
        return JSONResponse({"success": True, "models": models, "total": total})

    async def deploy(self, request: Request) -> Response:
        body = await read_body(request, DeployBody)
        async with self._pools.writing() as db:
            answer = await release(db, self._settings, body)
        self._shown = (-1e9, {})
        return JSONResponse({"success": True, **answer})

    async def promote(self, request: Request) -> Response:
        body = await read_body(request, PromoteBody)
        async with self._pools.writing() as db:
            answer = await finish(db, self._settings, body)
        self._shown = (-1e9, {})
        return JSONResponse({"success": True, **answer})

    async def rollback(self, request: Request) -> Response:
        body = await read_body(request, RollbackBody)
        async with self._pools.writing() as db:
            answer = await take_back(db, self._settings, body)
        self._shown = (-1e9, {})
        return JSONResponse({"success": True, **answer})

    async def upload_model(self, request: Request) -> Response:
        async with self._pools.writing() as db:
            answer = await receive_model(request, db.rl, self._settings)
        self._shown = (-1e9, {})
        return JSONResponse(answer)

    async def training_data(self, _: Request) -> Response:
        async with self._pools.reading() as db:
            data = await read_training_data(db.game, db.rl, self._settings)
        return JSONResponse({"success": True, "data": data})

    async def ai_models(self, _: Request) -> Response:
        async with self._pools.reading() as db:
            data = await read_ai_models(db.game, db.rl, self._settings)
        return JSONResponse({"success": True, "data": data})

    async def set_ai_models(self, request: Request) -> Response:
        body = await read_body(request, AiModelsBody)
        async with self._pools.writing(
            role=None
        ) as db:  # the game's own settings: no role of ours may write them
            await write_ai_models(db.game, body)
            data = await read_ai_models(db.game, db.rl, self._settings)
        return JSONResponse({"success": True, "data": data})

    async def training_check(self, _: Request) -> Response:
        """Looks for news and for batches of the game; scoring and training are Dagster's."""
        started = time.monotonic()
        await self._take_news()
        claimed = None
        if self._settings.project_to_game:
            async with self._pools.writing() as db:
                try:
                    job = await claim(db.game, db.rl, self._dagster)
                    claimed = job.name if job else None
                except AdminError as problem:
                    if problem.status < 409:
                        raise
        async with self._pools.reading() as db:
            scored = await db.rl.fetchrow(_SCORED_LATELY)
            assert scored is not None  # an aggregate has one row
            status = await read_status(db.game, db.rl, self._settings, self._statistics)
        return JSONResponse(
            {
                "success": True,
                "duration": f"{(time.monotonic() - started) * 1000:.0f}ms",
                "timestamp": iso(datetime.now(UTC)),
                "scoring": {"windowsScored": scored["windows"], "trajectoriesScored": scored["rows"]},
                "readiness": status["readiness"],
                "status": {key: status[key] for key in ("status", "automation")},
                "claimed": claimed,
            }
        )

    async def health(self, _: Request) -> Response:
        """As the old worker answered; it tells nothing that needs a login."""
        wandb = "connected" if self._settings.tracking_mode == "online" else self._settings.tracking_mode
        body = {"status": "healthy", "database": "connected", "wandb": wandb}
        try:
            async with self._pools.reading() as db:
                await db.rl.fetchval("SELECT 1")
        except Exception:  # whatever keeps it from answering
            body |= {"status": "unhealthy", "database": "disconnected"}
        status = 200 if body["status"] == "healthy" else 503
        return JSONResponse({**body, "timestamp": iso(datetime.now(UTC))}, status)

    async def train(self, request: Request) -> Response:
        body = await read_body(request, WorkerBody)
        async with self._pools.writing() as db:
            job = await claim(db.game, db.rl, self._dagster, body.batchId, source="worker")
        if job is None:
            return JSONResponse(
                {"status": "done", "batchId": body.batchId, "message": "Nothing of it was left to train"}
            )
        return JSONResponse(
            {
                "status": "started",
                "batchId": body.batchId,
                "message": f"Training {job.day} as run {job.name}",
            },
            202,
        )

    async def _take_news(self) -> None:
        """Rows that the game has recorded since the last look, so that the answer is of now."""
        try:
            async with self._pools.writing(role=None) as db:
                await refresh_window_rows(db.game, db.rl)
        except BabylonError as problem:
            raise AdminError(503, problem.problem, problem.remedy, retry_after=5) from None


def _plain(name: str) -> str:
    if "\0" in name or len(name) > 200:
        raise AdminError(404, "There is no such job")
    return name
