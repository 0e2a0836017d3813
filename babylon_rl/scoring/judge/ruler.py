"""RULER: the rewards of a window are a judge's scores, and nothing is mixed into them.

    judged ──► doubted? ──► judged again in another order ──► doubted? ──► judged by the second judge ──► …

A verdict is doubted as a whole, when it contradicts the money or a canary fooled the judge. `ruler` keeps the
last verdict then, and says so; `ruler_with_heuristic_check` ends with a local scorer. The trained group is
untouched except for its rewards: the judge's words, the ground truth and the cost go to tables of their own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from babylon_rl.scoring.agreement import kendall_tau
from babylon_rl.scoring.dropout import dropout_rate, kept_agents
from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.groups import (
    IMMATURE,
    SMALLEST_SPREAD,
    UNJUDGED,
    ScoredGroup,
    group_of,
    refuse,
)
from babylon_rl.scoring.judge.alarm import disagreement, money_correlation
from babylon_rl.scoring.judge.errors import JudgeError, JudgeSetupError, JudgeUnavailableError
from babylon_rl.scoring.judge.ledger import Usage
from babylon_rl.scoring.judge.panel import Panel, PanelVerdict
from babylon_rl.scoring.judge.redaction import Redactor
from babylon_rl.scoring.judge.truth import ground_truth
from babylon_rl.scoring.judge.views import build_views
from babylon_rl.scoring.local import Score, Scorer
from babylon_rl.scoring.window_scorer import JudgeRun, Judgment, ScoredWindow, WindowToScore
from babylon_rl.windows import WINDOWS_PER_DAY

VERSION = "1"
USUAL_RANGE = (0.25, 0.75)
"""Scores of a group that a local scorer takes over from a judge that gave everybody the same."""
DIRECT, REORDERED, SECOND, STANDS = "ruler", "another order", "second judge", "doubt stands"


@dataclass(frozen=True)
class RulerRules:
    """How a window is judged, apart from by whom.

    Attributes:
        min_agents: Distinct agents below which a window is thin.
        episode_tokens: Most tokens of an episode's view.
        alarm_correlation: Rank correlation with attributed P&L below which a verdict is doubted.
        target_per_day: Episodes per day worth judging; None for all.
        max_dropout: Most of a window that is left out for it.
        secrets: Values that must not leave.
    """

    min_agents: int = 3
    episode_tokens: int = 1200
    alarm_correlation: float = 0.3
    target_per_day: int | None = None
    max_dropout: float = 0.3
    secrets: tuple[str, ...] = ()


class RulerScorer:
    """Scores windows by a judge.

    Args:
        panel: The judge.
        rules: See `RulerRules`.
        second: A judge that is asked when the first is doubted twice.
        check: The local scorer that takes over a group that is doubted to the end; None lets the last verdict
            stand.
    """

    def __init__(
        self, panel: Panel, rules: RulerRules, *, second: Panel | None = None, check: Scorer | None = None
    ) -> None:
        self._panel, self._second, self._check, self._rules = panel, second, check, rules
        self.name = "ruler" if check is None else "ruler_with_heuristic_check"

    @property
    def version(self) -> str:
        return _version(self._panel)

    async def score(self, window: WindowToScore) -> ScoredWindow:
        """Returns the judged group, or one with the status `unjudged` and the reason.

        Raises:
            JudgeSetupError: Key, model or price is wrong: no window can be judged.
        """
        refusal = refuse(window.episodes, self, self._rules.min_agents, window_id=window.window_id)
        if refusal is not None:
            return ScoredWindow(refusal)
        if window.outcomes is None:
            return ScoredWindow(self._without_scores(window, IMMATURE, "its outcomes are not derived"))
        episodes = self._kept(window)
        client = self._panel.client
        run = JudgeRun(
            window_id=window.window_id,
            scorer=self.name,
            judge_model=client.address.name,
            rubric=client.rubric.name,
            rubric_sha256=client.rubric.sha256,
            episodes=len(episodes),
            dropped=len(window.episodes) - len(episodes),
            orders=self._panel.orders,
        )
        usage, started = Usage(), time.monotonic()
        try:
            return await self._judge(window, episodes, run, usage)
        except JudgeSetupError:
            raise
        except JudgeError as problem:
            run.reason, run.passing = str(problem), isinstance(problem, JudgeUnavailableError)
            return ScoredWindow(self._without_scores(window, UNJUDGED, str(problem)), run)
        finally:
            run.calls, run.cached, run.cost_usd = usage.calls, usage.cached, usage.cost_usd
            run.input_tokens, run.output_tokens = usage.input_tokens, usage.output_tokens
            run.seconds = time.monotonic() - started

    async def _judge(
        self, window: WindowToScore, episodes: list[Episode], run: JudgeRun, usage: Usage
    ) -> ScoredWindow:
        assert window.outcomes is not None
        secrets = self._rules.secrets
        views = build_views(episodes, secrets=secrets, max_tokens=self._rules.episode_tokens)
        truth = ground_truth(window.outcomes, Redactor(secrets))
        verdict = await self._panel.judge(window.window_id, truth, views, usage)
        method, panel = DIRECT, self._panel
        _note(run, verdict)
        run.alarm = self._doubt(episodes, verdict)
        if run.alarm:
            attempts: list[tuple[str, Panel, dict[str, Any]]] = [
                (REORDERED, self._panel, {"first_order": self._panel.orders})
            ]
            attempts += [(SECOND, self._second, {})] if self._second else []
            for method, panel, options in attempts:  # noqa: B007 - the last one is used below
                verdict = await panel.judge(
                    window.window_id, truth, views, usage, purpose="doubt", canary=True, **options
                )
                _note(run, verdict)
                if self._doubt(episodes, verdict) is None:
                    break
            else:
                if self._check is not None:
                    return self._locally(self._check, episodes, verdict, run)
                method = STANDS
        run.judge_model = panel.client.address.name
        return self._scored(episodes, verdict, run, method, _version(panel))

    def _doubt(self, episodes: Sequence[Episode], verdict: PanelVerdict) -> str | None:
        if verdict.fooled:
            return f"a canary got {max(verdict.canaries):.2f}, which it is not worth"
        return disagreement(episodes, verdict.scores, self._rules.alarm_correlation)

    def _locally(
        self, check: Scorer, episodes: list[Episode], verdict: PanelVerdict, run: JudgeRun
    ) -> ScoredWindow:
        """The whole group by the local scorer, on the range of the judge's scores, so that a group does not
        count more or less in a batch because it was doubted.
        """
        rewards = {score.agent_id: score.reward for score in check.score(episodes)}
        local = [rewards[episode.agent_id] for episode in episodes]
        low, high = min(local), max(local)
        floor, ceiling = min(verdict.scores), max(verdict.scores)
        if ceiling - floor <= SMALLEST_SPREAD:
            floor, ceiling = USUAL_RANGE
        share = [(value - low) / (high - low) if high > low else 0.0 for value in local]
        scores = [floor + part * (ceiling - floor) for part in share]
        reason = f"The judge was doubted to the end ({run.alarm}); the whole group is ranked by {check.name}."
        replaced = msgspec.structs.replace(
            verdict,
            scores=scores,
            by_order=[scores],
            reasons=[reason] * len(scores),
            components=[{} for _ in scores],
        )
        version = f"{_version(self._panel)}:{check.name} {check.version}"
        return self._scored(episodes, replaced, run, f"local {check.name}", version)

    def _scored(
        self, episodes: list[Episode], verdict: PanelVerdict, run: JudgeRun, method: str, version: str
    ) -> ScoredWindow:
        scores = verdict.scores
        group = group_of(
            episodes,
            [Score(e.agent_id, score, {}) for e, score in zip(episodes, scores, strict=True)],
            self.name,
            version,
        )
        known = [
            (s, e.attributed_pnl)
            for e, s in zip(episodes, scores, strict=True)
            if e.attributed_pnl is not None
        ]
        run.status, run.method = "judged", method
        run.spread, run.flip_rate = verdict.spread, verdict.flips
        run.spearman = money_correlation(episodes, scores)
        run.kendall = kendall_tau([s for s, _ in known], [p for _, p in known]) if len(known) > 1 else None
        return ScoredWindow(group, run, _judgments(episodes, verdict))

    def _kept(self, window: WindowToScore) -> list[Episode]:
        target = self._rules.target_per_day
        share = None if target is None else target / WINDOWS_PER_DAY
        rate = dropout_rate(len(window.episodes), share, self._rules.max_dropout)
        kept = set(kept_agents(window.window_id, [e.agent_id for e in window.episodes], rate))
        return [episode for episode in window.episodes if episode.agent_id in kept]

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


def _version(panel: Panel) -> str:
    client = panel.client
    return f"{VERSION}:{client.address.name}:{client.rubric.sha256[:12]}:{panel.orders}"


def _note(run: JudgeRun, verdict: PanelVerdict) -> None:
    run.canaries += len(verdict.canaries)
    run.canary_failed = run.canary_failed or verdict.fooled
    if verdict.canaries:
        run.canary_score = max(*verdict.canaries, run.canary_score or 0.0)


def _judgments(episodes: Sequence[Episode], verdict: PanelVerdict) -> list[Judgment]:
    low, high = min(verdict.scores), max(verdict.scores)
    return [
        Judgment(
            agent_id=episode.agent_id,
            trajectory_ids=episode.trajectory_ids,
            score=score,
            normalized_score=(score - low) / (high - low) if high > low else 0.5,
            rank=1 + sum(other > score for other in verdict.scores),
            components=verdict.components[i],
            spread=verdict.spreads[i],
            reasoning=verdict.reasons[i],
        )
        for i, (episode, score) in enumerate(zip(episodes, verdict.scores, strict=True))
    ]
