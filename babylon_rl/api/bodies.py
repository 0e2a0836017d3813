"""The bodies that the admin API reads: small JSON objects, typed, with the seeds' defaults."""

import json
import math
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request

from babylon_rl.api.errors import AdminError

MAX_BODY_BYTES = 64 << 10

Agent = Annotated[str, Meta(min_length=1, max_length=128)]
VersionText = Annotated[str, Meta(min_length=1, max_length=64)]
Reason = Annotated[str, Meta(max_length=500)]


class TriggerBody(msgspec.Struct, forbid_unknown_fields=True):
    """`{"force": false, "batchSize": 100}`; `day` is ours."""

    force: bool = False
    """Whether to train although the readiness says no; never without data."""
    batchSize: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Episodes that are trained at most."""
    day: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    """The day to train; by default the oldest one that is not trained."""


class DeployBody(msgspec.Struct, forbid_unknown_fields=True):
    modelVersion: VersionText
    strategy: Literal["immediate", "gradual", "test", "replace", "blue-green", "canary"] = "gradual"
    rolloutPercentage: Annotated[float, Meta(ge=0, le=100)] = 10.0
    testAgentIds: Annotated[list[Agent], Meta(max_length=1000)] = []
    schedule: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Shares and hours of a gradual rollout, such as 10:24,50:48,100; instead of the percentage."""
    force: bool = False
    """Whether to deploy what the gate has not promoted."""
    reason: Reason = "admin API"


class PromoteBody(msgspec.Struct, forbid_unknown_fields=True):
    reason: Reason = "promoted through the admin API"


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True):
    targetVersion: VersionText | None = None
    """By default the version that served before."""
    reason: Reason = "rollback through the admin API"


class AiModelsBody(msgspec.Struct, forbid_unknown_fields=True):
    """A key that is left out stays as it is; null takes the model away."""

    wandbModel: Annotated[str, Meta(min_length=1, max_length=200)] | None | UnsetType = UNSET
    wandbEnabled: bool | UnsetType = UNSET


class WorkerBody(msgspec.Struct):
    """What the game sends to the old worker."""

    batchId: Annotated[str, Meta(min_length=1, max_length=200)]
    source: str | None = None


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    reason: Reason = "cancelled through the admin API"


T = TypeVar("T")


async def read_body(request: Request, kind: type[T]) -> T:
    """The request's JSON as a typed value; an empty body counts as `{}`.

    Raises:
        AdminError: 413 for a large body, 400 for what is no JSON or does not fit, naming the field.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise AdminError(413, f"The body has more than {MAX_BODY_BYTES} bytes")
    try:
        # Also what msgspec's decoder takes and the database does not: lone surrogates and NUL.
        value: Any = json.loads(bytes(data) or b"{}", parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise AdminError(400, "The body is not JSON") from None
    if _has_nul(value):
        raise AdminError(400, "The body holds a NUL character")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.strip("`.")
        raise AdminError(400, f"{field}: {message}" if field else message) from None


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(part) for key, part in value.items())
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, list) and any(map(_has_nul, value))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
