"""Storing ended trajectories: one statement for their rows and their calls, so that both or neither exist.

Times travel as milliseconds and are converted in SQL: the result depends neither on the session's time zone
nor on the connection's codecs.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import asyncpg

from babylon_rl.recorder.errors import NotStoredError, TrajectoryIdTakenError, UnknownAgentError

Database = asyncpg.Pool | asyncpg.Connection
Rows = Sequence[dict[str, Any]]

# Rows of one statement are sent and held in memory together.
_BATCH_BYTES = 8 * 1024 * 1024

# The last one: a connection that was lost in the middle of something is used again before it is noticed.
_REFUSED = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_TRAJECTORY = {
    "id": "text",
    "trajectoryId": "text",
    "agentId": "text",
    "startTime": "int8",
    "endTime": "int8",
    "durationMs": "int4",
    "windowId": "text",
    "episodeId": "text",
    "scenarioId": "text",
    "stepsJson": "text",
    "rewardComponentsJson": "text",
    "metricsJson": "text",
    "metadataJson": "text",
    "totalReward": "float8",
    "episodeLength": "int4",
    "finalStatus": "text",
    "finalBalance": "float8",
    "finalPnL": "float8",
    "tradesExecuted": "int4",
    "postsCreated": "int4",
    "isTrainingData": "bool",
    "isEvaluation": "bool",
}
_CALL = {
    "id": "text",
    "trajectoryId": "text",
    "stepId": "text",
    "callId": "text",
    "timestamp": "int8",
    "latencyMs": "int4",
    "model": "text",
    "purpose": "text",
    "actionType": "text",
    "systemPrompt": "text",
    "userPrompt": "text",
    "messagesJson": "text",
    "response": "text",
    "reasoning": "text",
    "temperature": "float8",
    "maxTokens": "int4",
    "topP": "float8",
    "promptTokens": "int4",
    "completionTokens": "int4",
    "totalTokens": "int4",
    "metadata": "text",
}


def _columns(fields: dict[str, str]) -> str:
    return ", ".join(f'"{name}"' for name in fields)


def _values(fields: dict[str, str]) -> str:
    moments = ("startTime", "endTime", "timestamp")
    epoch = "timestamp 'epoch' + {} * interval '1 millisecond'"
    return ", ".join(epoch.format(f'"{name}"') if name in moments else f'"{name}"' for name in fields)


def _unnest(fields: dict[str, str], first: int) -> str:
    return ", ".join(f"${first + index}::{kind}[]" for index, kind in enumerate(fields.values()))


_INSERT = f"""
WITH stored AS (
    INSERT INTO "trajectories" ({_columns(_TRAJECTORY)}, "windowHours", "createdAt", "updatedAt")
    SELECT {_values(_TRAJECTORY)}, 1, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC'
    FROM unnest({_unnest(_TRAJECTORY, 1)}) AS given ({_columns(_TRAJECTORY)})
    ON CONFLICT ("trajectoryId") DO NOTHING
    RETURNING "trajectoryId"
), calls AS (
    INSERT INTO "llm_call_logs" ({_columns(_CALL)}, "createdAt")
    SELECT {_values(_CALL)}, now() AT TIME ZONE 'UTC'
    FROM unnest({_unnest(_CALL, 1 + len(_TRAJECTORY))}) AS given ({_columns(_CALL)})
    WHERE "trajectoryId" IN (SELECT "trajectoryId" FROM stored)
)
SELECT "trajectoryId" FROM stored
"""
_PRESENT = """
SELECT "trajectoryId", "agentId", (extract(epoch FROM "startTime") * 1000)::int8 AS start_ms
FROM "trajectories" WHERE "trajectoryId" = ANY ($1::text[])
"""


async def store(database: Database, trajectories: Rows, calls: Rows) -> set[str]:
    """Stores rows in one transaction and returns the ids of the trajectories that were not there before.

    Args:
        trajectories: Rows of `rows.trajectory_row`.
        calls: Rows of `rows.call_rows` with their `id`.

    Raises:
        UnknownAgentError: An agent has no "User" row.
        TrajectoryIdTakenError: An id stands for another trajectory in the database.
        NotStoredError: The database was lost or refused the rows. Repeating the call is safe.
    """
    batches = _batches(trajectories, calls)
    stored: set[str] = set()
    with explained(len(trajectories)):
        async with _connection(database) as connection:
            # One statement is a transaction of its own and saves two round trips.
            async with connection.transaction() if len(trajectories) > 1 else nullcontext():
                for batch in batches:
                    stored |= await _insert(connection, *batch)
                repeats = [row for row in trajectories if row["trajectoryId"] not in stored]
                await _check_repeats(connection, repeats)
    return stored


async def store_group(connection: Any, trajectories: Rows, calls: Rows) -> set[str]:
    """Stores rows of callers that do not know each other in one statement, in one round trip.

    Returns the ids that are new. What else was given was there before, perhaps as another's: `store` tells.

    Raises:
        RecorderError: As `store`, if one of them cannot be stored; then none of them was.
    """
    with explained(len(trajectories)):
        return await _insert(connection, trajectories, calls)


@contextmanager
def explained(count: int) -> Iterator[None]:
    """Turns the driver's errors while `count` trajectories are stored into the recorder's."""
    try:
        yield
    except asyncpg.ForeignKeyViolationError as problem:
        detail = problem.as_dict().get("detail") or str(problem)
        raise UnknownAgentError(
            f"Nothing was stored: {detail}",
            'Create the agent in "User", then end the trajectory again.',
        ) from problem
    except _REFUSED as problem:
        raise NotStoredError(
            f"{count} trajectories were not stored: {str(problem) or type(problem).__name__}",
            "They stay open; end them again once the database is back.",
        ) from problem


@asynccontextmanager
async def _connection(database: Database) -> AsyncIterator[Any]:
    if isinstance(database, asyncpg.Pool):
        async with database.acquire() as connection:
            yield connection
    else:
        yield database


async def _insert(connection: Any, trajectories: Rows, calls: Rows) -> set[str]:
    arguments = [[row[name] for row in trajectories] for name in _TRAJECTORY]
    arguments += [[row[name] for row in calls] for name in _CALL]
    return {row["trajectoryId"] for row in await connection.fetch(_INSERT, *arguments)}


async def _check_repeats(connection: Any, rows: Rows) -> None:
    """A row that was there is our own, stored before its acknowledgement was lost, or a stranger's."""
    if not rows:
        return
    present = {
        row["trajectoryId"]: row
        for row in await connection.fetch(_PRESENT, [r["trajectoryId"] for r in rows])
    }
    for row in rows:
        found = present.get(row["trajectoryId"])
        if found is not None and (found["agentId"], found["start_ms"]) != (row["agentId"], row["startTime"]):
            raise TrajectoryIdTakenError(
                f"The id {row['trajectoryId']} stands for another trajectory, of agent {found['agentId']}",
                "Give each recording process its own WORKER_ID.",
            )


def _batches(trajectories: Rows, calls: Rows) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Splits rows into statements of bounded size; a trajectory's calls stay with it."""
    by_trajectory: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        by_trajectory.setdefault(call["trajectoryId"], []).append(call)
    batches: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
    size = _BATCH_BYTES
    for row in trajectories:
        own = by_trajectory.get(row["trajectoryId"], [])
        weight = len(row["stepsJson"]) + sum(
            len(c["systemPrompt"]) + len(c["userPrompt"]) + len(c["response"]) for c in own
        )
        if size + weight > _BATCH_BYTES:
            batches.append(([], []))
            size = 0
        batches[-1][0].append(row)
        batches[-1][1].extend(own)
        size += weight
    return batches
