"""W&B Training as five calls over ART's own client, with errors that say whether anything happened.

ART retries reads a few times and never says what became of a POST. Here its own retries are off: reads are
repeated until a deadline, and a submission is sent once and answered by a job id, `RefusedError` or
`UnreachableServiceError` (nothing happened), or `LostAnswerError` (nobody knows).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from babylon_rl.training.art_import import import_art
from babylon_rl.training.options import ServerlessTrainConfig
from babylon_rl.training.serverless.errors import (
    LostAnswerError,
    RefusedError,
    ServiceDownError,
    ServiceError,
    UnreachableServiceError,
)

if TYPE_CHECKING:
    import art

T = TypeVar("T")

READ_TIMEOUT, SUBMIT_TIMEOUT, CONNECT_TIMEOUT = 60.0, 600.0, 10.0
SHORTEST_READ = 1.0
"""Seconds that a read gets even at the deadline: a service that answers is not taken for a dead one."""
LONGEST_PAUSE = 120.0
"""Seconds; also what a `Retry-After` of the service is followed up to."""

_SURELY_REFUSED = frozenset({400, 401, 403, 404, 405, 413, 415, 422, 429})
_OTHER_BASE = "Set BASE_MODEL to that model, or MODEL_NAME to a new name."
_REMEDIES = {
    401: "Check WANDB_API_KEY.",
    403: "Check that WANDB_API_KEY may train in WANDB_ENTITY and that the plan includes W&B Training.",
    409: _OTHER_BASE,
    404: "Check TRAINING_API_URL, WANDB_ENTITY and WANDB_PROJECT.",
    413: "Lower TRAINING_CHUNK_BYTES.",
    429: "Wait until the service's limit allows more, then train the day again.",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as the service lists it; its metrics are the service's own."""

    id: str
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Event:
    """One event of a job, in the service's words."""

    id: str
    type: str
    data: dict[str, Any]


class TrainingService:
    """One model at W&B Training.

    Args:
        model: ART's model; `register` fills its id, entity and run.
        api_key: Sent as it is. ART is never told it through the environment, where it would also log to W&B.
        base_url: TRAINING_API_URL.
        pause: Seconds between two attempts to read; doubles up to `LONGEST_PAUSE`.
    """

    def __init__(
        self, model: "art.TrainableModel", *, api_key: str, base_url: str, pause: float = 2.0
    ) -> None:
        import_art()
        import httpx
        from art.serverless.backend import ServerlessBackend

        self.model, self.backend, self._pause = (
            model,
            ServerlessBackend(api_key=api_key, base_url=base_url),
            pause,
        )
        self._client: Any = self.backend._client
        self._client.max_retries = 0
        self._read_timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
        self._submit_timeout = httpx.Timeout(SUBMIT_TIMEOUT, connect=CONNECT_TIMEOUT)

    async def register(self, until: float) -> None:
        """Make the model known, or find it. Registering twice is harmless, so it is repeated like a read.

        Raises:
            RefusedError: The key is wrong, or the name belongs to a model of another base.
            ServiceDownError: No answer until then.
        """
        model = self.model

        async def create() -> str:
            # ART's own registration does not look at what it got.
            found = await self._client.models.create(
                entity=model.entity,
                project=model.project,
                name=model.name,
                base_model=model.base_model,
                return_existing=True,
            )
            return _text(found, "base_model")

        base = await self._repeat(create, until, refused=_SURELY_REFUSED | {409})
        if base != model.base_model:
            raise RefusedError(
                409,
                f"the model {model.name} there is trained from {base}, not from {model.base_model}",
                _OTHER_BASE,
            )
        await self._repeat(lambda: model.register(self.backend), until)

    async def latest(self, until: float) -> Checkpoint:
        """The newest checkpoint; step 0 where the model was never trained.

        Args:
            until: Monotonic time at which to give up.

        Raises:
            RefusedError: The key is wrong or the model unknown.
            ServiceDownError: No answer until then.
        """

        async def read() -> Checkpoint:
            page = self._client.models.checkpoints.list(limit=1, order="desc", model_id=self.model.id)
            async for found in page:
                return Checkpoint(found.id, int(found.step), _numbers(found.metrics))
            return Checkpoint("", 0, {})

        return await self._repeat(read, until)

    async def delete_checkpoints(self, steps: Sequence[int], until: float) -> None:
        """Delete checkpoints; deleting one twice is harmless."""
        await self._repeat(
            lambda: self._client.models.checkpoints.delete(model_id=self.model.id, steps=list(steps)), until
        )

    async def steps(self, until: float) -> list[int]:
        """All steps that have a checkpoint, in rising order."""

        async def read() -> list[int]:
            page = self._client.models.checkpoints.list(limit=100, model_id=self.model.id)
            return sorted([int(found.step) async for found in page])

        return await self._repeat(read, until)

    async def submit(self, groups: "Sequence[art.TrajectoryGroup]", config: ServerlessTrainConfig) -> str:
        """Send one chunk, once; returns the job's id.

        Raises:
            RefusedError: Surely not accepted.
            UnreachableServiceError: Surely not sent.
            LostAnswerError: Nobody knows.
        """
        self._client.timeout = self._submit_timeout
        options = {
            "learning_rate": config.learning_rate,
            "ppo": config.ppo,
            "epsilon": config.epsilon,
            # Our rewards are advantages over the whole group; dividing by their spread would blow up noise.
            "scale_rewards": False,
        }
        if config.importance_sampling_level != "token":
            options["importance_sampling_level"] = config.importance_sampling_level
        try:
            job = await self._client.training_jobs.create(
                model_id=self.model.id, trajectory_groups=list(groups), experimental_config=options
            )
            return _text(job, "id")
        except Exception as problem:  # also TypeErrors of the client on answers that make no sense
            raise _classify(problem, _SURELY_REFUSED) from problem

    async def events(self, job: str, until: float) -> list[Event]:
        """All events of a job from its start.

        Raises:
            RefusedError: The key is wrong or the job unknown.
            ServiceDownError: No answer until then.
        """

        async def read() -> list[Event]:
            page = self._client.training_jobs.events.list(training_job_id=job, limit=100)
            return [Event(_text(event, "id"), _text(event, "type"), dict(event.data)) async for event in page]

        return await self._repeat(read, until)

    async def close(self) -> None:
        """Close the connections."""
        await self.backend.close()

    async def _repeat(
        self,
        call: Callable[[], Awaitable[T]],
        until: float,
        refused: frozenset[int] = _SURELY_REFUSED,
    ) -> T:
        """Repeat a harmless call until it succeeds, is refused, or the time is up."""
        pause = self._pause
        while True:
            self._client.timeout = self._read_timeout
            try:
                async with asyncio.timeout(max(SHORTEST_READ, min(READ_TIMEOUT, until - time.monotonic()))):
                    return await call()
            except Exception as problem:
                error = _classify(problem, refused)
                if isinstance(error, RefusedError) and error.status != 429:
                    raise error from problem
                wait = min(max(pause, _retry_after(problem)), LONGEST_PAUSE)
                if time.monotonic() + wait >= until:
                    raise ServiceDownError(
                        f"W&B Training gave no usable answer until the deadline: {error.problem}",
                        "Nothing was lost. Train the day again once the service answers.",
                    ) from problem
            await asyncio.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)


def _classify(problem: Exception, refused: frozenset[int]) -> ServiceError:
    """Sort a failure by what is known after it."""
    import httpx
    import openai

    if isinstance(problem, ServiceError):
        return problem
    if isinstance(problem, openai.APIStatusError):
        message = " ".join(str(problem).split())[:300]
        if problem.status_code in refused:
            remedy = _REMEDIES.get(problem.status_code, "Read the message; the request itself is at fault.")
            return RefusedError(problem.status_code, message, remedy)
        return _unknown(f"answer {problem.status_code}: {message}")
    cause = problem.__cause__ if isinstance(problem, openai.APIConnectionError) else problem
    if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout):
        return UnreachableServiceError(
            f"W&B Training cannot be reached: {cause}", "Check the network and TRAINING_API_URL."
        )
    if isinstance(problem, ValueError) and "JSON compliant" in str(problem):
        return RefusedError(0, str(problem), "A reward is no finite number; build the batch again.")
    return _unknown(f"{type(cause or problem).__name__}: {' '.join(str(cause or problem).split())[:300]}")


def _unknown(what: str) -> LostAnswerError:
    return LostAnswerError(
        f"W&B Training's answer was lost ({what})", "`babylon train resolve` shows what is known."
    )


def _retry_after(problem: Exception) -> float:
    """Seconds that the service asked to wait; 0 where it did not."""
    response = getattr(problem, "response", None)
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError):
        return 0.0


def _text(answer: object, name: str) -> str:
    value = getattr(answer, name, None)
    if not isinstance(value, str) or not value:
        raise _unknown(f"an answer without {name}")
    return value


def _numbers(metrics: object) -> dict[str, float]:
    """The metrics that are numbers; the service may send null."""
    if not isinstance(metrics, dict):
        return {}
    return {
        str(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
