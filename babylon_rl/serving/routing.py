"""The seam between a request and the version that answers it.

A router is a function from a `RouteRequest` and what can be served (`Serving`) to a `Route`. `route` is the
plain one: the active version, a version or the base model by name. `release_route`, the gateway's, also looks
at the agent and the time: RL_ROLLOUT_PERCENTAGE, a rollout's share or named agents, an experiment.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from babylon_rl.deployment.assignment import Assignment, draw
from babylon_rl.serving.errors import GatewayError
from babylon_rl.serving.upstream import Target

DEFAULT_MODEL = "babylon-agent"
"""The name behind which the gateway chooses the version."""

TRAINED_SALT = "RL_ROLLOUT_PERCENTAGE"
"""Of the draws that RL_ROLLOUT_PERCENTAGE compares with: the same agents for every version and gateway."""


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
    rollout: Assignment | None = None
    """The rollout that runs, if its candidate is loaded."""
    trained_share: float = 100.0
    """Percent of agents that get a trained model at all; the others get the base."""
    verified_only: bool = False
    """Whether only agents that a key vouches for are believed to be who they say, in rollouts."""
    override: str | None = None
    """What `SystemSettings.wandbModel` names, while that decides who answers."""


@dataclass(frozen=True)
class Route:
    """Which target answers, under which variant it is counted, and what answers if it fails."""

    variant: str
    """`active`, `candidate`, `base`, `pinned` (a version by name) or `override`."""
    target: Target
    fallback: Target | None = None
    rollout_id: int | None = None
    """The rollout that chose the variant."""


Router = Callable[[RouteRequest, Serving], Route]


def route(request: RouteRequest, serving: Serving) -> Route:
    """The active version for `DEFAULT_MODEL`, else the version or base model that is named.

    Raises:
        GatewayError: 404, the name means nothing that is served.
    """
    name = request.model or DEFAULT_MODEL
    if name == DEFAULT_MODEL:
        version = serving.active
        variant = "base" if version == serving.base else "override" if serving.override else "active"
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


def release_route(request: RouteRequest, serving: Serving) -> Route:
    """`route`, and for `DEFAULT_MODEL` what the release of a model says about this agent now.

    Callers without an agent, and agents that nobody vouches for where keys do so, get what is proven.

    Raises:
        GatewayError: 404, the name means nothing that is served.
    """
    plain = route(request, serving)
    if (request.model or DEFAULT_MODEL) != DEFAULT_MODEL:
        return plain
    agent = request.agent_id if request.agent_verified or not serving.verified_only else None
    base = None if serving.base is None else serving.targets.get(serving.base)
    if serving.trained_share < 100.0 and base is not None and plain.variant != "override":
        if agent is None or draw(agent, TRAINED_SALT) >= serving.trained_share:
            return Route("base", base)
    rollout = serving.rollout
    if rollout is None:
        return plain
    arm = rollout.arm(agent, request.at)
    target = serving.targets.get(rollout.version if arm == "candidate" else serving.active)
    if target is None:
        return plain
    return Route(arm, target, fallback_of(target, serving), rollout.rollout_id)


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
