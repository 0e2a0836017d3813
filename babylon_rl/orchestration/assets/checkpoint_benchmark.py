"""`checkpoint_benchmark`: is the day's checkpoint better than what serves?"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

import dagster as dg
import msgspec

from babylon_rl.deployment.judging import judge
from babylon_rl.deployment.verdicts import BenchmarkRecord, all_benchmarks, latest_benchmark
from babylon_rl.orchestration.assets.common import GROUP, OWNERS, refused, wandb_link
from babylon_rl.orchestration.assets.trained_checkpoint import trained_checkpoint
from babylon_rl.orchestration.charts import as_markdown, intervals_markdown
from babylon_rl.orchestration.day_inputs import require_training
from babylon_rl.orchestration.model_pictures import learning_curve
from babylon_rl.orchestration.partitions import ONE_DAY, daily
from babylon_rl.orchestration.reporting import Metadata, markdown_table, shown
from babylon_rl.orchestration.resources import TRAINER, ArtResource, PostgresResource, WandbResource
from babylon_rl.orchestration.verdict_views import COLUMNS, verdict_rows
from babylon_rl.training.units import find_trained
from babylon_rl.windows import parse_day


@dg.asset(
    deps=[trained_checkpoint],
    partitions_def=daily,
    backfill_policy=ONE_DAY,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "wandb"},
    code_version="1",
)
async def checkpoint_benchmark(
    context: dg.AssetExecutionContext, postgres: PostgresResource, art: ArtResource, wandb: WandbResource
) -> dg.MaterializeResult:
    """Candidate, incumbent and base model on the same held-out markets, drawn from the candidate's own hash
    and used once; with it the gate's verdict: `promoted`, `inconclusive` or `rejected`, by an interval at the
    alpha that is left for this incumbent. The first result stands: repeating it returns what was stored.
    Status `no candidate` where the day trained nothing.
    """
    day, settings = context.partition_key, art.settings(postgres.settings())
    async with postgres.connect(role=TRAINER) as db:
        unit = await find_trained(db.rl, parse_day(day))
        if unit is None or unit.version is None:
            with refused():
                await require_training(db.rl, day, _tried_at(context.instance, day))
            return dg.MaterializeResult(
                metadata={"status": "no candidate"}, data_version=dg.DataVersion("no candidate")
            )
        began, before = monotonic(), await latest_benchmark(db.rl, unit.version)
        record = await judge(db, settings, unit.version)
        # What was judged before took no time now.
        duration = monotonic() - began if before is None else None
        judged = await all_benchmarks(db.rl)
    digest = hashlib.sha256(msgspec.json.encode([record.version, record.metrics, record.verdict])).hexdigest()
    with wandb.run(context, day) as run:
        run.summary(shown(_figures(record)))
        run.log_artifact(
            "benchmark",
            "evaluation",
            metadata={"version": record.version, "seed_key": record.seed_key, "verdict": record.verdict},
            aliases=[record.version],
        )
    metadata = _metadata(record, judged) | {"duration/benchmark_s": duration} | wandb_link(run)
    return dg.MaterializeResult(metadata=shown(metadata), data_version=dg.DataVersion(digest))


def _tried_at(instance: dg.DagsterInstance, day: str) -> datetime | None:
    asked = dg.AssetRecordsFilter(trained_checkpoint.key, asset_partitions=[day])
    records = instance.fetch_materializations(asked, limit=1).records
    return datetime.fromtimestamp(records[0].timestamp, UTC) if records else None


def _figures(record: BenchmarkRecord) -> Metadata:
    verdict, standing = record.metrics["verdict"], record.metrics["standings"][record.version]
    difference = verdict["difference"]
    return {
        "benchmark/score": record.metrics["benchmark_score"],
        "benchmark/accuracy": record.metrics["accuracy"],
        "benchmark/windows": record.windows,
        "benchmark/invalid_rate": standing["invalid_rate"],
        "benchmark/win_rate": standing["win_rate"],
        "gain/mean": difference["mean"],
        "gain/low": difference["low"],
        "gain/high": difference["high"],
        "gain/minimum_detectable": verdict["minimum_detectable_effect"],
        "gain/alpha": difference["alpha"],
    }


def _metadata(record: BenchmarkRecord, judged: Sequence[BenchmarkRecord]) -> Metadata:
    standings = record.metrics["standings"].values()
    return {
        "status": record.verdict or "not judged",
        "reason": record.reason,
        "in one paragraph": record.metrics.get("explanation"),
        "candidate": record.version,
        "incumbent": record.incumbent,
        **_figures(record),
        "returns": dg.MetadataValue.md(
            intervals_markdown(
                [
                    (s["name"], s["return_mean"], s["return_low"], s["return_high"])
                    for s in standings
                    if s["return_low"] is not None
                ],
                "Return on start equity per held-out window",
            )
        ),
        "learning curve": dg.MetadataValue.md(as_markdown(learning_curve(judged), "Learning curve")),
        "every verdict": markdown_table(COLUMNS, [[row[c] for c in COLUMNS] for row in verdict_rows(judged)]),
        "in company": markdown_table(
            ("population", "difference", "low", "high", "markets"),
            [
                (name.replace("_", " "), *(part[key] for key in ("mean", "low", "high", "n")))
                for name, part in (record.metrics.get("crowd") or {}).items()
                if isinstance(part, dict) and "low" in part
            ],
        ),
        "standings": markdown_table(
            ("player", "return", "low", "high", "win rate", "invalid", "orders", "worst"),
            [
                (s["name"], s["return_mean"], s["return_low"], s["return_high"], s["win_rate"])
                + (s["invalid_rate"], s["orders"], s["worst_return"])
                for s in standings
            ],
        ),
        "success criteria": markdown_table(
            ("criterion", "status", "figure"),
            [(c["name"], c["status"], c["figure"]) for c in record.metrics["criteria"]],
        ),
    }
