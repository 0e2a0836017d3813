"""`/api/admin/training/models`: the registry, with what the gate measured and who was answered."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import asyncpg
from starlette.concurrency import run_in_threadpool

from babylon_rl.api.formats import iso, number
from babylon_rl.deployment.call_usage import ModelUsage, model_usage
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.registry import list_models as registered
from babylon_rl.deployment.verdicts import BenchmarkRecord, all_benchmarks

SHOWN = 20

_USED = """
SELECT version, count(DISTINCT agent_id)::int AS agents, count(*)::int AS calls,
       count(*) FILTER (WHERE fallback)::int AS fallbacks,
       count(*) FILTER (WHERE status >= 400)::int AS errors,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS latency
  FROM rl.llm_calls WHERE started_at > now() - interval '24 hours' GROUP BY version
"""


async def list_models(rl: asyncpg.Connection, *, limit: int = SHOWN) -> tuple[list[dict[str, Any]], int]:
    """The newest models as callers see them, and how many there are."""
    models = await registered(rl)
    used = {row["version"]: row for row in await rl.fetch(_USED)}
    usage = await model_usage(rl)
    benchmarks: dict[str, BenchmarkRecord] = {}
    for record in await all_benchmarks(rl, limit=1000):
        if record.purpose == "gate":
            benchmarks.setdefault(record.version, record)
    shown = [
        model_json(model, benchmarks.get(model.version), used.get(model.version), usage.get(model.version))
        for model in models[:limit]
    ]
    sizes = await run_in_threadpool(lambda: [_size(model.storage_path) for model in models[:limit]])
    for entry, size in zip(shown, sizes, strict=True):
        entry["size"] = size
    return shown, len(models)


def model_json(
    model: ModelRecord,
    benchmark: BenchmarkRecord | None,
    used: asyncpg.Record | None,
    usage: ModelUsage | None,
) -> dict[str, Any]:
    """The game's keys first, then ours."""
    measured = model.metrics.get("benchmark") or {}
    return {
        "version": model.version,
        "baseModel": model.base_model,
        "trainedAt": iso(model.created_at),
        "accuracy": number(measured.get("accuracy")),
        "avgReward": number(measured.get("avg_reward")),
        "status": model.status,
        "agentsUsing": used["agents"] if used else 0,
        "blobUrl": model.storage_path,
        "size": None,
        "wandbRunId": (model.metrics.get("wandb") or {}).get("wandb_run_id"),
        "modelId": model.model_id,
        "parent": model.parent_version,
        "day": model.day.isoformat() if model.day else None,
        "branch": model.branch,
        "verdict": model.verdict,
        "deployedAt": iso(model.deployed_at),
        "totalInferences": usage.inferences if usage else 0,
        "calls24h": used["calls"] if used else 0,
        "fallbacks24h": used["fallbacks"] if used else 0,
        "errors24h": used["errors"] if used else 0,
        "latencyMs": number(used["latency"], 1) if used else None,
        "benchmark": benchmark_json(benchmark),
    }


def benchmark_json(record: BenchmarkRecord | None) -> dict[str, Any] | None:
    """A benchmark's returns per market of the model, its incumbent and the base, and the gate's interval."""
    if record is None:
        return None
    standings = record.metrics.get("standings") or {}
    difference = (record.metrics.get("verdict") or {}).get("difference") or {}

    def standing(name: str | None) -> dict[str, float | None] | None:
        one = standings.get(name) if name else None
        if not one:
            return None
        keys = ("mean", "low", "high")
        return {key: number(one.get(f"return_{key}")) for key in keys}

    return {
        "incumbent": record.incumbent,
        "windows": record.windows,
        "reason": record.reason,
        "model": standing(record.version),
        "incumbentReturn": standing(record.incumbent),
        "base": standing("v0.0.0"),
        "difference": {key: number(difference.get(key)) for key in ("mean", "low", "high")}
        if difference
        else None,
        "at": iso(record.created_at),
    }


def _size(storage_path: str | None) -> int | None:
    """Bytes of a checkpoint that lies on this machine."""
    address = urlparse(storage_path or "")
    if address.scheme != "file":
        return None
    folder = Path(unquote(address.path))
    try:
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except OSError:
        return None
