"""The shapes of the admin API's answers: every key of the seeds is required, further ones may come."""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
NUMBER: dict[str, Any] = {"type": "number"}
MAYBE_NUMBER: dict[str, Any] = {"type": ["number", "null"]}
FLAG: dict[str, Any] = {"type": "boolean"}


def obj(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these required keys."""
    return {"type": "object", "required": list(properties), "properties": properties}


def items(schema: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": schema, **({} if most is None else {"maxItems": most})}


ERROR = obj(success={"const": False}, error=TEXT)
READINESS = obj(
    ready=FLAG,
    reason=TEXT,
    stats=obj(totalTrajectories=COUNT, unscoredTrajectories=COUNT, scenarioGroups=COUNT, dataQuality=NUMBER),
    reasons=items(TEXT),
    day=MAYBE_TEXT,
)
JOB = obj(
    jobId=TEXT,
    runId=MAYBE_TEXT,
    day=TEXT,
    status={"enum": ["starting", "queued", "running", "succeeded", "failed", "cancelled"]},
    progress={"type": "number", "minimum": 0, "maximum": 1},
    stage=MAYBE_TEXT,
    modelVersion=MAYBE_TEXT,
    error=MAYBE_TEXT,
)
MODEL = obj(
    version=TEXT,
    baseModel=TEXT,
    trainedAt=TEXT,
    accuracy=MAYBE_NUMBER,
    avgReward=MAYBE_NUMBER,
    status={"enum": ["training", "ready", "deployed", "archived", "failed"]},
    agentsUsing=COUNT,
    totalInferences=COUNT,
    blobUrl=MAYBE_TEXT,
    size={"type": ["integer", "null"]},
    wandbRunId=MAYBE_TEXT,
)
MODELS = obj(success={"const": True}, models=items(MODEL, 20), total=COUNT)
STATUS = obj(
    status={"enum": ["healthy", "degraded"]},
    automation=obj(
        dataCollection=obj(last24h=COUNT, last7d=COUNT, ratePerHour=NUMBER),
        training=obj(currentJob=MAYBE_TEXT, lastCompleted=MAYBE_TEXT, nextScheduled=MAYBE_TEXT),
        models=obj(latest=MAYBE_TEXT, deployed=COUNT, training=COUNT),
        health=obj(database=TEXT, storage=TEXT, wandb=TEXT),
    ),
    readiness=READINESS,
    recentJobs=items(JOB, 10),
    models=items(MODEL, 10),
    trajectoryStats=obj(
        _count=COUNT,
        _avg=obj(totalReward=MAYBE_NUMBER, episodeLength=MAYBE_NUMBER, durationMs=MAYBE_NUMBER),
    ),
    timestamp=TEXT,
)
DASHBOARD = {
    "allOf": [
        STATUS,
        obj(
            collection=items(obj(hour=TEXT, rows=COUNT)),
            windows=items({"type": "object"}),
            staleWindows=items(obj(windowId=TEXT, status=MAYBE_TEXT, reason=TEXT, since=MAYBE_TEXT)),
            changedDays=items(obj(day=TEXT, version=TEXT, windows=COUNT)),
            curve=items({"type": "object"}),
            alerts=items(obj(at=MAYBE_TEXT, level=TEXT, topic=TEXT, text=TEXT)),
            deployments=items({"type": "object"}),
            rollout={"type": "object"},
        ),
    ]
}
DEPLOYED = obj(success={"const": True}, agentsUpdated=COUNT, deploymentId=TEXT)
WINDOW = obj(windowId=TEXT, trajectoryCount=COUNT, avgSteps=MAYBE_NUMBER, avgPnl=MAYBE_NUMBER)
TRAINING_DATA = obj(
    success={"const": True},
    data=obj(
        summary=obj(totalTrajectories=COUNT, totalWindows=COUNT, readyWindows=COUNT, minAgentsRequired=COUNT),
        windows=items(WINDOW, 50),
        readyWindows=items(WINDOW, 50),
        recentTrajectories=items(
            obj(
                id=TEXT,
                trajectoryId=TEXT,
                agentId=TEXT,
                windowId=MAYBE_TEXT,
                episodeLength=COUNT,
                finalPnL=MAYBE_NUMBER,
                tradesExecuted={"type": ["integer", "null"]},
                createdAt=TEXT,
            ),
            10,
        ),
        qualityMetrics=obj(
            avgEpisodeLength=NUMBER, avgPnl=NUMBER, trainingDataQuality={"enum": ["good", "fair", "low"]}
        ),
    ),
)
AI_MODELS = obj(
    success={"const": True},
    data=obj(
        currentSettings=obj(wandbModel=MAYBE_TEXT, wandbEnabled=FLAG),
        providers={"type": "object"},
        activeProvider=TEXT,
        wandbModels=items(TEXT),
        recommendedModels=items(TEXT),
    ),
)
