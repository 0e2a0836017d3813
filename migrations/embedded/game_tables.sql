-- The game's tables, for a database of ours only: `babylon migrate --embedded`, or psql on the embedded server.
--
-- At least the columns that the pipeline, the recorder and the simulation use, with the types, defaults and index
-- names of the game's Prisma schema. Refused elsewhere: on a production database Prisma's first migration would
-- collide with them.

DO $guard$
BEGIN
    IF current_setting('babylon.server', true) IS DISTINCT FROM 'embedded' THEN
        RAISE EXCEPTION 'game tables are made only on the embedded server of babylon_rl'
            USING HINT = 'Elsewhere the game makes them: run its Prisma migrations.';
    END IF;
    IF to_regclass('_prisma_migrations') IS NOT NULL THEN
        RAISE EXCEPTION 'this database is managed by Prisma (_prisma_migrations exists)'
            USING HINT = 'Run babylon migrate without --embedded.';
    END IF;
END
$guard$;

CREATE TABLE IF NOT EXISTS "User" (
    "id"                      TEXT NOT NULL,
    "username"                TEXT,
    "displayName"             TEXT,
    "isActor"                 BOOLEAN NOT NULL DEFAULT false,
    "isAgent"                 BOOLEAN NOT NULL DEFAULT false,
    "isTest"                  BOOLEAN NOT NULL DEFAULT false,
    "isBanned"                BOOLEAN NOT NULL DEFAULT false,
    "isScammer"               BOOLEAN NOT NULL DEFAULT false,
    "virtualBalance"          DECIMAL(18,2) NOT NULL DEFAULT 1000,
    "totalDeposited"          DECIMAL(18,2) NOT NULL DEFAULT 1000,
    "totalWithdrawn"          DECIMAL(18,2) NOT NULL DEFAULT 0,
    "lifetimePnL"             DECIMAL(18,2) NOT NULL DEFAULT 0,
    "totalAgentPnL"           DECIMAL(18,2) NOT NULL DEFAULT 0,
    "totalFeesPaid"           DECIMAL(18,2) NOT NULL DEFAULT 0,
    "reputationPoints"        INTEGER NOT NULL DEFAULT 1000,
    "agentSystem"             TEXT,
    "agentTradingStrategy"    TEXT,
    "agentPersonality"        TEXT,
    "agentPersonaPrompt"      TEXT,
    "agentModelTier"          TEXT NOT NULL DEFAULT 'free',
    "agentRiskTolerance"      TEXT NOT NULL DEFAULT 'medium',
    "agentPlanningHorizon"    TEXT NOT NULL DEFAULT 'single',
    "agentMaxActionsPerTick"  INTEGER NOT NULL DEFAULT 3,
    "agentPointsBalance"      INTEGER NOT NULL DEFAULT 0,
    "agentStatus"             TEXT NOT NULL DEFAULT 'idle',
    "agentLastTickAt"         TIMESTAMP(3),
    "autonomousTrading"       BOOLEAN NOT NULL DEFAULT false,
    "autonomousPosting"       BOOLEAN NOT NULL DEFAULT false,
    "autonomousCommenting"    BOOLEAN NOT NULL DEFAULT false,
    "autonomousDMs"           BOOLEAN NOT NULL DEFAULT false,
    "autonomousGroupChats"    BOOLEAN NOT NULL DEFAULT false,
    "a2aEnabled"              BOOLEAN NOT NULL DEFAULT false,
    "managedBy"               TEXT,
    "walletAddress"           TEXT,
    "createdAt"               TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"               TIMESTAMP(3) NOT NULL,
    CONSTRAINT "User_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "User_managedBy_fkey" FOREIGN KEY ("managedBy") REFERENCES "User" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE
);
CREATE UNIQUE INDEX IF NOT EXISTS "User_username_key" ON "User" ("username");
CREATE UNIQUE INDEX IF NOT EXISTS "User_walletAddress_key" ON "User" ("walletAddress");
CREATE INDEX IF NOT EXISTS "User_isAgent_idx" ON "User" ("isAgent");
CREATE INDEX IF NOT EXISTS "User_isAgent_managedBy_idx" ON "User" ("isAgent", "managedBy");
CREATE INDEX IF NOT EXISTS "User_autonomousTrading_idx" ON "User" ("autonomousTrading");

CREATE TABLE IF NOT EXISTS "AgentPerformanceMetrics" (
    "id"                     TEXT NOT NULL,
    "userId"                 TEXT NOT NULL,
    "gamesPlayed"            INTEGER NOT NULL DEFAULT 0,
    "gamesWon"               INTEGER NOT NULL DEFAULT 0,
    "averageGameScore"       DOUBLE PRECISION NOT NULL DEFAULT 0,
    "lastGameScore"          DOUBLE PRECISION,
    "lastGamePlayedAt"       TIMESTAMP(3),
    "normalizedPnL"          DOUBLE PRECISION NOT NULL DEFAULT 0.5,
    "totalTrades"            INTEGER NOT NULL DEFAULT 0,
    "profitableTrades"       INTEGER NOT NULL DEFAULT 0,
    "winRate"                DOUBLE PRECISION NOT NULL DEFAULT 0,
    "averageROI"             DOUBLE PRECISION NOT NULL DEFAULT 0,
    "sharpeRatio"            DOUBLE PRECISION,
    "averageFeedbackScore"   DOUBLE PRECISION NOT NULL DEFAULT 50,
    "averageRating"          DOUBLE PRECISION,
    "totalFeedbackCount"     INTEGER NOT NULL DEFAULT 0,
    "positiveCount"          INTEGER NOT NULL DEFAULT 0,
    "neutralCount"           INTEGER NOT NULL DEFAULT 0,
    "negativeCount"          INTEGER NOT NULL DEFAULT 0,
    "reputationScore"        DOUBLE PRECISION NOT NULL DEFAULT 50,
    "trustLevel"             TEXT NOT NULL DEFAULT 'UNRATED',
    "confidenceScore"        DOUBLE PRECISION NOT NULL DEFAULT 0,
    "onChainReputationSync"  BOOLEAN NOT NULL DEFAULT false,
    "lastSyncedAt"           TIMESTAMP(3),
    "onChainTrustScore"      DOUBLE PRECISION,
    "onChainAccuracyScore"   DOUBLE PRECISION,
    "firstActivityAt"        TIMESTAMP(3),
    "lastActivityAt"         TIMESTAMP(3),
    "totalInteractions"      INTEGER NOT NULL DEFAULT 0,
    "createdAt"              TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"              TIMESTAMP(3) NOT NULL,
    CONSTRAINT "AgentPerformanceMetrics_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "AgentPerformanceMetrics_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE UNIQUE INDEX IF NOT EXISTS "AgentPerformanceMetrics_userId_key" ON "AgentPerformanceMetrics" ("userId");

CREATE TABLE IF NOT EXISTS "BalanceTransaction" (
    "id"             TEXT NOT NULL,
    "userId"         TEXT NOT NULL,
    "type"           TEXT NOT NULL,
    "amount"         DECIMAL(18,2) NOT NULL,
    "balanceBefore"  DECIMAL(18,2) NOT NULL,
    "balanceAfter"   DECIMAL(18,2) NOT NULL,
    "relatedId"      TEXT,
    "description"    TEXT,
    "createdAt"      TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "BalanceTransaction_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "BalanceTransaction_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX IF NOT EXISTS "BalanceTransaction_type_idx" ON "BalanceTransaction" ("type");
CREATE INDEX IF NOT EXISTS "BalanceTransaction_userId_createdAt_idx"
    ON "BalanceTransaction" ("userId", "createdAt" DESC);

CREATE TABLE IF NOT EXISTS "Organization" (
    "id"             TEXT NOT NULL,
    "name"           TEXT NOT NULL,
    "description"    TEXT NOT NULL,
    "type"           TEXT NOT NULL,
    "canBeInvolved"  BOOLEAN NOT NULL DEFAULT true,
    "initialPrice"   DOUBLE PRECISION,
    "currentPrice"   DOUBLE PRECISION,
    "createdAt"      TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"      TIMESTAMP(3) NOT NULL,
    "imageUrl"       TEXT,
    CONSTRAINT "Organization_pkey" PRIMARY KEY ("id")
);
CREATE INDEX IF NOT EXISTS "Organization_currentPrice_idx" ON "Organization" ("currentPrice");
CREATE INDEX IF NOT EXISTS "Organization_type_idx" ON "Organization" ("type");

CREATE TABLE IF NOT EXISTS "StockPrice" (
    "id"              TEXT NOT NULL,
    "organizationId"  TEXT NOT NULL,
    "price"           DOUBLE PRECISION NOT NULL,
    "change"          DOUBLE PRECISION NOT NULL,
    "changePercent"   DOUBLE PRECISION NOT NULL,
    "timestamp"       TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "isSnapshot"      BOOLEAN NOT NULL DEFAULT false,
    "openPrice"       DOUBLE PRECISION,
    "highPrice"       DOUBLE PRECISION,
    "lowPrice"        DOUBLE PRECISION,
    "volume"          DOUBLE PRECISION,
    CONSTRAINT "StockPrice_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "StockPrice_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX IF NOT EXISTS "StockPrice_isSnapshot_timestamp_idx" ON "StockPrice" ("isSnapshot", "timestamp");
CREATE INDEX IF NOT EXISTS "StockPrice_organizationId_timestamp_idx"
    ON "StockPrice" ("organizationId", "timestamp" DESC);
CREATE INDEX IF NOT EXISTS "StockPrice_timestamp_idx" ON "StockPrice" ("timestamp" DESC);

CREATE TABLE IF NOT EXISTS "PerpPosition" (
    "id"                    TEXT NOT NULL,
    "userId"                TEXT NOT NULL,
    "ticker"                TEXT NOT NULL,
    "organizationId"        TEXT NOT NULL,
    "side"                  TEXT NOT NULL,
    "entryPrice"            DOUBLE PRECISION NOT NULL,
    "currentPrice"          DOUBLE PRECISION NOT NULL,
    "size"                  DOUBLE PRECISION NOT NULL,
    "leverage"              INTEGER NOT NULL,
    "liquidationPrice"      DOUBLE PRECISION NOT NULL,
    "unrealizedPnL"         DOUBLE PRECISION NOT NULL,
    "unrealizedPnLPercent"  DOUBLE PRECISION NOT NULL,
    "fundingPaid"           DOUBLE PRECISION NOT NULL DEFAULT 0,
    "openedAt"              TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "lastUpdated"           TIMESTAMP(3) NOT NULL,
    "closedAt"              TIMESTAMP(3),
    "realizedPnL"           DOUBLE PRECISION,
    "settledAt"             TIMESTAMP(3),
    "settledToChain"        BOOLEAN NOT NULL DEFAULT false,
    "settlementTxHash"      TEXT,
    CONSTRAINT "PerpPosition_pkey" PRIMARY KEY ("id")
);
CREATE INDEX IF NOT EXISTS "PerpPosition_organizationId_idx" ON "PerpPosition" ("organizationId");
CREATE INDEX IF NOT EXISTS "PerpPosition_settledToChain_idx" ON "PerpPosition" ("settledToChain");
CREATE INDEX IF NOT EXISTS "PerpPosition_ticker_idx" ON "PerpPosition" ("ticker");
CREATE INDEX IF NOT EXISTS "PerpPosition_userId_closedAt_idx" ON "PerpPosition" ("userId", "closedAt");

CREATE TABLE IF NOT EXISTS "Market" (
    "id"                       TEXT NOT NULL,
    "question"                 TEXT NOT NULL,
    "description"              TEXT,
    "gameId"                   TEXT,
    "dayNumber"                INTEGER,
    "yesShares"                DECIMAL(18,6) NOT NULL DEFAULT 0,
    "noShares"                 DECIMAL(18,6) NOT NULL DEFAULT 0,
    "liquidity"                DECIMAL(18,6) NOT NULL,
    "resolved"                 BOOLEAN NOT NULL DEFAULT false,
    "resolution"               BOOLEAN,
    "endDate"                  TIMESTAMP(3) NOT NULL,
    "createdAt"                TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"                TIMESTAMP(3) NOT NULL,
    "onChainMarketId"          TEXT,
    "onChainResolutionTxHash"  TEXT,
    "onChainResolved"          BOOLEAN NOT NULL DEFAULT false,
    "oracleAddress"            TEXT,
    CONSTRAINT "Market_pkey" PRIMARY KEY ("id")
);
CREATE INDEX IF NOT EXISTS "Market_createdAt_idx" ON "Market" ("createdAt" DESC);
CREATE INDEX IF NOT EXISTS "Market_gameId_dayNumber_idx" ON "Market" ("gameId", "dayNumber");
CREATE INDEX IF NOT EXISTS "Market_onChainMarketId_idx" ON "Market" ("onChainMarketId");
CREATE INDEX IF NOT EXISTS "Market_resolved_endDate_idx" ON "Market" ("resolved", "endDate");

CREATE TABLE IF NOT EXISTS "PredictionPriceHistory" (
    "id"         TEXT NOT NULL,
    "marketId"   TEXT NOT NULL,
    "yesPrice"   DOUBLE PRECISION NOT NULL,
    "noPrice"    DOUBLE PRECISION NOT NULL,
    "yesShares"  DECIMAL(24,8) NOT NULL,
    "noShares"   DECIMAL(24,8) NOT NULL,
    "liquidity"  DECIMAL(24,8) NOT NULL,
    "eventType"  TEXT NOT NULL,
    "source"     TEXT NOT NULL,
    "createdAt"  TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "PredictionPriceHistory_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "PredictionPriceHistory_marketId_fkey" FOREIGN KEY ("marketId") REFERENCES "Market" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX IF NOT EXISTS "PredictionPriceHistory_marketId_createdAt_idx"
    ON "PredictionPriceHistory" ("marketId", "createdAt" DESC);

CREATE TABLE IF NOT EXISTS "Question" (
    "id"                   TEXT NOT NULL,
    "questionNumber"       INTEGER NOT NULL,
    "text"                 TEXT NOT NULL,
    "scenarioId"           INTEGER NOT NULL,
    "outcome"              BOOLEAN NOT NULL,
    "rank"                 INTEGER NOT NULL,
    "createdDate"          TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "resolutionDate"       TIMESTAMP(3) NOT NULL,
    "status"               TEXT NOT NULL DEFAULT 'active',
    "resolvedOutcome"      BOOLEAN,
    "createdAt"            TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"            TIMESTAMP(3) NOT NULL,
    "oracleCommitBlock"    INTEGER,
    "oracleCommitTxHash"   TEXT,
    "oracleCommitment"     TEXT,
    "oracleError"          TEXT,
    "oraclePublishedAt"    TIMESTAMP(3),
    "oracleRevealBlock"    INTEGER,
    "oracleRevealTxHash"   TEXT,
    "oracleSaltEncrypted"  TEXT,
    "oracleSessionId"      TEXT,
    CONSTRAINT "Question_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX IF NOT EXISTS "Question_questionNumber_key" ON "Question" ("questionNumber");
CREATE UNIQUE INDEX IF NOT EXISTS "Question_oracleSessionId_key" ON "Question" ("oracleSessionId");
CREATE INDEX IF NOT EXISTS "Question_createdDate_idx" ON "Question" ("createdDate" DESC);
CREATE INDEX IF NOT EXISTS "Question_status_resolutionDate_idx" ON "Question" ("status", "resolutionDate");

CREATE TABLE IF NOT EXISTS "Position" (
    "id"          TEXT NOT NULL,
    "userId"      TEXT NOT NULL,
    "marketId"    TEXT NOT NULL,
    "side"        BOOLEAN NOT NULL,
    "shares"      DECIMAL(18,6) NOT NULL,
    "avgPrice"    DECIMAL(18,6) NOT NULL,
    "amount"      DECIMAL(18,2) NOT NULL DEFAULT 0,
    "outcome"     BOOLEAN,
    "pnl"         DECIMAL(18,2),
    "questionId"  INTEGER,
    "resolvedAt"  TIMESTAMP(3),
    "status"      TEXT NOT NULL DEFAULT 'active',
    "createdAt"   TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"   TIMESTAMP(3) NOT NULL,
    CONSTRAINT "Position_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "Position_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE,
    CONSTRAINT "Position_marketId_fkey" FOREIGN KEY ("marketId") REFERENCES "Market" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE,
    CONSTRAINT "Position_questionId_fkey" FOREIGN KEY ("questionId") REFERENCES "Question" ("questionNumber")
        ON DELETE SET NULL ON UPDATE CASCADE
);
CREATE INDEX IF NOT EXISTS "Position_marketId_idx" ON "Position" ("marketId");
CREATE INDEX IF NOT EXISTS "Position_questionId_idx" ON "Position" ("questionId");
CREATE INDEX IF NOT EXISTS "Position_status_idx" ON "Position" ("status");
CREATE INDEX IF NOT EXISTS "Position_userId_idx" ON "Position" ("userId");
CREATE INDEX IF NOT EXISTS "Position_userId_marketId_idx" ON "Position" ("userId", "marketId");
CREATE INDEX IF NOT EXISTS "Position_userId_status_idx" ON "Position" ("userId", "status");

CREATE TABLE IF NOT EXISTS "WorldEvent" (
    "id"               TEXT NOT NULL,
    "eventType"        TEXT NOT NULL,
    "description"      TEXT NOT NULL,
    "actors"           TEXT[],
    "relatedQuestion"  INTEGER,
    "pointsToward"     TEXT,
    "timestamp"        TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "visibility"       TEXT NOT NULL DEFAULT 'public',
    "gameId"           TEXT,
    "dayNumber"        INTEGER,
    "createdAt"        TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "WorldEvent_pkey" PRIMARY KEY ("id")
);
CREATE INDEX IF NOT EXISTS "WorldEvent_gameId_dayNumber_idx" ON "WorldEvent" ("gameId", "dayNumber");
CREATE INDEX IF NOT EXISTS "WorldEvent_relatedQuestion_idx" ON "WorldEvent" ("relatedQuestion");
CREATE INDEX IF NOT EXISTS "WorldEvent_timestamp_idx" ON "WorldEvent" ("timestamp" DESC);

CREATE TABLE IF NOT EXISTS "Post" (
    "id"               TEXT NOT NULL,
    "type"             TEXT NOT NULL DEFAULT 'post',
    "content"          TEXT NOT NULL,
    "fullContent"      TEXT,
    "articleTitle"     TEXT,
    "byline"           TEXT,
    "biasScore"        DOUBLE PRECISION,
    "sentiment"        TEXT,
    "slant"            TEXT,
    "category"         TEXT,
    "authorId"         TEXT NOT NULL,
    "gameId"           TEXT,
    "dayNumber"        INTEGER,
    "timestamp"        TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "createdAt"        TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "deletedAt"        TIMESTAMP(3),
    "commentOnPostId"  TEXT,
    "parentCommentId"  TEXT,
    "originalPostId"   TEXT,
    CONSTRAINT "Post_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "Post_commentOnPostId_fkey" FOREIGN KEY ("commentOnPostId") REFERENCES "Post" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT "Post_parentCommentId_fkey" FOREIGN KEY ("parentCommentId") REFERENCES "Post" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT "Post_originalPostId_fkey" FOREIGN KEY ("originalPostId") REFERENCES "Post" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE
);
CREATE INDEX IF NOT EXISTS "Post_authorId_timestamp_idx" ON "Post" ("authorId", "timestamp" DESC);
CREATE INDEX IF NOT EXISTS "Post_timestamp_idx" ON "Post" ("timestamp" DESC);

CREATE TABLE IF NOT EXISTS "AgentTrade" (
    "id"           TEXT NOT NULL,
    "marketType"   TEXT NOT NULL,
    "marketId"     TEXT,
    "ticker"       TEXT,
    "action"       TEXT NOT NULL,
    "side"         TEXT,
    "amount"       DOUBLE PRECISION NOT NULL,
    "price"        DOUBLE PRECISION NOT NULL,
    "pnl"          DOUBLE PRECISION,
    "reasoning"    TEXT,
    "executedAt"   TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "agentUserId"  TEXT NOT NULL,
    CONSTRAINT "AgentTrade_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "AgentTrade_agentUserId_fkey" FOREIGN KEY ("agentUserId") REFERENCES "User" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX IF NOT EXISTS "AgentTrade_agentUserId_executedAt_idx"
    ON "AgentTrade" ("agentUserId", "executedAt" DESC);
CREATE INDEX IF NOT EXISTS "AgentTrade_marketType_marketId_idx" ON "AgentTrade" ("marketType", "marketId");
CREATE INDEX IF NOT EXISTS "AgentTrade_ticker_idx" ON "AgentTrade" ("ticker");

CREATE TABLE IF NOT EXISTS "NPCTrade" (
    "id"          TEXT NOT NULL,
    "npcActorId"  TEXT NOT NULL,
    "poolId"      TEXT,
    "marketType"  TEXT NOT NULL,
    "ticker"      TEXT,
    "marketId"    TEXT,
    "action"      TEXT NOT NULL,
    "side"        TEXT,
    "amount"      DOUBLE PRECISION NOT NULL,
    "price"       DOUBLE PRECISION NOT NULL,
    "sentiment"   DOUBLE PRECISION,
    "reason"      TEXT,
    "postId"      TEXT,
    "executedAt"  TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "NPCTrade_pkey" PRIMARY KEY ("id")
);
CREATE INDEX IF NOT EXISTS "NPCTrade_executedAt_idx" ON "NPCTrade" ("executedAt" DESC);
CREATE INDEX IF NOT EXISTS "NPCTrade_marketType_ticker_idx" ON "NPCTrade" ("marketType", "ticker");
CREATE INDEX IF NOT EXISTS "NPCTrade_npcActorId_executedAt_idx" ON "NPCTrade" ("npcActorId", "executedAt" DESC);

CREATE TABLE IF NOT EXISTS "SystemSettings" (
    "id"            TEXT NOT NULL DEFAULT 'system',
    "wandbModel"    TEXT,
    "wandbEnabled"  BOOLEAN NOT NULL DEFAULT false,
    "createdAt"     TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"     TIMESTAMP(3) NOT NULL,
    CONSTRAINT "SystemSettings_pkey" PRIMARY KEY ("id")
);

CREATE TABLE IF NOT EXISTS "trajectories" (
    "id"                    TEXT NOT NULL,
    "trajectoryId"          TEXT NOT NULL,
    "agentId"               TEXT NOT NULL,
    "startTime"             TIMESTAMP(3) NOT NULL,
    "endTime"               TIMESTAMP(3) NOT NULL,
    "durationMs"            INTEGER NOT NULL,
    "windowId"              VARCHAR(50),
    "windowHours"           INTEGER NOT NULL DEFAULT 1,
    "episodeId"             VARCHAR(100),
    "scenarioId"            VARCHAR(100),
    "batchId"               VARCHAR(100),
    "stepsJson"             TEXT NOT NULL,
    "rewardComponentsJson"  TEXT NOT NULL,
    "metricsJson"           TEXT NOT NULL,
    "metadataJson"          TEXT NOT NULL,
    "totalReward"           DOUBLE PRECISION NOT NULL,
    "episodeLength"         INTEGER NOT NULL,
    "finalStatus"           TEXT NOT NULL,
    "finalBalance"          DOUBLE PRECISION,
    "finalPnL"              DOUBLE PRECISION,
    "tradesExecuted"        INTEGER,
    "postsCreated"          INTEGER,
    "aiJudgeReward"         DOUBLE PRECISION,
    "aiJudgeReasoning"      TEXT,
    "judgedAt"              TIMESTAMP(3),
    "isTrainingData"        BOOLEAN NOT NULL DEFAULT true,
    "isEvaluation"          BOOLEAN NOT NULL DEFAULT false,
    "usedInTraining"        BOOLEAN NOT NULL DEFAULT false,
    "trainedInBatch"        TEXT,
    "createdAt"             TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"             TIMESTAMP(3) NOT NULL,
    CONSTRAINT "trajectories_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "trajectories_agentId_fkey" FOREIGN KEY ("agentId") REFERENCES "User" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE UNIQUE INDEX IF NOT EXISTS "trajectories_trajectoryId_key" ON "trajectories" ("trajectoryId");
CREATE INDEX IF NOT EXISTS "trajectories_agentId_startTime_idx" ON "trajectories" ("agentId", "startTime");
CREATE INDEX IF NOT EXISTS "trajectories_aiJudgeReward_idx" ON "trajectories" ("aiJudgeReward");
CREATE INDEX IF NOT EXISTS "trajectories_isTrainingData_usedInTraining_idx"
    ON "trajectories" ("isTrainingData", "usedInTraining");
CREATE INDEX IF NOT EXISTS "trajectories_scenarioId_createdAt_idx" ON "trajectories" ("scenarioId", "createdAt");
CREATE INDEX IF NOT EXISTS "trajectories_trainedInBatch_idx" ON "trajectories" ("trainedInBatch");
CREATE INDEX IF NOT EXISTS "trajectories_windowId_agentId_idx" ON "trajectories" ("windowId", "agentId");
CREATE INDEX IF NOT EXISTS "trajectories_windowId_idx" ON "trajectories" ("windowId");

CREATE TABLE IF NOT EXISTS "llm_call_logs" (
    "id"                TEXT NOT NULL,
    "trajectoryId"      TEXT NOT NULL,
    "stepId"            TEXT NOT NULL,
    "callId"            TEXT NOT NULL,
    "timestamp"         TIMESTAMP(3) NOT NULL,
    "latencyMs"         INTEGER,
    "model"             TEXT NOT NULL,
    "purpose"           TEXT NOT NULL,
    "actionType"        TEXT,
    "systemPrompt"      TEXT NOT NULL,
    "userPrompt"        TEXT NOT NULL,
    "messagesJson"      TEXT,
    "response"          TEXT NOT NULL,
    "reasoning"         TEXT,
    "temperature"       DOUBLE PRECISION NOT NULL,
    "maxTokens"         INTEGER NOT NULL,
    "topP"              DOUBLE PRECISION,
    "promptTokens"      INTEGER,
    "completionTokens"  INTEGER,
    "totalTokens"       INTEGER,
    "metadata"          TEXT,
    "createdAt"         TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "llm_call_logs_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX IF NOT EXISTS "llm_call_logs_callId_key" ON "llm_call_logs" ("callId");
CREATE INDEX IF NOT EXISTS "llm_call_logs_callId_idx" ON "llm_call_logs" ("callId");
CREATE INDEX IF NOT EXISTS "llm_call_logs_timestamp_idx" ON "llm_call_logs" ("timestamp");
CREATE INDEX IF NOT EXISTS "llm_call_logs_trajectoryId_idx" ON "llm_call_logs" ("trajectoryId");

CREATE TABLE IF NOT EXISTS "market_outcomes" (
    "id"                  TEXT NOT NULL,
    "windowId"            VARCHAR(50) NOT NULL,
    "stockTicker"         VARCHAR(20),
    "startPrice"          DECIMAL(10,2),
    "endPrice"            DECIMAL(10,2),
    "changePercent"       DECIMAL(5,2),
    "sentiment"           VARCHAR(20),
    "newsEvents"          JSONB,
    "predictionMarketId"  TEXT,
    "question"            TEXT,
    "outcome"             VARCHAR(20),
    "finalProbability"    DECIMAL(5,4),
    "volume"              DECIMAL(15,2),
    "createdAt"           TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "market_outcomes_pkey" PRIMARY KEY ("id")
);
CREATE INDEX IF NOT EXISTS "market_outcomes_windowId_idx" ON "market_outcomes" ("windowId");
CREATE INDEX IF NOT EXISTS "market_outcomes_windowId_stockTicker_idx"
    ON "market_outcomes" ("windowId", "stockTicker");

CREATE TABLE IF NOT EXISTS "training_batches" (
    "id"                 TEXT NOT NULL,
    "batchId"            TEXT NOT NULL,
    "scenarioId"         TEXT,
    "baseModel"          TEXT NOT NULL,
    "modelVersion"       TEXT NOT NULL,
    "trajectoryIds"      TEXT NOT NULL,
    "rankingsJson"       TEXT,
    "rewardsJson"        TEXT NOT NULL,
    "trainingLoss"       DOUBLE PRECISION,
    "policyImprovement"  DOUBLE PRECISION,
    "status"             TEXT NOT NULL DEFAULT 'pending',
    "error"              TEXT,
    "createdAt"          TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "startedAt"          TIMESTAMP(3),
    "completedAt"        TIMESTAMP(3),
    CONSTRAINT "training_batches_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX IF NOT EXISTS "training_batches_batchId_key" ON "training_batches" ("batchId");
CREATE INDEX IF NOT EXISTS "training_batches_scenarioId_idx" ON "training_batches" ("scenarioId");
CREATE INDEX IF NOT EXISTS "training_batches_status_createdAt_idx" ON "training_batches" ("status", "createdAt");

CREATE TABLE IF NOT EXISTS "trained_models" (
    "id"               TEXT NOT NULL,
    "modelId"          TEXT NOT NULL,
    "version"          TEXT NOT NULL,
    "baseModel"        TEXT NOT NULL,
    "trainingBatch"    TEXT,
    "status"           TEXT NOT NULL DEFAULT 'training',
    "deployedAt"       TIMESTAMP(3),
    "archivedAt"       TIMESTAMP(3),
    "storagePath"      TEXT NOT NULL,
    "benchmarkScore"   DOUBLE PRECISION,
    "accuracy"         DOUBLE PRECISION,
    "avgReward"        DOUBLE PRECISION,
    "evalMetrics"      JSONB,
    "wandbRunId"       TEXT,
    "wandbArtifactId"  TEXT,
    "agentsUsing"      INTEGER NOT NULL DEFAULT 0,
    "totalInferences"  INTEGER NOT NULL DEFAULT 0,
    "createdAt"        TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"        TIMESTAMP(3) NOT NULL,
    CONSTRAINT "trained_models_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX IF NOT EXISTS "trained_models_modelId_key" ON "trained_models" ("modelId");
CREATE INDEX IF NOT EXISTS "trained_models_status_idx" ON "trained_models" ("status");
CREATE INDEX IF NOT EXISTS "trained_models_version_idx" ON "trained_models" ("version");
CREATE INDEX IF NOT EXISTS "trained_models_deployedAt_idx" ON "trained_models" ("deployedAt");

CREATE TABLE IF NOT EXISTS "reward_judgments" (
    "id"                   TEXT NOT NULL,
    "trajectoryId"         TEXT NOT NULL,
    "judgeModel"           TEXT NOT NULL,
    "judgeVersion"         TEXT NOT NULL,
    "overallScore"         DOUBLE PRECISION NOT NULL,
    "componentScoresJson"  TEXT,
    "rank"                 INTEGER,
    "normalizedScore"      DOUBLE PRECISION,
    "groupId"              TEXT,
    "reasoning"            TEXT NOT NULL,
    "strengthsJson"        TEXT,
    "weaknessesJson"       TEXT,
    "criteriaJson"         TEXT NOT NULL,
    "judgedAt"             TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "reward_judgments_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "reward_judgments_trajectoryId_fkey" FOREIGN KEY ("trajectoryId")
        REFERENCES "trajectories" ("trajectoryId") ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE UNIQUE INDEX IF NOT EXISTS "reward_judgments_trajectoryId_key" ON "reward_judgments" ("trajectoryId");
CREATE INDEX IF NOT EXISTS "reward_judgments_overallScore_idx" ON "reward_judgments" ("overallScore");
CREATE INDEX IF NOT EXISTS "reward_judgments_groupId_rank_idx" ON "reward_judgments" ("groupId", "rank");

-- The marker without which simulation and spawner refuse to write.
CREATE SCHEMA IF NOT EXISTS rl;
CREATE TABLE IF NOT EXISTS rl.migrations (
    name        text PRIMARY KEY,
    sha256      text,
    applied_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS rl.installation (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    kind        text NOT NULL CHECK (kind IN ('embedded')),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO rl.installation (kind) VALUES ('embedded') ON CONFLICT (only_row) DO NOTHING;
INSERT INTO rl.migrations (name) VALUES ('embedded/game_tables') ON CONFLICT (name) DO NOTHING;
