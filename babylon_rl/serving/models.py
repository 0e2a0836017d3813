"""Which models answer: the active version, a rollout's candidate and the base model, followed while running.

What should answer is `wanted.py`'s question (seed 000: `USE_RL_MODEL`, `RL_MODEL_VERSION`). A change is
picked up without a restart and without losing a request: the new state replaces the old one as a whole, and
calls that run keep the model that they began with. Before a deployed model answers it passes the canary
(`deployment/canary.py`); one that fails ends its deployment. What cannot be loaded leaves the models that are
serving in place; a candidate that cannot serves nobody.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import asyncpg

from babylon_rl.deployment import canary, registry
from babylon_rl.deployment.assignment import Assignment
from babylon_rl.deployment.versions import BASE
from babylon_rl.errors import BabylonError
from babylon_rl.serving.calls import EXTERNAL
from babylon_rl.serving.canary import CanaryUnknownError, check
from babylon_rl.serving.routing import Serving
from babylon_rl.serving.targets import TargetOpener
from babylon_rl.serving.upstream import Target
from babylon_rl.serving.wanted import Candidate, Wanted, candidate_to_serve, model_to_serve, read_override
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""After which a version that could not be served is tried again."""


Key = tuple[str, int | None, str | None]
"""What was asked for: version, deployment, override."""


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
        self._now: Key | None = None
        self._failed: dict[Key, float] = {}
        self._candidate: tuple[Target, Assignment] | None = None
        self._notes: tuple[str, ...] = ()
        """Of the active version; a candidate's are added."""

    @property
    def version(self) -> str:
        return self.serving.active if self.serving else "none"

    async def close(self) -> None:
        await self._opener.close()

    async def refresh(self, rl: asyncpg.Connection, game: asyncpg.Connection | None = None) -> bool:
        """Serves what should answer if that is something else; returns whether it changed.

        Args:
            game: where the override of the game's operators is; None for no override.

        Raises:
            BabylonError: it cannot be served, nothing is serving yet, and the base model cannot step in.
        """
        override = None if game is None else await read_override(game)
        wanted = await model_to_serve(rl, self._settings, override)
        candidate = await candidate_to_serve(rl, self._settings, wanted)
        if self._candidate is not None and (
            candidate is None or candidate.assignment.rollout_id != self._candidate[1].rollout_id
        ):
            self._candidate = None  # before what it competed with: a rollback must not wait for anything
            if self.serving is not None and self._now == _key(wanted):
                self._publish(replace(self.serving, rollout=None, targets=self._without_candidate(None)))
        changed = await self._refresh_active(rl, wanted)
        return await self._refresh_candidate(rl, candidate) or changed

    async def _refresh_active(self, rl: asyncpg.Connection, wanted: Wanted) -> bool:
        key = _key(wanted)
        if key == self._now or time.monotonic() < self._failed.get(key, 0.0):
            return False
        try:
            base = await self._open_base(rl, needed=wanted.model.is_base)
            if wanted.external:
                target = await self._opener.open_named(EXTERNAL, wanted.override or "")
            else:
                target = base if wanted.model.is_base else await self._open(rl, wanted, base)
        except BabylonError as error:
            self._failed[key] = time.monotonic() + RETRY_SECONDS
            return await self._without(rl, wanted, error)
        assert target is not None
        self._failed.clear()
        self._now = key
        notes = (
            () if wanted.override is None else (f"SystemSettings.wandbModel overrides: {wanted.override}",)
        )
        await self._serve(rl, target, notes, wanted.override)
        return True

    async def _refresh_candidate(self, rl: asyncpg.Connection, candidate: Candidate | None) -> bool:
        """Loads and checks a rollout's candidate, or takes over its new share; what fails serves nobody."""
        if self.serving is None:
            return False
        if candidate is None:
            self._note(None)
            return False
        if self._candidate is not None and self.serving.rollout is not None:
            if candidate.assignment == self._candidate[1]:
                return False
            target = self._candidate[0]
        else:
            key = (candidate.model.version, candidate.deployment_id, None)
            if time.monotonic() < self._failed.get(key, 0.0):
                return False
            try:
                wanted = Wanted(candidate.model, candidate.deployment_id)
                target = await self._open(rl, wanted, await self._open_base(rl, needed=False))
            except BabylonError as error:
                self._failed[key] = time.monotonic() + RETRY_SECONDS
                log.error("the candidate %s serves nobody: %s", candidate.model.version, error)
                self._note(f"the candidate {candidate.model.version} serves nobody: {error}")
                return False
        self._candidate = (target, candidate.assignment)
        self._publish(
            replace(
                self.serving,
                rollout=candidate.assignment,
                targets=self._without_candidate(target),
                notes=self._notes,
            )
        )
        return True

    def _note(self, note: str | None) -> None:
        """Shows a note beside the active version's, or only those."""
        assert self.serving is not None
        notes = self._notes if note is None else (*self._notes, note)
        if notes != self.serving.notes:
            self._publish(replace(self.serving, notes=notes))

    def _without_candidate(self, candidate: Target | None) -> dict[str, Target]:
        """The targets of the active version and the base model, and of a candidate if there is one."""
        assert self.serving is not None
        kept = [self.serving.targets.get(self.serving.active), self._base, candidate]
        return {one.version: one for one in kept if one is not None}

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
            if wanted.override is not None:
                self._notes = (f"SystemSettings.wandbModel names what cannot be served: {error}",)
                self._note(None)
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

    async def _serve(
        self, rl: asyncpg.Connection, target: Target, notes: tuple[str, ...], override: str | None = None
    ) -> None:
        before, base = self.version, self._base
        record = await registry.get(rl, str(BASE)) if base is not None else None
        candidate, self._notes = self._candidate, notes
        beside = (target, base, candidate[0] if candidate else None)
        self._publish(
            Serving(
                active=target.version,
                targets={one.version: one for one in beside if one is not None},
                base=base.version if base else None,
                base_names=self._opener.names_of_base(record) if record else frozenset(),
                fallback=self._settings.rl_fallback_to_base,
                notes=notes,
                rollout=candidate[1] if candidate else None,
                trained_share=self._settings.rl_rollout_percentage,
                verified_only=self._settings.gateway_knows_agents,
                override=override,
            )
        )
        log.info("serving %s instead of %s", target.version, before)

    def _publish(self, serving: Serving) -> None:
        self.serving = serving
        self._changed(serving)


def _key(wanted: Wanted) -> Key:
    return (wanted.model.version, wanted.deployment_id, wanted.override)
