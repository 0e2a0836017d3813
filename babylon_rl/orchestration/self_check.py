"""The self-check: a tiny game in a scratch database, from its rows to a scored group, then removed.

    lines = await self_check(settings)

It proves that the server, the migrations, the readers, the pricer, the scorer and the store work together
here. The database that it makes is its own; neither the game's nor the pipeline's tables are touched.
"""

import secrets
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from babylon_rl.database.connection import Databases, connect, open_databases, resolve_dsn
from babylon_rl.database.migrations import migrate
from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.orchestration.window_steps import derive_window, freeze_window
from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import SCORED
from babylon_rl.settings import Settings
from babylon_rl.simulation.world import ensure_world, simulate_day
from babylon_rl.windows import windows_of_day

AGENTS = 3


class SelfCheckError(BabylonError):
    """The installation cannot do what it is for."""


class _Alternating:
    """Answers with an order or with nothing, in turns: what is checked is not the model."""

    version = "self-check"

    def __init__(self) -> None:
        self._asked = 0

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        return [self._answer() for _ in requests]

    def _answer(self) -> ChatAnswer:
        self._asked += 1
        return ChatAnswer(
            content=("HOLD", "BUY", "SELL")[self._asked % 3],
            finish_reason="stop",
            prompt_token_ids=[1, 2],
            token_ids=[3],
            logprobs=[-0.5],
            policy_version=self.version,
            response_id=f"self-check-{self._asked}",
            model=self.version,
            chat_template_hash="self-check",
        )


async def self_check(settings: Settings) -> list[str]:
    """Plays a day of a tiny game in a scratch database and scores one of its windows.

    Returns:
        One line per stage that works.

    Raises:
        SelfCheckError: A stage gave another result than it must, or no database may be made.
    """
    name = f"babylon_self_check_{secrets.token_hex(4)}"
    dsn = resolve_dsn(settings)
    scratch = urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    admin = await connect(dsn)
    try:
        try:
            await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
            # The game's tables are made only where the server, or as here the database, is ours.
            await admin.execute(f"ALTER DATABASE \"{name}\" SET babylon.server = 'embedded'")
        except asyncpg.InsufficientPrivilegeError as refused:
            raise SelfCheckError(
                f"no scratch database can be made: {refused}",
                "Give the user CREATEDB, or run the self-check with DATABASE_URL of a server where it may.",
            ) from refused
        with tempfile.TemporaryDirectory(prefix="babylon-self-check-") as folder:
            own = settings.model_copy(
                update={
                    "database_url": SecretStr(scratch),
                    "rl_database_url": None,
                    "babylon_home": Path(folder),
                    "scorer": "pnl",
                    "min_agents_per_window": 2,
                }
            )
            return await _stages(own, scratch, ArtifactStore(Path(folder) / "artifacts"))
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.close()


async def _stages(settings: Settings, dsn: str, store: ArtifactStore) -> list[str]:
    started = time.monotonic()
    applied = await migrate(dsn, embedded=True)
    lines = [f"database: made, {len(applied)} migrations applied"]
    async with open_databases(settings) as db:
        day = (datetime.now(UTC) - timedelta(days=3)).date()
        world = await ensure_world(db.game, db.rl, seed=1, agents=AGENTS, start_day=day)
        summary = await simulate_day(db.game, db.rl, _Alternating(), world, day)
        rows = await refresh_window_rows(db.game, db.rl)
        _require(summary.created and rows > 0, "no row was recorded")
        lines.append(f"recorder and feed: {rows} rows")
        lines += await _window(db, settings, store, windows_of_day(f"{day}")[12])
    return [*lines, f"done in {time.monotonic() - started:.0f} s; the scratch database is removed"]


async def _window(db: Databases, settings: Settings, store: ArtifactStore, window_id: str) -> list[str]:
    frozen = await freeze_window(db, store, window_id, settings)
    agents = len(frozen.read.agents)
    _require(agents >= 2, f"the snapshot of {window_id} holds {agents} agents")
    _require(store.get(frozen.snapshot.uri) != [], "the snapshot cannot be read back")
    derived = await derive_window(db, window_id, settings)
    _require(derived.outcomes is not None, f"no outcomes: {derived.status}")
    [scored] = [
        done
        async for done in score_windows(db, store, [window_id], settings, lambda: open_databases(settings))
    ]
    group = scored.scored.group
    _require(group.status == SCORED, f"the group is {group.status}: {group.reason}")
    return [
        f"trajectories: {len(frozen.read.trajectories)} rows of {agents} agents, in a file",
        f"market_outcomes: {len(derived.outcomes.stocks) if derived.outcomes else 0} stocks, "
        f"{len(derived.orders)} values of orders",
        f"scored_groups: {len(group.members)} rewards, spread {group.reward_std or 0:.3g}",
    ]


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise SelfCheckError(
            f"self-check: {otherwise}", "`babylon doctor` looks at settings, database and disk."
        )
