"""What the UI shows of an asset before anything was made: the columns of its records, its code, its pages.

The code link is a page of the repository (`SOURCE_URL`). Without that setting there is none: the usual local
link would show paths of this machine to everybody who opens the UI.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from babylon_rl.orchestration.reporting import table_schema
from babylon_rl.settings import Settings

_ROOT = Path(__file__).resolve().parents[2]


def _columns(*columns: tuple[str, str, str]) -> dg.TableSchema:
    return table_schema(columns)


_WINDOW = ("window_id", "text", "Hour of the game, UTC: YYYY-MM-DDTHH:00.")
_DAY = ("day", "date", "Day in UTC.")

COLUMNS: dict[str, dg.TableSchema] = {
    "recorded_rows": _columns(
        ("trajectoryId", "text", "Id of the row, made by the recorder."),
        ("agentId", "text", "Who acted."),
        (
            "windowId",
            "text",
            "The window as recorded; absent or unreadable ones go by the hour of startTime.",
        ),
        ("startTime", "timestamp(3)", "First step, UTC."),
        ("stepsJson", "text", "Steps: environment, model calls, action."),
    ),
    "trajectories": _columns(
        ("trajectoryId", "text", "Id of the recorded row."),
        ("agentId", "text", "Who acted."),
        _WINDOW,
        ("startTime", "timestamp", "First step, UTC."),
        ("steps", "array", "Typed steps: environment, model calls, action."),
    ),
    "market_outcomes": _columns(
        _WINDOW,
        ("outcomes", "jsonb", "Stocks, prediction markets and news: what the agents did not know."),
        ("sha256", "text", "Hash of the outcomes."),
        ("derived_at", "timestamptz", "When they were derived."),
    ),
    "scored_groups": _columns(
        _WINDOW,
        ("agent_id", "text", "Member of the group."),
        ("scorer", "text", "What made the reward."),
        ("reward", "float8", "Reward of the agent's episode."),
        ("advantage", "float8", "Reward minus the mean of the others."),
        ("components", "jsonb", "Parts of the reward by name."),
        ("group_sha256", "text", "Hash of the group's file."),
    ),
    "training_batch": _columns(
        _DAY,
        ("batch_sha256", "text", "Hash and name of the frozen batch."),
        ("status", "text", "ready or empty."),
        ("groups", "integer", "Scored windows in it."),
        ("episodes", "integer", "Episodes of an agent in a window."),
        ("calls", "integer", "Model calls that are trained."),
        ("reason", "text", "Why it is empty."),
        ("superseded_by", "text", "Hash of what the day's windows would give now."),
    ),
    "trained_checkpoint": _columns(
        ("version", "text", "vMAJOR.MINOR.PATCH."),
        ("parent_version", "text", "The version it was trained from."),
        ("batch_sha256", "text", "The batch it was trained on."),
        _DAY,
        ("storage_path", "text", "URI of the checkpoint's directory."),
        ("status", "text", "training, ready, deployed, archived or failed."),
        ("verdict", "text", "Of the gate: promoted, inconclusive or rejected."),
        ("manifest", "jsonb", "Lineage, seed, library versions, hash of each file."),
    ),
    "checkpoint_benchmark": _columns(
        ("version", "text", "The candidate."),
        ("incumbent", "text", "What it was compared with."),
        ("seed_key", "text", "Where its held-out markets come from; used once."),
        ("windows", "integer", "Held-out markets."),
        ("metrics", "jsonb", "Standings, intervals, success criteria."),
        ("verdict", "text", "promoted, inconclusive or rejected."),
        ("reason", "text", "The verdict in words."),
    ),
    "deployed_model": _columns(
        ("version", "text", "What serves."),
        ("role", "text", "active or candidate."),
        ("percentage", "float8", "Share of the agents, in percent."),
        ("reason", "text", "Why it was deployed."),
        ("started_at", "timestamptz", "Since when."),
        ("ended_at", "timestamptz", "Until when; null while it serves."),
    ),
}
"""By asset: the columns of the records behind it (`TABLES`)."""

TABLES = {
    "market_outcomes": "rl.outcomes",
    "scored_groups": "rl.scores",
    "training_batch": "rl.training_batches",
    "trained_checkpoint": "rl.models",
    "checkpoint_benchmark": "rl.benchmarks",
    "deployed_model": "rl.deployments",
}

DOCS = {
    "recorded_rows": "docs/data.md",
    "trajectories": "docs/data.md",
    "market_outcomes": "docs/data.md",
    "scored_groups": "docs/judge.md",
    "training_batch": "docs/training.md",
    "trained_checkpoint": "docs/training.md",
    "checkpoint_benchmark": "docs/evaluation.md",
    "deployed_model": "docs/rollout.md",
}


def described(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec], settings: Settings
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Returns the assets with columns, table, document, code link and the pages that belong to them."""
    known: list[dg.AssetsDefinition | dg.AssetSpec] = []
    for asset in assets:
        if isinstance(asset, dg.AssetSpec):
            known.append(asset.merge_attributes(metadata=_metadata(asset.key, None, settings)))
        else:
            code = _code(asset, settings)
            known.append(
                asset.map_asset_specs(
                    lambda spec, code=code: spec.merge_attributes(
                        metadata=_metadata(spec.key, code, settings)
                    )
                )
            )
    return known


def _metadata(
    key: dg.AssetKey, code: dg.CodeReferencesMetadataValue | None, settings: Settings
) -> dict[str, object]:
    name, page = key.to_user_string(), DOCS[key.to_user_string()]
    shown: dict[str, object] = {
        "dagster/column_schema": COLUMNS[name],
        "docs": dg.MetadataValue.url(f"{settings.source_url}/{page}") if settings.source_url else page,
        "dashboard": dg.MetadataValue.url(settings.dashboard_page),
    }
    if name in TABLES:
        shown["dagster/table_name"] = TABLES[name]
    if name == "deployed_model":
        shown["gateway"] = dg.MetadataValue.url(f"{settings.gateway_address}/v1/models")
    if code is not None:
        shown["dagster/code_references"] = code
    return shown


def _code(asset: dg.AssetsDefinition, settings: Settings) -> dg.CodeReferencesMetadataValue | None:
    if not settings.source_url:
        return None
    function = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    path = Path(inspect.getsourcefile(function) or __file__).resolve().relative_to(_ROOT).as_posix()
    page = f"{settings.source_url}/{path}#L{inspect.getsourcelines(function)[1]}"
    reference = dg.UrlCodeReference(url=page, label=function.__name__)
    return dg.CodeReferencesMetadataValue(code_references=[reference])
