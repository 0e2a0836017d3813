"""`scored_groups`: the rewards of a window's agents, compared with each other."""

from contextlib import AbstractAsyncContextManager

import dagster as dg

from babylon_rl.database.connection import Databases
from babylon_rl.orchestration.assets.common import (
    GROUP,
    OWNERS,
    log_lineage,
    retry_on_lost_database,
    stop_on_wrong_setup,
    with_jitter,
)
from babylon_rl.orchestration.assets.market_outcomes import market_outcomes
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.charts import as_markdown
from babylon_rl.orchestration.judge_report import judge_metadata
from babylon_rl.orchestration.lineage import inputs_of_groups
from babylon_rl.orchestration.model_pictures import reward_against_pnl
from babylon_rl.orchestration.partitions import ONE_DAY_OF_WINDOWS, hourly
from babylon_rl.orchestration.reporting import (
    Metadata,
    PartitionReport,
    markdown_table,
    materialize_each,
)
from babylon_rl.orchestration.resources import (
    JUDGE,
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.scoring.groups import ScoredGroup

JUDGE_RETRIES = 2
JUDGE_RETRY_SECONDS = 60.0
"""A judge that was unreachable or overloaded gets so much time before its windows are asked for again."""


@dg.asset(
    deps=[trajectories, market_outcomes],
    partitions_def=hourly,
    backfill_policy=ONE_DAY_OF_WINDOWS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "wandb"},
    code_version="1",
)
async def scored_groups(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    art: ArtResource,
    store: ArtifactStoreResource,
    wandb: WandbResource,
):
    """One GRPO group per window: all agents faced the same market, so each one's baseline is the others' mean
    reward. A window that carries no signal (`thin`, `empty`, `no_spread`) or is too young (`immature`)
    materializes with that status and is not trained; one that a judge could not judge is `unjudged`, or keeps
    the verdict it had. Repeat it after another SCORER was chosen or outcomes matured, or in run config with
    another judge or rubric to compare; batches that were trained already never change.
    """
    files, settings, reports = store.open(), art.settings(postgres.settings()), []

    def own() -> AbstractAsyncContextManager[Databases]:
        return postgres.connect(role=JUDGE)

    passing = False
    with retry_on_lost_database(), stop_on_wrong_setup():
        async with own() as db:
            async for done in score_windows(db, files, context.partition_keys, settings, own):
                group, run = done.scored.group, done.scored.run
                passing = passing or (run is not None and run.passing)
                # A range run draws nothing per window; `training_batch` shows the day.
                single = len(context.partition_keys) == 1
                metadata = _metadata(group, done.file.uri, draw=single) | judge_metadata(done)
                metadata |= {"duration/score_s": done.scored.seconds}
                reports.append(PartitionReport(group.window_id, done.file.sha256, metadata))
            inputs = await inputs_of_groups(db.rl, context.partition_keys)
    if passing and context.retry_number < JUDGE_RETRIES:
        # Windows that were judged are not paid for again.
        raise dg.RetryRequested(JUDGE_RETRIES, with_jitter(JUDGE_RETRY_SECONDS))
    link = log_lineage(context, wandb, reports, inputs)
    async for result in materialize_each(context, reports, link):
        yield result


def _metadata(group: ScoredGroup, uri: str, *, draw: bool) -> Metadata:
    actions = sum(m.actions for m in group.members)
    return {
        "status": group.status,
        "reason": group.reason,
        "groups/agents": group.agents,
        "groups/trainable_members": len(group.trainable),
        "store/uri": uri,
        "scorer": f"{group.scorer} {group.scorer_version}",
        "groups/reward_mean": group.reward_mean,
        "groups/reward_std": group.reward_std,
        "pnl/mean": group.pnl_mean,
        "reward/pnl_spearman": group.pnl_spearman,
        "reward/pnl_variance_share": group.pnl_variance_share,
        "actions/invalid_rate": sum(m.invalid_actions for m in group.members) / actions if actions else None,
        **({"reward against P&L": _picture(group)} if draw else {}),
        "members": markdown_table(
            ("agent", "reward", "advantage", "P&L $", "P&L from", "orders", "invalid", "trained"),
            [
                (m.agent_id, m.reward, m.advantage, m.attributed_pnl, m.pnl_source, m.trades)
                + (m.invalid_actions, "yes" if m.trainable else "no")
                for m in sorted(group.members, key=lambda m: -m.reward)
            ],
        ),
    }


def _picture(group: ScoredGroup) -> dg.MarkdownMetadataValue:
    points = [(m.attributed_pnl, m.reward) for m in group.members]
    return dg.MetadataValue.md(as_markdown(reward_against_pnl(points), "Reward against attributed P&L"))
