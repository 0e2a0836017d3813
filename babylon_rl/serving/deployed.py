"""Which model answers: the deployed version, a pinned one, or the base model, and its engine in memory.

``USE_RL_MODEL`` decides whether trained models answer at all, ``RL_MODEL_VERSION`` pins one (seed 000). A
deployment that changes while the gateway runs is picked up without a restart; one that cannot be loaded
leaves the model that is serving in place.
"""

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from babylon_rl.deployment import registry
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import open_engine
from babylon_rl.deployment.versions import BASE
from babylon_rl.errors import BabylonError
from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)


class NothingToServeError(BabylonError):
    """No checkpoint can answer."""


async def model_to_serve(rl: asyncpg.Connection, settings: Settings) -> ModelRecord:
    """The model that should answer now.

    Raises:
        UnknownVersionError: the pinned version, or even the base model, is not registered.
    """
    if settings.rl_model_enabled:
        if settings.rl_model_version != "latest":
            return await registry.get(rl, settings.rl_model_version)
        if (active := await registry.active(rl)) is not None:
            return active
    return await registry.get(rl, str(BASE))


class DeployedPolicy:
    """A policy that follows the deployments; ``refresh`` looks for a change."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engine: EmbeddedEngine | None = None

    @property
    def version(self) -> str:
        return self._engine.version if self._engine else "none"

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answer with the model that is in memory."""
        if self._engine is None:
            raise NothingToServeError("No model is loaded yet", "Try again in a moment.")
        return await self._engine.complete(requests)

    async def refresh(self, rl: asyncpg.Connection) -> bool:
        """Load the model that should answer if it is another one; returns whether it changed.

        Raises:
            BabylonError: it cannot be loaded and nothing is serving yet.
        """
        try:
            wanted = await model_to_serve(rl, self.settings)
            if wanted.version == self.version:
                return False
            engine = await asyncio.to_thread(open_engine, wanted)
        except BabylonError as error:
            if self._engine is None:
                raise
            log.error("keeping %s, because the deployed model cannot be served: %s", self.version, error)
            return False
        log.info("serving %s instead of %s", wanted.version, self.version)
        self._engine = engine
        return True
