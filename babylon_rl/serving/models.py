"""Which models answer: the deployed or pinned version and the base model, followed while the gateway runs.

`USE_RL_MODEL` decides whether trained models answer at all, `RL_MODEL_VERSION` pins one (seed 000). A change
is picked up without a restart and without losing a request: the new state replaces the old one as a whole,
and calls that run keep the model that they began with. Before a deployed model answers it passes the canary
(`deployment/canary.py`); one that fails ends its deployment. What cannot be loaded leaves the models that are
serving in place.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from babylon_rl.deployment import canary, registry
from babylon_rl.deployment.deploy import current
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.versions import BASE
from babylon_rl.errors import BabylonError
from babylon_rl.serving.canary import CanaryUnknownError, check
from babylon_rl.serving.routing import Serving
from babylon_rl.serving.targets import TargetOpener
from babylon_rl.serving.upstream import Target
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""After which a version that could not be served is tried again."""


@dataclass(frozen=True)
class Wanted:
    """What should answer."""

    model: ModelRecord
    deployment_id: int | None
    """Of the deployment that asks for it; None for a pinned version and for the base model."""


async def model_to_serve(rl: asyncpg.Connection, settings: Settings) -> Wanted:
    """The model that should answer now.

    Raises:
        UnknownVersionError: the pinned version, or even the base model, is not registered.
    """
    if settings.rl_model_enabled:
        if settings.rl_model_version != "latest":
            return Wanted(await registry.get(rl, settings.rl_model_version), None)
        if (deployment := await current(rl)) is not None:
            return Wanted(await registry.get(rl, deployment.version), deployment.id)
    return Wanted(await registry.get(rl, str(BASE)), None)


class ServedModels:
    """Keeps `serving` up to date; `refresh` looks for a change.

    Args:
        changed: called with each new state (metrics).
    """

    def __init__(self, settings: Settings, changed: Callable[[Serving], None] = lambda _: None) -> None:
        self.serving: Serving | None = None
        self._settings, self._changed = settings, changed
        self._opener = TargetOpener(settings)
        self._base: Target | None = None
        self._now: tuple[str, int | None] | None = None
        self._failed: dict[tuple[str, int | None], float] = {}

    @property
    def version(self) -> str:
        return self.serving.active if self.serving else "none"

    async def close(self) -> None:
        await self._opener.close()

    async def refresh(self, rl: asyncpg.Connection) -> bool:
        """Serves what should answer if that is something else; returns whether it changed.

        Raises:
            BabylonError: it cannot be served, nothing is serving yet, and the base model cannot step in.
        """
        wanted = await model_to_serve(rl, self._settings)
        key = (wanted.model.version, wanted.deployment_id)
        if key == self._now or time.monotonic() < self._failed.get(key, 0.0):
            return False
        try:
            base = await self._open_base(rl, needed=wanted.model.is_base)
            target = base if wanted.model.is_base else await self._open(rl, wanted, base)
        except BabylonError as error:
            self._failed[key] = time.monotonic() + RETRY_SECONDS
            return await self._without(rl, wanted, error)
        assert target is not None
        self._failed.clear()
        self._now = key
        await self._serve(rl, target, ())
        return True

    async def _open(self, rl: asyncpg.Connection, wanted: Wanted, base: Target | None) -> Target:
        """The target of a trained version, checked.

        Raises:
            BabylonError: it cannot be opened.
            CanaryError: it is not what it should be.
        """
        running = self.serving.targets.get(wanted.model.version) if self.serving else None
        target = running or await self._opener.open(wanted.model)
        mode = self._settings.gateway_canary
        if mode == "off":
            return target
        try:
            reference = await self._opener.open_reference(target, await registry.get(rl, str(BASE)), base)
            verdict = await check(target, reference)
        except (CanaryUnknownError, BabylonError) as problem:
            return await self._unchecked(rl, wanted, target, str(problem))
        await canary.record(rl, wanted.model.version, wanted.deployment_id, verdict)
        if verdict.passed:
            log.info("the canary of %s passed: %s", wanted.model.version, verdict.reason)
            return target
        log.error("the canary of %s failed: %s", wanted.model.version, verdict.reason)
        if mode == "warn":
            return target
        if wanted.deployment_id is not None:
            reason = f"the canary of {wanted.model.version} failed: {verdict.reason}"
            await canary.fail_deployment(rl, wanted.deployment_id, reason)
        raise canary.CanaryError(
            f"{wanted.model.version} is not served, because its canary failed: {verdict.reason}",
            "Check its checkpoint and the server; GATEWAY_CANARY=warn serves it nevertheless.",
        )

    async def _unchecked(
        self, rl: asyncpg.Connection, wanted: Wanted, target: Target, problem: str
    ) -> Target:
        """A model that does not answer now may serve if it passed before."""
        if await canary.latest(rl, wanted.model.version):
            log.warning("the canary of %s is left out, it passed before: %s", wanted.model.version, problem)
            return target
        raise canary.CanaryError(
            f"{wanted.model.version} cannot be checked, it or the base model does not answer: {problem}",
            "It is tried again in a moment.",
        )

    async def _open_base(self, rl: asyncpg.Connection, *, needed: bool) -> Target | None:
        """The base model; None where it cannot be opened and something else is wanted."""
        if self._base is not None:
            return self._base
        try:
            self._base = await self._opener.open_fallback(await registry.get(rl, str(BASE)))
        except BabylonError as error:
            if needed:
                raise
            log.warning("there is no fallback: %s", error)
        return self._base

    async def _without(self, rl: asyncpg.Connection, wanted: Wanted, error: BabylonError) -> bool:
        """Goes on with what serves, else with the base model where that may step in."""
        if self.serving is not None:
            log.error("keeping %s: %s", self.version, error)
            return False
        if isinstance(error, canary.CanaryError) and wanted.deployment_id is not None:
            now = await model_to_serve(rl, self._settings)
            if now.deployment_id != wanted.deployment_id:  # the failed deployment was ended
                return await self.refresh(rl)
        if self._base is None or wanted.model.is_base or not self._settings.rl_fallback_to_base:
            raise error
        log.error("the base model answers instead of %s: %s", wanted.model.version, error)
        await self._serve(rl, self._base, (str(error),))
        return True

    async def _serve(self, rl: asyncpg.Connection, target: Target, notes: tuple[str, ...]) -> None:
        before, base = self.version, self._base
        record = await registry.get(rl, str(BASE)) if base is not None else None
        targets = {one.version: one for one in (target, base) if one is not None}
        self.serving = Serving(
            active=target.version,
            targets=targets,
            base=base.version if base else None,
            base_names=self._opener.names_of_base(record) if record else frozenset(),
            fallback=self._settings.rl_fallback_to_base,
            notes=notes,
        )
        self._changed(self.serving)
        log.info("serving %s instead of %s", target.version, before)
