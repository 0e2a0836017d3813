"""The columns of the game that the pipeline uses: a contract, checked before a database is trusted."""

import asyncpg

from babylon_rl.database.errors import MissingGameTablesError

GAME_COLUMNS: dict[str, tuple[str, ...]] = {
    "User": ("id", "isActor", "isAgent", "isTest", "virtualBalance", "lifetimePnL", "createdAt", "updatedAt"),
    "Organization": ("id", "name", "type", "initialPrice", "currentPrice"),
    "StockPrice": ("id", "organizationId", "price", "change", "changePercent", "timestamp", "isSnapshot"),
    "PerpPosition": (
        *(
            "id",
            "userId",
            "ticker",
            "organizationId",
            "side",
            "entryPrice",
            "currentPrice",
            "size",
            "leverage",
        ),
        *("liquidationPrice", "fundingPaid", "openedAt", "closedAt", "realizedPnL"),
    ),
    "Market": (
        *("id", "question", "yesShares", "noShares", "liquidity", "resolved", "resolution"),
        *("endDate", "createdAt", "updatedAt"),
    ),
    "Position": (
        *("id", "userId", "marketId", "side", "shares", "avgPrice", "amount", "outcome", "pnl", "questionId"),
        *("resolvedAt", "status", "createdAt", "updatedAt"),
    ),
    "PredictionPriceHistory": (
        *(
            "id",
            "marketId",
            "yesPrice",
            "noPrice",
            "yesShares",
            "noShares",
            "liquidity",
            "eventType",
            "source",
        ),
        "createdAt",
    ),
    "Question": (
        *("id", "questionNumber", "text", "outcome", "createdDate", "resolutionDate", "status"),
        *("resolvedOutcome", "updatedAt"),
    ),
    "WorldEvent": (
        *("id", "eventType", "description", "actors", "relatedQuestion", "pointsToward", "visibility"),
        *("timestamp", "createdAt"),
    ),
    "Post": ("id", "content", "authorId", "type", "timestamp", "articleTitle", "deletedAt"),
    "AgentTrade": (
        *("id", "marketType", "marketId", "ticker", "action", "side", "amount", "price", "pnl", "executedAt"),
        "agentUserId",
    ),
    "NPCTrade": ("id", "marketType", "ticker", "marketId", "action", "side", "amount", "price", "executedAt"),
    "BalanceTransaction": ("id", "userId", "type", "amount", "balanceBefore", "balanceAfter", "createdAt"),
    "trajectories": (
        *("id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId", "windowHours"),
        *("episodeId", "scenarioId", "batchId", "stepsJson", "rewardComponentsJson", "metricsJson"),
        *("metadataJson", "totalReward", "episodeLength", "finalStatus", "finalBalance", "finalPnL"),
        *("tradesExecuted", "postsCreated", "aiJudgeReward", "aiJudgeReasoning", "judgedAt"),
        *("isTrainingData", "isEvaluation", "usedInTraining", "trainedInBatch", "createdAt", "updatedAt"),
    ),
    "llm_call_logs": (
        *(
            "id",
            "trajectoryId",
            "stepId",
            "callId",
            "timestamp",
            "latencyMs",
            "model",
            "purpose",
            "actionType",
        ),
        *("systemPrompt", "userPrompt", "messagesJson", "response", "reasoning", "temperature", "maxTokens"),
        *("topP", "promptTokens", "completionTokens", "totalTokens", "metadata", "createdAt"),
    ),
    "market_outcomes": (
        *("id", "windowId", "stockTicker", "startPrice", "endPrice", "changePercent", "sentiment"),
        *(
            "newsEvents",
            "predictionMarketId",
            "question",
            "outcome",
            "finalProbability",
            "volume",
            "createdAt",
        ),
    ),
    "training_batches": (
        *("id", "batchId", "scenarioId", "baseModel", "modelVersion", "trajectoryIds", "rewardsJson"),
        *("trainingLoss", "policyImprovement", "status", "error", "createdAt", "startedAt", "completedAt"),
    ),
    "trained_models": (
        *("id", "modelId", "version", "baseModel", "trainingBatch", "status", "deployedAt", "archivedAt"),
        *("storagePath", "benchmarkScore", "accuracy", "avgReward", "evalMetrics", "wandbRunId"),
        *("wandbArtifactId", "createdAt", "updatedAt"),
    ),
    "reward_judgments": (
        *("id", "trajectoryId", "judgeModel", "judgeVersion", "overallScore", "componentScoresJson", "rank"),
        *("normalizedScore", "groupId", "reasoning", "criteriaJson", "judgedAt"),
    ),
}

# Tables on the search path, as an unqualified name in our queries finds them.
_COLUMNS = """
    SELECT class.relname, array_agg(attribute.attname::text)
    FROM pg_class AS class
    JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid
    WHERE pg_table_is_visible(class.oid) AND class.relkind IN ('r', 'p', 'v', 'f')
      AND class.relname = ANY ($1::text[]) AND attribute.attnum > 0 AND NOT attribute.attisdropped
    GROUP BY class.relname
"""


async def missing_game_columns(game: asyncpg.Connection) -> list[str]:
    """What of `GAME_COLUMNS` is missing: `table "X"` or `"X"."column"`, in the order of the contract."""
    found = {name: set(columns) for name, columns in await game.fetch(_COLUMNS, list(GAME_COLUMNS))}
    missing = []
    for table, columns in GAME_COLUMNS.items():
        if table not in found:
            missing.append(f'table "{table}"')
        else:
            missing += [f'"{table}"."{column}"' for column in columns if column not in found[table]]
    return missing


async def require_game_tables(game: asyncpg.Connection) -> None:
    """Raises MissingGameTablesError, naming every table and column that is not there."""
    missing = await missing_game_columns(game)
    if missing:
        raise MissingGameTablesError(
            f"The game's database lacks {', '.join(missing)}",
            "Check that DATABASE_URL names the game's database and that its Prisma migrations were run; "
            "on an embedded server use `babylon migrate --embedded`.",
        )
