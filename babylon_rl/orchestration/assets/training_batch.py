"""`training_batch`: exactly what one day trains."""

from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

import dagster as dg
from pydantic import Field

from babylon_rl.database.connection import Databases
from babylon_rl.deployment.paid_answers import AnswerBudgetError
from babylon_rl.deployment.resampled_day import resampled_batch
from babylon_rl.orchestration.assets.common import GROUP, OWNERS, log_lineage, retry_on_lost_database
from babylon_rl.orchestration.assets.scored_groups import scored_groups
from babylon_rl.orchestration.charts import histogram_markdown
from babylon_rl.orchestration.day_inputs import DayInputs, UnresolvedDayError, day_inputs
from babylon_rl.orchestration.day_report import DayReport, report_day
from babylon_rl.orchestration.lineage import inputs_of_batch
from babylon_rl.orchestration.partitions import ONE_DAY, WINDOWS_OF_THE_DAY, daily
from babylon_rl.orchestration.prompt_report import of_prompts
from babylon_rl.orchestration.reporting import Metadata, PartitionReport, markdown_table, shown
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.dropout import MOST
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, TrainingBatch, build_batch, load_batch
from babylon_rl.training.batch_records import RESAMPLE
from babylon_rl.training.diagnostics import SignalRules
from babylon_rl.training.eligibility import eligibility
from babylon_rl.training.selection import Selection
from babylon_rl.windows import windows_of_day


class BatchConfig(dg.Config):
    """Run config of `training_batch`; empty is what the schedule asks for."""

    batch_size: int | None = Field(default=None, ge=1, description="Episodes that are trained at most.")
    force: bool = Field(
        default=False, description="Train also while windows of the day with rows have no verdict yet."
    )
    skip_readiness: bool = Field(
        default=False, description="Train also below TRAINING_MIN_TRAJECTORIES and TRAINING_MIN_GROUPS."
    )
    grouping: Literal["", "window", "resample"] = Field(
        default="",
        description="window: agents of an hour against each other. resample: the parent's answers to each "
        "recorded prompt against each other. Empty: GROUPING.",
    )
    residual_rewards: bool | None = Field(
        default=None,
        description="Pay what resolutions have added to windows of earlier trained days. Empty: "
        "RESIDUAL_REWARDS.",
    )
    target_trajectories: int | None = Field(
        default=None, ge=1, description="Episodes wanted; where there are more, some are left out."
    )
    max_dropout: float = Field(
        default=MOST, ge=0.0, lt=1.0, description="Share of each window that is left out at most for it."
    )

    def selection(self, settings: Settings) -> Selection:
        """Returns what to train of the day's scored windows."""
        return Selection(
            min_agents=settings.min_agents_per_window,
            min_actions=settings.min_actions_per_trajectory or 0,
            target=self.target_trajectories,
            max_dropout=self.max_dropout,
            cap=self.batch_size,
        )


@dg.asset(
    deps=[dg.AssetDep(scored_groups, partition_mapping=WINDOWS_OF_THE_DAY)],
    partitions_def=daily,
    backfill_policy=ONE_DAY,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "wandb"},
    code_version="1",
)
async def training_batch(
    context: dg.AssetExecutionContext,
    config: BatchConfig,
    postgres: PostgresResource,
    art: ArtResource,
    store: ArtifactStoreResource,
    wandb: WandbResource,
) -> dg.MaterializeResult:
    """Exactly what one day trains: the calls of our policies in the day's scored groups, with the advantages
    of their whole group (or, with GROUPING=resample, new answers of the parent to the day's recorded prompts,
    priced against what happened), scanned for leaked outcomes and frozen under a hash. Status `empty` says
    why a day is not trained. A day that was trained keeps its batch: repeating it returns the same hash, and
    `superseded_by` if its windows would now give another one. A day with rows whose windows have no verdict
    yet is refused, whoever launched it, unless run config says `force`.
    """
    day, settings, files = context.partition_key, art.settings(postgres.settings()), store.open()
    began = monotonic()
    rules = BatchRules(
        settings.training_min_groups,
        settings.training_min_trajectories,
        SignalRules(
            settings.training_min_effective_episodes,
            settings.training_min_split_half,
            settings.training_min_pnl_spearman,
        ),
        eligibility(settings),
        settings.training_credit,
        residuals=settings.residual_rewards if config.residual_rewards is None else config.residual_rewards,
    )
    if config.skip_readiness:
        rules = replace(rules, min_groups=1, min_episodes=1)
    elif config.batch_size is not None:  # a cap that was asked for is no reason to train nothing
        rules = replace(
            rules,
            min_groups=min(rules.min_groups, max(1, config.batch_size // 2)),
            min_episodes=min(rules.min_episodes, config.batch_size),
        )
    with retry_on_lost_database():
        # No narrower role: the leak scan reads the outcomes, which are closed to whoever may write batches.
        async with postgres.connect() as db:
            inputs = await day_inputs(db.rl, day, settings, datetime.now(UTC))
            if not config.force:
                _require(inputs, day)
            if (config.grouping or settings.grouping) == RESAMPLE:
                batch = await _resampled(context, db, files, settings, rules)
            else:
                batch = await build_batch(db.rl, files, day, rules, config.selection(settings))
            report = await report_day(db.rl, day)
            # The groups of now are not what a frozen batch was made from once they give another one.
            groups = {} if batch.superseded_by else await inputs_of_batch(db.rl, day, windows_of_day(day))
    metadata = _metadata(batch, files) | of_prompts(batch) | _of_inputs(inputs) | _pictures(report)
    metadata |= {"duration/batch_s": monotonic() - began}
    metadata |= log_lineage(context, wandb, [PartitionReport(day, batch.sha256)], groups)
    return dg.MaterializeResult(metadata=shown(metadata), data_version=dg.DataVersion(batch.sha256))


async def _resampled(
    context: dg.AssetExecutionContext,
    db: Databases,
    files: ArtifactStore,
    settings: Settings,
    rules: BatchRules,
) -> TrainingBatch:
    try:
        return await resampled_batch(db, files, settings, context.partition_key, rules, context.log.info)
    except AnswerBudgetError as problem:  # a repetition would be refused as well
        raise dg.Failure(str(problem), allow_retries=False) from problem


def _metadata(batch: TrainingBatch, files: ArtifactStore) -> Metadata:
    _, episodes = load_batch(files, batch.uri)
    return {
        "status": batch.status,
        "reason": batch.reason,
        "grouping": batch.grouping,
        "groups/count": batch.groups,
        "episodes/count": batch.episodes,
        "calls/trained": batch.calls,
        "calls/dropped": sum(batch.dropped.values()),
        "leaks/count": len(batch.leaks),
        "store/uri": batch.uri,
        "superseded_by": batch.superseded_by,
        "advantages": dg.MetadataValue.md(
            histogram_markdown([episode.advantage for episode in episodes], "Advantage per episode")
        ),
        **{f"signal/{name}": value for name, value in batch.diagnostics.items()},
        **_residuals(batch),
        "policies": markdown_table(("policy version", "calls"), list(batch.policy_versions.items())),
        "dropped calls": markdown_table(("reason", "calls"), list(batch.dropped.items())),
        "confirmed calls": markdown_table(("confirmed by", "calls"), list(batch.confirmed.items())),
        "calls without logprobs": markdown_table(
            ("what became of them", "calls"), list(batch.without_logprobs.items())
        ),
        "leaks": markdown_table(
            ("window", "agent", "kind"), [(k.window_id, k.agent_id, k.kind) for k in batch.leaks]
        ),
    }


def _residuals(batch: TrainingBatch) -> Metadata:
    found = batch.residuals
    if not found:
        return {}
    without = list(found["without"].items())
    return {
        **{f"residual/{name}": found[name] for name in ("groups", "episodes", "usd", "waiting")},
        "without residuals": markdown_table(("why", "windows or days"), without),
    }


def _require(inputs: DayInputs, day: str) -> None:
    try:
        inputs.require(day)
    except UnresolvedDayError as problem:  # no repetition of the step would help
        raise dg.Failure(str(problem), allow_retries=False) from problem


def _of_inputs(inputs: DayInputs) -> Metadata:
    late = [(f.window_id, f.group_status or "not scored", f.stale or "") for f in inputs.unresolved]
    late += [(f.window_id, f.group_status, f.stale) for f in inputs.stale]
    return {
        "windows/unresolved": len(inputs.unresolved),
        "windows/stale": len(inputs.stale),
        "windows that are not final": markdown_table(("window", "status", "why"), late),
    }


def _pictures(report: DayReport) -> Metadata:
    episode = ("window", "agent", "reward", "advantage")
    return {
        "rewards": dg.MetadataValue.md(report.rewards),
        "P&L": dg.MetadataValue.md(report.pnl),
        "best episodes": markdown_table(episode, report.best),
        "worst episodes": markdown_table(episode, report.worst),
        "windows": markdown_table(
            ("window", "group", "episodes", "mean reward", "mean P&L $"), report.windows
        ),
    }
