"""`scored_groups`: the rewards of a window's agents, compared with each other."""

import dagster as dg

from babylon_rl.orchestration.assets.common import (
    GROUP,
    OWNERS,
    log_lineage,
    retry_on_lost_database,
)
from babylon_rl.orchestration.assets.market_outcomes import market_outcomes
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.partitions import ONE_DAY_OF_WINDOWS, hourly
from babylon_rl.orchestration.reporting import (
    Metadata,
    PartitionReport,
    markdown_table,
    materialize_each,
    numbers,
)
from babylon_rl.orchestration.resources import (
    JUDGE,
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.orchestration.window_steps import score_frozen_window
from babylon_rl.scoring.groups import ScoredGroup


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
    materializes with that status and is not trained. Repeat it after another SCORER was chosen or outcomes
    matured; batches that were trained already never change.
    """
    files, settings, reports = store.open(), art.settings(postgres.settings()), []
    with retry_on_lost_database():
        async with postgres.connect(role=JUDGE) as db:
            for window_id in context.partition_keys:
                group, file = await score_frozen_window(db, files, window_id, settings)
                reports.append(PartitionReport(window_id, file.sha256, _metadata(group, file.uri)))
    log_lineage(context, wandb, reports)
    async for result in materialize_each(context, reports):
        yield result


def _metadata(group: ScoredGroup, uri: str) -> Metadata:
    actions = sum(m.actions for m in group.members)
    return {
        "status": group.status,
        "reason": group.reason,
        "groups/agents": group.agents,
        "groups/trainable_members": len(group.trainable),
        "store/uri": uri,
        "scorer": f"{group.scorer} {group.scorer_version}",
        **numbers(
            {
                "groups/reward_mean": group.reward_mean,
                "groups/reward_std": group.reward_std,
                "pnl/mean": group.pnl_mean,
                "reward/pnl_spearman": group.pnl_spearman,
                "reward/pnl_variance_share": group.pnl_variance_share,
                "actions/invalid_rate": sum(m.invalid_actions for m in group.members) / actions
                if actions
                else None,
            }
        ),
        "members": markdown_table(
            ("agent", "reward", "advantage", "P&L $", "P&L from", "orders", "invalid", "trained"),
            [
                (m.agent_id, m.reward, m.advantage, m.attributed_pnl, m.pnl_source, m.trades)
                + (m.invalid_actions, "yes" if m.trainable else "no")
                for m in group.members
            ],
        ),
    }
