"""What an asset tells Dagster: one materialization per partition, each with its own metadata and data
version.

Dagster stamps a single data version on all partitions of a range run, so that a later run of one window, with
the window's true hash, would look like a change. An asset here therefore computes all its reports first,
yields its result, and then logs one materialization per partition that repeats the provenance of the first
event with the partition's own data version; Dagster reads the newest event.
"""

import hashlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata
from dagster._core.utils import make_new_run_id

Metadata = dict[str, Any]
"""Metadata as Dagster takes it: numbers, texts and `MetadataValue`s."""

Column = str | tuple[str, str, str]
"""A column of a table: its name, or its name, kind and meaning."""

DIGITS = 6
"""Significant digits of a figure: a person reads no more, and no plot shows more."""

_DATA_VERSION_TAG = "dagster/data_version"


@dataclass(frozen=True)
class PartitionReport:
    """What one partition of an asset amounts to.

    Attributes:
        key: Partition key (window id or day).
        digest: Hash of the partition's content; becomes its data version.
        metadata: Metadata of the partition; numeric keys are plotted over partitions by the UI.
    """

    key: str
    digest: str
    metadata: Metadata = field(default_factory=dict)


async def materialize_each(
    context: dg.AssetExecutionContext, reports: Sequence[PartitionReport], shared: Metadata | None = None
) -> AsyncIterator[dg.MaterializeResult]:
    """Yields the asset's result and records every report with its own metadata and data version.

    Args:
        context: Context of an asset with partitions; the run may cover one partition or a range.
        reports: One report per partition key of the run, in order.
        shared: Metadata of the run, which every partition shows.
    """
    if len(reports) == 1:
        report = reports[0]
        metadata = shown(report.metadata | (shared or {}))
        yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(report.digest))
        return
    together = hashlib.sha256("".join(r.digest for r in reports).encode()).hexdigest()
    yield dg.MaterializeResult(data_version=dg.DataVersion(together))
    # Dagster handles the result before it asks the generator for more: its events exist now.
    provenance = _own_event_tags(context, reports[-1].key)
    step, batch = context.get_step_execution_context(), make_new_run_id()
    for report in reports:
        # Not `context.log_event`, which stores each one by itself: as Dagster's own they are stored together.
        DagsterEvent.asset_materialization(
            step,
            dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=report.key,
                metadata=shown(report.metadata | (shared or {})),
                tags={**provenance, _DATA_VERSION_TAG: report.digest},
            ),
            DagsterEventBatchMetadata(batch, is_end=report is reports[-1]),
        )


def _own_event_tags(context: dg.AssetExecutionContext, partition_key: str) -> dict[str, str]:
    """Returns code version, input versions and input pointers that this step's own event was given."""
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[partition_key]), limit=1
    ).records
    event = records[0].asset_materialization if records and records[0].run_id == context.run.run_id else None
    if event is None:
        raise dg.DagsterInvariantViolationError(
            f"the materialization of {context.asset_key.to_user_string()} {partition_key} was not stored"
        )
    return {key: value for key, value in (event.tags or {}).items() if key.startswith("dagster/")}


def shown(metadata: Mapping[str, Any]) -> Metadata:
    """Returns metadata as a person reads it: figures of `DIGITS` digits, and nothing that says nothing.

    A figure that is missing or not finite leaves a gap in the plot, not a zero; an empty text or table has no
    row.
    """
    rounded = {
        name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value
        for name, value in metadata.items()
    }
    return {
        name: value
        for name, value in rounded.items()
        if value is not None and value != "" and (not isinstance(value, float) or math.isfinite(value))
    }


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], *, limit: int = 50
) -> dg.TableMetadataValue | None:
    """Returns a table with a schema, None for no rows. The UI shows it as it is, and markdown, unless it is
    short, behind a click.

    Args:
        columns: Name, kind (`text`, `integer`, `float8`, …) and meaning of each, or a name that says it all.
        rows: Their values; what is neither number nor truth value is shown as text.
        limit: Rows shown; the others are counted in a last row, never dropped silently.
    """
    if not rows:
        return None
    names = [column if isinstance(column, str) else column[0] for column in columns]
    records = [dg.TableRecord(dict(zip(names, map(_value, row), strict=True))) for row in rows[:limit]]
    if len(rows) > limit:
        records.append(dg.TableRecord({**dict.fromkeys(names), names[0]: f"… and {len(rows) - limit} more"}))
    return dg.MetadataValue.table(records, table_schema(columns))


def table_schema(columns: Sequence[Column]) -> dg.TableSchema:
    """Returns the schema of columns; see `table`."""
    return dg.TableSchema(
        [dg.TableColumn(column) if isinstance(column, str) else dg.TableColumn(*column) for column in columns]
    )


def markdown_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, limit: int = 50
) -> dg.MarkdownMetadataValue | None:
    """Returns a markdown table, None for no rows; those beyond `limit` are counted in a last line."""
    if not rows:
        return None
    lines = ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows[:limit]]
    if len(rows) > limit:
        lines.append(f"\n… and {len(rows) - limit} more")
    return dg.MetadataValue.md("\n".join(lines))


def _value(value: object) -> str | int | float | bool | None:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
