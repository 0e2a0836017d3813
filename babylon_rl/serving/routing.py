"""The seam between a request and the version that answers it.

A router is a function from a `RouteRequest` and what can be served (`Serving`) to a `Route`. `route` is the
plain one: the active version, a version or the base model by name. Gradual rollout and experiments replace it
with one that looks at the agent and the time; everything else of the gateway stays as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from babylon_rl.serving.errors import GatewayError
from babylon_rl.serving.upstream import Target

DEFAULT_MODEL = "babylon-agent"
"""The name behind which the gateway chooses the version."""


@dataclass(frozen=True)
class RouteRequest:
    """Who asks for what."""

    model: str
    """The model's name as the client wrote it; empty means `DEFAULT_MODEL`."""
    agent_id: str | None
    agent_verified: bool
    """Whether the caller's key is bound to the agent, so that the id can be believed."""
    at: float
    """Seconds since 1970 in UTC."""


@dataclass(frozen=True)
class Serving:
    """What can answer now: replaced as a whole on every change, so a request sees one state."""

    active: str
    """Version behind `DEFAULT_MODEL`."""
    targets: Mapping[str, Target]
    """By version."""
    base: str | None = None
    """Version of the base model, where it can answer."""
    base_names: frozenset[str] = frozenset()
    """Names that mean the base model."""
    fallback: bool = True
    """Whether the base model answers where another version fails."""
    notes: tuple[str, ...] = field(default=())
    """What is not as it should be, for the readiness report."""


@dataclass(frozen=True)
class Route:
    """Which target answers, under which variant it is counted, and what answers if it fails."""

    variant: str
    """`active`, `base` or `pinned` here; experiments add `candidate`."""
    target: Target
    fallback: Target | None = None


Router = Callable[[RouteRequest, Serving], Route]


def route(request: RouteRequest, serving: Serving) -> Route:
    """The active version for `DEFAULT_MODEL`, else the version or base model that is named.

    Raises:
        GatewayError: 404, the name means nothing that is served.
    """
    name = request.model or DEFAULT_MODEL
    if name == DEFAULT_MODEL:
        version, variant = serving.active, "base" if serving.active == serving.base else "active"
    elif name in serving.base_names and serving.base is not None:
        version, variant = serving.base, "base"
    else:
        version, variant = name.removeprefix(f"{DEFAULT_MODEL}-"), "pinned"
    target = serving.targets.get(version)
    if target is None:
        raise GatewayError(
            404,
            "model_not_found",
            f"model: there is no model {name[:100]!r} here",
            f"Served are {', '.join(model_names(serving))}.",
            param="model",
        )
    return Route(variant, target, fallback_of(target, serving))


def fallback_of(target: Target, serving: Serving) -> Target | None:
    """The base model, unless that is what failed or it is not to answer for others."""
    if not serving.fallback or serving.base is None or target.version == serving.base:
        return None
    return serving.targets.get(serving.base)


def model_names(serving: Serving) -> list[str]:
    """Every name that `route` understands, the default one first."""
    return [
        DEFAULT_MODEL,
        *(target.model_id for target in serving.targets.values()),
        *sorted(serving.base_names),
    ]
