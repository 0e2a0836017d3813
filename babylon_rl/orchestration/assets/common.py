"""What the assets share: names, owners, lineage, and what is retried.

The hourly assets are asynchronous generators without a return annotation: Dagster takes that of such a
function for the type of its output.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import asyncpg
import dagster as dg

from babylon_rl.orchestration.day_inputs import StaleBatchError, UntrainedDayError
from babylon_rl.orchestration.lost_database import is_lost
from babylon_rl.orchestration.reporting import Metadata, PartitionReport
from babylon_rl.orchestration.resources import WandbResource
from babylon_rl.scoring.local import ScoringError
from babylon_rl.tracking import Run
from babylon_rl.training.errors import MissingBatchError

GROUP = "babylon"
OWNERS = ["team:babylon-rl"]

RETRIES = 3
IN_EACH_OTHERS_WAY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
RETRY_SECONDS = 5.0


@contextmanager
def retry_on_lost_database() -> Iterator[None]:
    """Asks Dagster to try the step again when a database connection is lost, and only then.

    A retry policy on the asset would also repeat what fails in the same way each time. Every window is
    written idempotently, so a second try simply goes over the partitions again.
    """
    try:
        yield
    except Exception as error:
        if not is_lost(error) and not isinstance(error, IN_EACH_OTHERS_WAY):
            raise
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=with_jitter(RETRY_SECONDS)) from error


def with_jitter(seconds: float) -> float:
    """Returns half to one and a half times as long: runs that failed together must not come back together."""
    return seconds * random.uniform(0.5, 1.5)


@contextmanager
def stop_on_wrong_setup() -> Iterator[None]:
    """Ends the run at once where a scorer cannot work as it is set up; no repetition would help."""
    try:
        yield
    except ScoringError as problem:
        raise dg.Failure(str(problem), allow_retries=False) from problem


@contextmanager
def refused() -> Iterator[None]:
    """Ends the run at once where inputs of a day are not what they should be, with the remedy."""
    try:
        yield
    except (StaleBatchError, UntrainedDayError, MissingBatchError) as problem:
        raise dg.Failure(str(problem), allow_retries=False) from problem


def log_lineage(
    context: dg.AssetExecutionContext,
    wandb: WandbResource,
    reports: Sequence[PartitionReport],
    inputs: Mapping[str, Mapping[str, str]] | None = None,
) -> Metadata:
    """Logs the digests of a run's partitions and of what they were made from as one W&B artifact; returns the
    link to its W&B run.

    One artifact per asset and Dagster run, however many windows; digests only, so that no content leaves.

    Args:
        context: Names the asset and the Dagster run.
        wandb: Online, offline or none; never fails.
        reports: The run's partitions.
        inputs: Digests by partition of each upstream asset.
    """
    digests = {report.key: report.digest for report in reports}
    first, last = min(digests), max(digests)
    name = context.asset_key.to_user_string()
    with wandb.run(context, first if first == last else f"{first} to {last}") as run:
        run.log_artifact(
            name,
            "dataset",
            metadata={
                "digests": digests,
                "inputs": {key: dict(value) for key, value in (inputs or {}).items()},
            },
            aliases=[first, *([] if first == last else [f"to-{last}"])],
        )
    return wandb_link(run)


def wandb_link(run: Run) -> Metadata:
    """Returns the way to a W&B run: its page online, its id offline (`wandb sync` brings it there)."""
    if run.mode == "none":
        return {}
    return {"wandb": dg.MetadataValue.url(run.url) if run.url else run.id}
