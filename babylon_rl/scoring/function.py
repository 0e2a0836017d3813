"""A reward function of your own: `SCORER=function`, `REWARD_FUNCTION=package.module:function`.

    def reward(episodes, outcomes):                 # or `async def`
        return {episode.agent_id: my_number(episode, outcomes) for episode in episodes}

It gets the window's episodes (`scoring.episodes.Episode`) and its ground truth
(`outcomes.window_outcomes.WindowOutcomes`) and returns a finite number for each agent id, or a list of
`Score`. A window in which it fails stays unjudged, with the reason; it is never scored by default.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import msgspec

from babylon_rl.scoring.groups import IMMATURE, UNJUDGED, ScoredGroup, group_of, refuse
from babylon_rl.scoring.local import Score, ScoringError
from babylon_rl.scoring.window_scorer import ScoredWindow, WindowToScore


class FunctionScorer:
    """Rewards by a user's function.

    Args:
        path: `package.module:function`.
        min_agents: Distinct agents below which a window is thin.

    Raises:
        ScoringError: The function cannot be imported.
    """

    name = "function"

    def __init__(self, path: str, min_agents: int) -> None:
        self._path, self._min_agents = path, min_agents
        self._function = _load(path)
        self.version = f"{path}:{_source_hash(self._function)}"

    async def score(self, window: WindowToScore) -> ScoredWindow:
        refusal = refuse(window.episodes, self, self._min_agents, window_id=window.window_id)
        if refusal is not None:
            return ScoredWindow(refusal)
        if window.outcomes is None:
            return ScoredWindow(self._without_scores(window, IMMATURE, "its outcomes are not derived"))
        try:
            given = self._function(window.episodes, window.outcomes)
            rewards = await given if inspect.isawaitable(given) else given
            return ScoredWindow(group_of(window.episodes, _scores(rewards), self.name, self.version))
        except ScoringError as problem:
            reason = f"{self._path}: {problem.problem}"
        except Exception as problem:  # a user's code may raise anything, and must not sink the other windows
            reason = f"{self._path} raised {type(problem).__name__}: {problem}"
        return ScoredWindow(self._without_scores(window, UNJUDGED, reason[:500]))

    def _without_scores(self, window: WindowToScore, status: str, reason: str) -> ScoredGroup:
        return ScoredGroup(
            window_id=window.window_id,
            status=status,
            reason=reason,
            scorer=self.name,
            scorer_version=self.version,
            agents=len(window.episodes),
            horizon=window.episodes[0].horizon,
        )


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    remedy = "REWARD_FUNCTION is package.module:function, importable where the pipeline runs."
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise ScoringError(f"the reward function {path} cannot be imported: {problem}", remedy) from problem
    if not callable(function):
        raise ScoringError(f"{path} is no function", remedy)
    return function


def _source_hash(function: Callable[..., Any]) -> str:
    """First digits of the hash of the function's file, so that a changed reward is another version."""
    try:
        source = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        source = repr(function)
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def _scores(rewards: Any) -> list[Score]:
    if isinstance(rewards, Mapping):
        return [Score(agent_id, _number(agent_id, value), {}) for agent_id, value in rewards.items()]
    if isinstance(rewards, list) and all(isinstance(score, Score) for score in rewards):
        return [
            msgspec.structs.replace(score, reward=_number(score.agent_id, score.reward)) for score in rewards
        ]
    raise ScoringError(f"it returned {type(rewards).__name__}", "Return a dict of agent id to number.")


def _number(agent_id: object, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) and not hasattr(value, "__float__"):
        raise ScoringError(f"its reward of {agent_id} is {value!r}", "Return a number.")
    return float(value)
