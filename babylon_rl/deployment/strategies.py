"""Strategies of a release, by their present and their old names, and the schedule of a gradual one."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from babylon_rl.deployment.errors import StrategyError

Strategy = Literal["immediate", "gradual", "test"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

OLD_NAMES: dict[str, Strategy] = {"replace": "immediate", "blue-green": "immediate", "canary": "gradual"}
"""Names of the game's older configuration files. Blue-green means: both are loaded, then all switch at once,
which is how an immediate deployment works here."""

DEFAULT_PERCENTAGE = 10.0
"""The seeds' share of a gradual rollout."""

_AGENT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")
MOST_AGENTS = 1000


class Stage(msgspec.Struct, frozen=True):
    """A step of a gradual rollout."""

    percentage: float
    """Percent of agents (outside experiments) or of agents' blocks (in one) with the candidate."""
    windows: int | None = None
    """Hours until the next step; None stays until a decision."""


def parse_strategy(name: str) -> Strategy:
    """The strategy of this name, old or new.

    Raises:
        StrategyError: There is none; the remedy lists them.
    """
    wanted = name.strip().lower().replace("_", "-")
    for strategy in STRATEGIES:
        if wanted == strategy:
            return strategy
    if wanted in OLD_NAMES:
        return OLD_NAMES[wanted]
    near = difflib.get_close_matches(wanted, (*STRATEGIES, *OLD_NAMES), n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise StrategyError(
        f"strategy: there is no {name[:50]!r}",
        f"{hint}There are immediate (also replace, blue-green), gradual (also canary) and test.",
    )


def check_percentage(value: float) -> float:
    """A share in percent.

    Raises:
        StrategyError: Not a number from 0 to 100.
    """
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 100:
        raise StrategyError(f"percentage: {value} is not a number from 0 to 100", "0 shows it to nobody yet.")
    return float(value)


def make_schedule(
    percentage: float | None, schedule: Sequence[Stage | tuple[float, int | None]] | None
) -> list[Stage]:
    """The steps of a gradual rollout: those given, else one of the percentage.

    Raises:
        StrategyError: A step is out of range, falls back, or could not be reached.
    """
    if schedule is not None and percentage is not None:
        raise StrategyError("a percentage and a schedule", "Give one of them.")
    if schedule is None:
        return [Stage(check_percentage(DEFAULT_PERCENTAGE if percentage is None else percentage))]
    steps = [step if isinstance(step, Stage) else Stage(*step) for step in schedule]
    if not steps:
        raise StrategyError("schedule: it is empty", "Write it as 10:24,50: percent and hours.")
    for number, step in enumerate(steps):
        check_percentage(step.percentage)
        last = number == len(steps) - 1
        if step.windows is None and not last:
            raise StrategyError(
                f"schedule: step {number + 1} has no end, so the next one never begins", "Give it hours."
            )
        if step.windows is not None and not 1 <= step.windows <= 24 * 365:
            raise StrategyError(
                f"schedule: {step.windows} hours in step {number + 1}", "From 1 hour to a year."
            )
        if number and step.percentage <= steps[number - 1].percentage:
            raise StrategyError(
                f"schedule: step {number + 1} does not rise above {steps[number - 1].percentage:g} %",
                "Shares of a gradual rollout rise; `babylon rollback` takes a model back.",
            )
    return [*steps[:-1], Stage(steps[-1].percentage)]


def parse_schedule(text: str) -> list[Stage]:
    """Reads `10:24,50:48,100`: percent, and hours until the next step.

    Raises:
        StrategyError: It reads otherwise.
    """
    steps = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*(?::\s*(\d+)\s*h?)?\s*", part, re.ASCII)
        if match is None:
            raise StrategyError(
                f"schedule: {part.strip()[:50]!r} is no step", "Write it as 10:24,50: percent and hours."
            )
        steps.append(Stage(float(match[1]), int(match[2]) if match[2] else None))
    return make_schedule(None, steps)


def check_agents(agents: Sequence[str]) -> list[str]:
    """The ids of named agents, each once.

    Raises:
        StrategyError: None, too many, or what cannot be an id.
    """
    named = list(dict.fromkeys(agents))
    if not named:
        raise StrategyError("agents: strategy test needs the agents that try the model", "Name one or more.")
    if len(named) > MOST_AGENTS:
        raise StrategyError(f"agents: {len(named)} are named", f"At most {MOST_AGENTS}; use gradual.")
    for agent in named:
        if not isinstance(agent, str) or not _AGENT.fullmatch(agent):
            raise StrategyError(
                f"agents: {str(agent)[:50]!r} is no agent id", "1 to 128 printable characters."
            )
    return named
