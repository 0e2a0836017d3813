-- The game's tables as its own migrations leave them: made before ours ran, by another hand.
--
-- Prisma's form and exact types, columns in another order than in migrations/embedded, columns and tables that the
-- pipeline does not know, foreign keys added last, and Prisma's own ledger.

-- CreateEnum
CREATE TYPE "ReviewState" AS ENUM ('open', 'accepted', 'rejected');

-- CreateTable
CREATE TABLE "AgentPerformanceMetrics" (
    "id" TEXT NOT NULL,
    "onChainReputationSync" BOOLEAN NOT NULL DEFAULT false,
    "lastGamePlayedAt" TIMESTAMP(3),
    "positiveCount" INTEGER NOT NULL DEFAULT 0,
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "totalTrades" INTEGER NOT NULL DEFAULT 0,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "winRate" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "userId" TEXT NOT NULL,
    "averageRating" DOUBLE PRECISION,
    "profitableTrades" INTEGER NOT NULL DEFAULT 0,
    "totalInteractions" INTEGER NOT NULL DEFAULT 0,
    "lastSyncedAt" TIMESTAMP(3),
    "lastActivityAt" TIMESTAMP(3),
    "totalFeedbackCount" INTEGER NOT NULL DEFAULT 0,
    "onChainTrustScore" DOUBLE PRECISION,
    "onChainAccuracyScore" DOUBLE PRECISION,
    "trustLevel" TEXT NOT NULL DEFAULT 'UNRATED',
    "normalizedPnL" DOUBLE PRECISION NOT NULL DEFAULT 0.5,
    "neutralCount" INTEGER NOT NULL DEFAULT 0,
    "firstActivityAt" TIMESTAMP(3),
    "reputationScore" DOUBLE PRECISION NOT NULL DEFAULT 50,
    "sharpeRatio" DOUBLE PRECISION,
    "averageGameScore" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "negativeCount" INTEGER NOT NULL DEFAULT 0,
    "gamesWon" INTEGER NOT NULL DEFAULT 0,
    "gamesPlayed" INTEGER NOT NULL DEFAULT 0,
    "confidenceScore" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "averageFeedbackScore" DOUBLE PRECISION NOT NULL DEFAULT 50,
    "lastGameScore" DOUBLE PRECISION,
    "averageROI" DOUBLE PRECISION NOT NULL DEFAULT 0,

    CONSTRAINT "AgentPerformanceMetrics_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "AgentTrade" (
    "id" TEXT NOT NULL,
    "pnl" DOUBLE PRECISION,
    "agentUserId" TEXT NOT NULL,
    "amount" DOUBLE PRECISION NOT NULL,
    "ticker" TEXT,
    "marketId" TEXT,
    "side" TEXT,
    "reasoning" TEXT,
    "action" TEXT NOT NULL,
    "marketType" TEXT NOT NULL,
    "price" DOUBLE PRECISION NOT NULL,
    "txHash" TEXT,
    "executedAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "AgentTrade_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "BalanceTransaction" (
    "id" TEXT NOT NULL,
    "balanceBefore" DECIMAL(18,2) NOT NULL,
    "relatedId" TEXT,
    "userId" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "description" TEXT,
    "amount" DECIMAL(18,2) NOT NULL,
    "balanceAfter" DECIMAL(18,2) NOT NULL,
    "type" TEXT NOT NULL,

    CONSTRAINT "BalanceTransaction_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Market" (
    "id" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "onChainResolutionTxHash" TEXT,
    "description" TEXT,
    "oracleAddress" TEXT,
    "onChainMarketId" TEXT,
    "yesShares" DECIMAL(18,6) NOT NULL DEFAULT 0,
    "metadata" JSONB,
    "noShares" DECIMAL(18,6) NOT NULL DEFAULT 0,
    "liquidity" DECIMAL(18,6) NOT NULL,
    "resolution" BOOLEAN,
    "resolved" BOOLEAN NOT NULL DEFAULT false,
    "category" TEXT,
    "onChainResolved" BOOLEAN NOT NULL DEFAULT false,
    "question" TEXT NOT NULL,
    "endDate" TIMESTAMP(3) NOT NULL,
    "gameId" TEXT,
    "dayNumber" INTEGER,
    "updatedAt" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "Market_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "NPCTrade" (
    "id" TEXT NOT NULL,
    "sentiment" DOUBLE PRECISION,
    "npcActorId" TEXT NOT NULL,
    "price" DOUBLE PRECISION NOT NULL,
    "side" TEXT,
    "reason" TEXT,
    "action" TEXT NOT NULL,
    "postId" TEXT,
    "amount" DOUBLE PRECISION NOT NULL,
    "marketId" TEXT,
    "poolId" TEXT,
    "ticker" TEXT,
    "marketType" TEXT NOT NULL,
    "executedAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "NPCTrade_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Organization" (
    "id" TEXT NOT NULL,
    "currentPrice" DOUBLE PRECISION,
    "name" TEXT NOT NULL,
    "initialPrice" DOUBLE PRECISION,
    "canBeInvolved" BOOLEAN NOT NULL DEFAULT true,
    "tags" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "headquarters" TEXT,
    "type" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "imageUrl" TEXT,
    "description" TEXT NOT NULL,

    CONSTRAINT "Organization_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "PerpPosition" (
    "id" TEXT NOT NULL,
    "side" TEXT NOT NULL,
    "openedAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "takeProfit" DOUBLE PRECISION,
    "liquidationPrice" DOUBLE PRECISION NOT NULL,
    "userId" TEXT NOT NULL,
    "size" DOUBLE PRECISION NOT NULL,
    "currentPrice" DOUBLE PRECISION NOT NULL,
    "realizedPnL" DOUBLE PRECISION,
    "entryPrice" DOUBLE PRECISION NOT NULL,
    "settledAt" TIMESTAMP(3),
    "ticker" TEXT NOT NULL,
    "lastUpdated" TIMESTAMP(3) NOT NULL,
    "closedAt" TIMESTAMP(3),
    "leverage" INTEGER NOT NULL,
    "unrealizedPnL" DOUBLE PRECISION NOT NULL,
    "fundingPaid" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "stopLoss" DOUBLE PRECISION,
    "unrealizedPnLPercent" DOUBLE PRECISION NOT NULL,
    "settlementTxHash" TEXT,
    "settledToChain" BOOLEAN NOT NULL DEFAULT false,
    "organizationId" TEXT NOT NULL,

    CONSTRAINT "PerpPosition_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Position" (
    "id" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "questionId" INTEGER,
    "marketId" TEXT NOT NULL,
    "shares" DECIMAL(18,6) NOT NULL,
    "userId" TEXT NOT NULL,
    "side" BOOLEAN NOT NULL,
    "amount" DECIMAL(18,2) NOT NULL DEFAULT 0,
    "outcome" BOOLEAN,
    "avgPrice" DECIMAL(18,6) NOT NULL,
    "pnl" DECIMAL(18,2),
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "resolvedAt" TIMESTAMP(3),
    "status" TEXT NOT NULL DEFAULT 'active',

    CONSTRAINT "Position_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Post" (
    "id" TEXT NOT NULL,
    "category" TEXT,
    "biasScore" DOUBLE PRECISION,
    "deletedAt" TIMESTAMP(3),
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "gameId" TEXT,
    "parentCommentId" TEXT,
    "type" TEXT NOT NULL DEFAULT 'post',
    "slant" TEXT,
    "authorId" TEXT NOT NULL,
    "originalPostId" TEXT,
    "likes" INTEGER NOT NULL DEFAULT 0,
    "dayNumber" INTEGER,
    "fullContent" TEXT,
    "byline" TEXT,
    "timestamp" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "sentiment" TEXT,
    "content" TEXT NOT NULL,
    "commentOnPostId" TEXT,
    "articleTitle" TEXT,

    CONSTRAINT "Post_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "PredictionPriceHistory" (
    "id" TEXT NOT NULL,
    "marketId" TEXT NOT NULL,
    "liquidity" DECIMAL(24,8) NOT NULL,
    "yesPrice" DOUBLE PRECISION NOT NULL,
    "yesShares" DECIMAL(24,8) NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "noShares" DECIMAL(24,8) NOT NULL,
    "source" TEXT NOT NULL,
    "eventType" TEXT NOT NULL,
    "noPrice" DOUBLE PRECISION NOT NULL,

    CONSTRAINT "PredictionPriceHistory_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Question" (
    "id" TEXT NOT NULL,
    "text" TEXT NOT NULL,
    "resolutionDate" TIMESTAMP(3) NOT NULL,
    "resolvedOutcome" BOOLEAN,
    "oracleSaltEncrypted" TEXT,
    "oracleCommitment" TEXT,
    "oracleCommitTxHash" TEXT,
    "outcome" BOOLEAN NOT NULL,
    "oracleCommitBlock" INTEGER,
    "oracleError" TEXT,
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "oracleRevealTxHash" TEXT,
    "oracleSessionId" TEXT,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "oraclePublishedAt" TIMESTAMP(3),
    "questionNumber" INTEGER NOT NULL,
    "oracleRevealBlock" INTEGER,
    "secretNote" TEXT,
    "confidence" DOUBLE PRECISION,
    "createdDate" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "scenarioId" INTEGER NOT NULL,
    "rank" INTEGER NOT NULL,
    "status" TEXT NOT NULL DEFAULT 'active',

    CONSTRAINT "Question_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "StockPrice" (
    "id" TEXT NOT NULL,
    "timestamp" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "price" DOUBLE PRECISION NOT NULL,
    "change" DOUBLE PRECISION NOT NULL,
    "isSnapshot" BOOLEAN NOT NULL DEFAULT false,
    "organizationId" TEXT NOT NULL,
    "source" TEXT,
    "changePercent" DOUBLE PRECISION NOT NULL,
    "volume" DOUBLE PRECISION,
    "openPrice" DOUBLE PRECISION,
    "lowPrice" DOUBLE PRECISION,
    "highPrice" DOUBLE PRECISION,

    CONSTRAINT "StockPrice_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "SystemSettings" (
    "id" TEXT NOT NULL DEFAULT 'system',
    "wandbEnabled" BOOLEAN NOT NULL DEFAULT false,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "wandbModel" TEXT,

    CONSTRAINT "SystemSettings_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "User" (
    "id" TEXT NOT NULL,
    "earnedPoints" INTEGER NOT NULL DEFAULT 0,
    "pushSettings" JSONB,
    "agentErrorMessage" TEXT,
    "email" TEXT,
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "walletAddress" TEXT,
    "agentPersonaPrompt" TEXT,
    "autonomousPosting" BOOLEAN NOT NULL DEFAULT false,
    "isBanned" BOOLEAN NOT NULL DEFAULT false,
    "agentLastTickAt" TIMESTAMP(3),
    "a2aEnabled" BOOLEAN NOT NULL DEFAULT false,
    "managedBy" TEXT,
    "autonomousTrading" BOOLEAN NOT NULL DEFAULT false,
    "agentPersonality" TEXT,
    "isAdmin" BOOLEAN NOT NULL DEFAULT false,
    "agentSystem" TEXT,
    "bio" TEXT,
    "agentModelTier" TEXT NOT NULL DEFAULT 'free',
    "profileImageUrl" TEXT,
    "agentTradingStrategy" TEXT,
    "agentPointsBalance" INTEGER NOT NULL DEFAULT 0,
    "autonomousGroupChats" BOOLEAN NOT NULL DEFAULT false,
    "totalAgentPnL" DECIMAL(18,2) NOT NULL DEFAULT 0,
    "totalDeposited" DECIMAL(18,2) NOT NULL DEFAULT 1000,
    "agentPlanningHorizon" TEXT NOT NULL DEFAULT 'single',
    "isTest" BOOLEAN NOT NULL DEFAULT false,
    "totalFeesPaid" DECIMAL(18,2) NOT NULL DEFAULT 0,
    "agentRiskTolerance" TEXT NOT NULL DEFAULT 'medium',
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "autonomousCommenting" BOOLEAN NOT NULL DEFAULT false,
    "isActor" BOOLEAN NOT NULL DEFAULT false,
    "displayName" TEXT,
    "agentStatus" TEXT NOT NULL DEFAULT 'idle',
    "privyId" TEXT,
    "totalWithdrawn" DECIMAL(18,2) NOT NULL DEFAULT 0,
    "username" TEXT,
    "isScammer" BOOLEAN NOT NULL DEFAULT false,
    "isAgent" BOOLEAN NOT NULL DEFAULT false,
    "agentMaxActionsPerTick" INTEGER NOT NULL DEFAULT 3,
    "virtualBalance" DECIMAL(18,2) NOT NULL DEFAULT 1000,
    "lifetimePnL" DECIMAL(18,2) NOT NULL DEFAULT 0,
    "autonomousDMs" BOOLEAN NOT NULL DEFAULT false,
    "reputationPoints" INTEGER NOT NULL DEFAULT 1000,

    CONSTRAINT "User_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "WorldEvent" (
    "id" TEXT NOT NULL,
    "relatedQuestion" INTEGER,
    "description" TEXT NOT NULL,
    "visibility" TEXT NOT NULL DEFAULT 'public',
    "gameId" TEXT,
    "tags" TEXT[],
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "timestamp" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "pointsToward" TEXT,
    "location" TEXT,
    "eventType" TEXT NOT NULL,
    "dayNumber" INTEGER,
    "actors" TEXT[],

    CONSTRAINT "WorldEvent_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "llm_call_logs" (
    "id" TEXT NOT NULL,
    "maxTokens" INTEGER NOT NULL,
    "stepId" TEXT NOT NULL,
    "model" TEXT NOT NULL,
    "trajectoryId" TEXT NOT NULL,
    "callId" TEXT NOT NULL,
    "topP" DOUBLE PRECISION,
    "latencyMs" INTEGER,
    "systemPrompt" TEXT NOT NULL,
    "totalTokens" INTEGER,
    "purpose" TEXT NOT NULL,
    "response" TEXT NOT NULL,
    "timestamp" TIMESTAMP(3) NOT NULL,
    "temperature" DOUBLE PRECISION NOT NULL,
    "reasoning" TEXT,
    "userPrompt" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "messagesJson" TEXT,
    "promptTokens" INTEGER,
    "metadata" TEXT,
    "completionTokens" INTEGER,
    "actionType" TEXT,

    CONSTRAINT "llm_call_logs_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "market_outcomes" (
    "id" TEXT NOT NULL,
    "newsEvents" JSONB,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "volume" DECIMAL(15,2),
    "question" TEXT,
    "stockTicker" VARCHAR(20),
    "windowId" VARCHAR(50) NOT NULL,
    "startPrice" DECIMAL(10,2),
    "finalProbability" DECIMAL(5,4),
    "source" TEXT,
    "sentiment" VARCHAR(20),
    "outcome" VARCHAR(20),
    "endPrice" DECIMAL(10,2),
    "changePercent" DECIMAL(5,2),
    "predictionMarketId" TEXT,

    CONSTRAINT "market_outcomes_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "reward_judgments" (
    "id" TEXT NOT NULL,
    "normalizedScore" DOUBLE PRECISION,
    "weaknessesJson" TEXT,
    "judgeModel" TEXT NOT NULL,
    "componentScoresJson" TEXT,
    "reasoning" TEXT NOT NULL,
    "judgeVersion" TEXT NOT NULL,
    "criteriaJson" TEXT NOT NULL,
    "strengthsJson" TEXT,
    "trajectoryId" TEXT NOT NULL,
    "groupId" TEXT,
    "judgedAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "rank" INTEGER,
    "overallScore" DOUBLE PRECISION NOT NULL,

    CONSTRAINT "reward_judgments_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "trained_models" (
    "id" TEXT NOT NULL,
    "trainingBatch" TEXT,
    "baseModel" TEXT NOT NULL,
    "modelId" TEXT NOT NULL,
    "status" TEXT NOT NULL DEFAULT 'training',
    "benchmarkScore" DOUBLE PRECISION,
    "accuracy" DOUBLE PRECISION,
    "agentsUsing" INTEGER NOT NULL DEFAULT 0,
    "evalMetrics" JSONB,
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "storagePath" TEXT NOT NULL,
    "archivedAt" TIMESTAMP(3),
    "version" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "avgReward" DOUBLE PRECISION,
    "wandbRunId" TEXT,
    "wandbArtifactId" TEXT,
    "deployedAt" TIMESTAMP(3),
    "totalInferences" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "trained_models_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "training_batches" (
    "id" TEXT NOT NULL,
    "modelVersion" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "batchId" TEXT NOT NULL,
    "rewardsJson" TEXT NOT NULL,
    "policyImprovement" DOUBLE PRECISION,
    "trajectoryIds" TEXT NOT NULL,
    "scenarioId" TEXT,
    "rankingsJson" TEXT,
    "startedAt" TIMESTAMP(3),
    "completedAt" TIMESTAMP(3),
    "baseModel" TEXT NOT NULL,
    "error" TEXT,
    "trainingLoss" DOUBLE PRECISION,
    "status" TEXT NOT NULL DEFAULT 'pending',

    CONSTRAINT "training_batches_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "trajectories" (
    "id" TEXT NOT NULL,
    "endTime" TIMESTAMP(3) NOT NULL,
    "metricsJson" TEXT NOT NULL,
    "totalReward" DOUBLE PRECISION NOT NULL,
    "finalBalance" DOUBLE PRECISION,
    "agentId" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "aiJudgeReward" DOUBLE PRECISION,
    "aiJudgeReasoning" TEXT,
    "postsCreated" INTEGER,
    "tradesExecuted" INTEGER,
    "windowId" VARCHAR(50),
    "rewardComponentsJson" TEXT NOT NULL,
    "isTrainingData" BOOLEAN NOT NULL DEFAULT true,
    "startTime" TIMESTAMP(3) NOT NULL,
    "episodeLength" INTEGER NOT NULL,
    "trainedInBatch" TEXT,
    "updatedAt" TIMESTAMP(3) NOT NULL,
    "stepsJson" TEXT NOT NULL,
    "finalPnL" DOUBLE PRECISION,
    "episodeId" VARCHAR(100),
    "archetype" VARCHAR(50),
    "batchId" VARCHAR(100),
    "isEvaluation" BOOLEAN NOT NULL DEFAULT false,
    "scenarioId" VARCHAR(100),
    "trajectoryId" TEXT NOT NULL,
    "usedInTraining" BOOLEAN NOT NULL DEFAULT false,
    "reviewState" "ReviewState" NOT NULL DEFAULT 'open',
    "metadataJson" TEXT NOT NULL,
    "durationMs" INTEGER NOT NULL,
    "judgedAt" TIMESTAMP(3),
    "finalStatus" TEXT NOT NULL,
    "windowHours" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "trajectories_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Chat" (
    "id" TEXT NOT NULL,
    "name" TEXT,
    "isGroup" BOOLEAN NOT NULL DEFAULT false,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "Chat_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "TradingFee" (
    "id" TEXT NOT NULL,
    "userId" TEXT NOT NULL,
    "feeAmount" DECIMAL(18,2) NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "TradingFee_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "_prisma_migrations" (
    "id" VARCHAR(36) NOT NULL,
    "checksum" VARCHAR(64) NOT NULL,
    "finished_at" TIMESTAMPTZ,
    "migration_name" VARCHAR(255) NOT NULL,
    "logs" TEXT,
    "rolled_back_at" TIMESTAMPTZ,
    "started_at" TIMESTAMPTZ NOT NULL DEFAULT now(),
    "applied_steps_count" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "_prisma_migrations_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "User_username_key" ON "User"("username");

-- CreateIndex
CREATE UNIQUE INDEX "User_walletAddress_key" ON "User"("walletAddress");

-- CreateIndex
CREATE INDEX "User_isAgent_idx" ON "User"("isAgent");

-- CreateIndex
CREATE INDEX "User_isAgent_managedBy_idx" ON "User"("isAgent", "managedBy");

-- CreateIndex
CREATE INDEX "User_autonomousTrading_idx" ON "User"("autonomousTrading");

-- CreateIndex
CREATE UNIQUE INDEX "AgentPerformanceMetrics_userId_key" ON "AgentPerformanceMetrics"("userId");

-- CreateIndex
CREATE INDEX "BalanceTransaction_type_idx" ON "BalanceTransaction"("type");

-- CreateIndex
CREATE INDEX "BalanceTransaction_userId_createdAt_idx" ON "BalanceTransaction"("userId", "createdAt" DESC);

-- CreateIndex
CREATE INDEX "Organization_currentPrice_idx" ON "Organization"("currentPrice");

-- CreateIndex
CREATE INDEX "Organization_type_idx" ON "Organization"("type");

-- CreateIndex
CREATE INDEX "StockPrice_isSnapshot_timestamp_idx" ON "StockPrice"("isSnapshot", "timestamp");

-- CreateIndex
CREATE INDEX "StockPrice_organizationId_timestamp_idx" ON "StockPrice"("organizationId", "timestamp" DESC);

-- CreateIndex
CREATE INDEX "StockPrice_timestamp_idx" ON "StockPrice"("timestamp" DESC);

-- CreateIndex
CREATE INDEX "PerpPosition_organizationId_idx" ON "PerpPosition"("organizationId");

-- CreateIndex
CREATE INDEX "PerpPosition_settledToChain_idx" ON "PerpPosition"("settledToChain");

-- CreateIndex
CREATE INDEX "PerpPosition_ticker_idx" ON "PerpPosition"("ticker");

-- CreateIndex
CREATE INDEX "PerpPosition_userId_closedAt_idx" ON "PerpPosition"("userId", "closedAt");

-- CreateIndex
CREATE INDEX "Market_createdAt_idx" ON "Market"("createdAt" DESC);

-- CreateIndex
CREATE INDEX "Market_gameId_dayNumber_idx" ON "Market"("gameId", "dayNumber");

-- CreateIndex
CREATE INDEX "Market_onChainMarketId_idx" ON "Market"("onChainMarketId");

-- CreateIndex
CREATE INDEX "Market_resolved_endDate_idx" ON "Market"("resolved", "endDate");

-- CreateIndex
CREATE INDEX "PredictionPriceHistory_marketId_createdAt_idx" ON "PredictionPriceHistory"("marketId", "createdAt" DESC);

-- CreateIndex
CREATE UNIQUE INDEX "Question_questionNumber_key" ON "Question"("questionNumber");

-- CreateIndex
CREATE UNIQUE INDEX "Question_oracleSessionId_key" ON "Question"("oracleSessionId");

-- CreateIndex
CREATE INDEX "Question_createdDate_idx" ON "Question"("createdDate" DESC);

-- CreateIndex
CREATE INDEX "Question_status_resolutionDate_idx" ON "Question"("status", "resolutionDate");

-- CreateIndex
CREATE INDEX "Position_marketId_idx" ON "Position"("marketId");

-- CreateIndex
CREATE INDEX "Position_questionId_idx" ON "Position"("questionId");

-- CreateIndex
CREATE INDEX "Position_status_idx" ON "Position"("status");

-- CreateIndex
CREATE INDEX "Position_userId_idx" ON "Position"("userId");

-- CreateIndex
CREATE INDEX "Position_userId_marketId_idx" ON "Position"("userId", "marketId");

-- CreateIndex
CREATE INDEX "Position_userId_status_idx" ON "Position"("userId", "status");

-- CreateIndex
CREATE INDEX "WorldEvent_gameId_dayNumber_idx" ON "WorldEvent"("gameId", "dayNumber");

-- CreateIndex
CREATE INDEX "WorldEvent_relatedQuestion_idx" ON "WorldEvent"("relatedQuestion");

-- CreateIndex
CREATE INDEX "WorldEvent_timestamp_idx" ON "WorldEvent"("timestamp" DESC);

-- CreateIndex
CREATE INDEX "Post_authorId_timestamp_idx" ON "Post"("authorId", "timestamp" DESC);

-- CreateIndex
CREATE INDEX "Post_timestamp_idx" ON "Post"("timestamp" DESC);

-- CreateIndex
CREATE INDEX "AgentTrade_agentUserId_executedAt_idx" ON "AgentTrade"("agentUserId", "executedAt" DESC);

-- CreateIndex
CREATE INDEX "AgentTrade_marketType_marketId_idx" ON "AgentTrade"("marketType", "marketId");

-- CreateIndex
CREATE INDEX "AgentTrade_ticker_idx" ON "AgentTrade"("ticker");

-- CreateIndex
CREATE INDEX "NPCTrade_executedAt_idx" ON "NPCTrade"("executedAt" DESC);

-- CreateIndex
CREATE INDEX "NPCTrade_marketType_ticker_idx" ON "NPCTrade"("marketType", "ticker");

-- CreateIndex
CREATE INDEX "NPCTrade_npcActorId_executedAt_idx" ON "NPCTrade"("npcActorId", "executedAt" DESC);

-- CreateIndex
CREATE UNIQUE INDEX "trajectories_trajectoryId_key" ON "trajectories"("trajectoryId");

-- CreateIndex
CREATE INDEX "trajectories_agentId_startTime_idx" ON "trajectories"("agentId", "startTime");

-- CreateIndex
CREATE INDEX "trajectories_aiJudgeReward_idx" ON "trajectories"("aiJudgeReward");

-- CreateIndex
CREATE INDEX "trajectories_isTrainingData_usedInTraining_idx" ON "trajectories"("isTrainingData", "usedInTraining");

-- CreateIndex
CREATE INDEX "trajectories_scenarioId_createdAt_idx" ON "trajectories"("scenarioId", "createdAt");

-- CreateIndex
CREATE INDEX "trajectories_trainedInBatch_idx" ON "trajectories"("trainedInBatch");

-- CreateIndex
CREATE INDEX "trajectories_windowId_agentId_idx" ON "trajectories"("windowId", "agentId");

-- CreateIndex
CREATE INDEX "trajectories_windowId_idx" ON "trajectories"("windowId");

-- CreateIndex
CREATE UNIQUE INDEX "llm_call_logs_callId_key" ON "llm_call_logs"("callId");

-- CreateIndex
CREATE INDEX "llm_call_logs_callId_idx" ON "llm_call_logs"("callId");

-- CreateIndex
CREATE INDEX "llm_call_logs_timestamp_idx" ON "llm_call_logs"("timestamp");

-- CreateIndex
CREATE INDEX "llm_call_logs_trajectoryId_idx" ON "llm_call_logs"("trajectoryId");

-- CreateIndex
CREATE INDEX "market_outcomes_windowId_idx" ON "market_outcomes"("windowId");

-- CreateIndex
CREATE INDEX "market_outcomes_windowId_stockTicker_idx" ON "market_outcomes"("windowId", "stockTicker");

-- CreateIndex
CREATE UNIQUE INDEX "training_batches_batchId_key" ON "training_batches"("batchId");

-- CreateIndex
CREATE INDEX "training_batches_scenarioId_idx" ON "training_batches"("scenarioId");

-- CreateIndex
CREATE INDEX "training_batches_status_createdAt_idx" ON "training_batches"("status", "createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "trained_models_modelId_key" ON "trained_models"("modelId");

-- CreateIndex
CREATE INDEX "trained_models_status_idx" ON "trained_models"("status");

-- CreateIndex
CREATE INDEX "trained_models_version_idx" ON "trained_models"("version");

-- CreateIndex
CREATE INDEX "trained_models_deployedAt_idx" ON "trained_models"("deployedAt");

-- CreateIndex
CREATE UNIQUE INDEX "reward_judgments_trajectoryId_key" ON "reward_judgments"("trajectoryId");

-- CreateIndex
CREATE INDEX "reward_judgments_overallScore_idx" ON "reward_judgments"("overallScore");

-- CreateIndex
CREATE INDEX "reward_judgments_groupId_rank_idx" ON "reward_judgments"("groupId", "rank");

-- AddForeignKey
ALTER TABLE "AgentPerformanceMetrics" ADD CONSTRAINT "AgentPerformanceMetrics_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "AgentTrade" ADD CONSTRAINT "AgentTrade_agentUserId_fkey" FOREIGN KEY ("agentUserId") REFERENCES "User" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "BalanceTransaction" ADD CONSTRAINT "BalanceTransaction_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Position" ADD CONSTRAINT "Position_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Position" ADD CONSTRAINT "Position_marketId_fkey" FOREIGN KEY ("marketId") REFERENCES "Market" ("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Position" ADD CONSTRAINT "Position_questionId_fkey" FOREIGN KEY ("questionId") REFERENCES "Question" ("questionNumber") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Post" ADD CONSTRAINT "Post_commentOnPostId_fkey" FOREIGN KEY ("commentOnPostId") REFERENCES "Post" ("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Post" ADD CONSTRAINT "Post_parentCommentId_fkey" FOREIGN KEY ("parentCommentId") REFERENCES "Post" ("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Post" ADD CONSTRAINT "Post_originalPostId_fkey" FOREIGN KEY ("originalPostId") REFERENCES "Post" ("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "PredictionPriceHistory" ADD CONSTRAINT "PredictionPriceHistory_marketId_fkey" FOREIGN KEY ("marketId") REFERENCES "Market" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "StockPrice" ADD CONSTRAINT "StockPrice_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "User" ADD CONSTRAINT "User_managedBy_fkey" FOREIGN KEY ("managedBy") REFERENCES "User" ("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "reward_judgments" ADD CONSTRAINT "reward_judgments_trajectoryId_fkey" FOREIGN KEY ("trajectoryId") REFERENCES "trajectories" ("trajectoryId") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "trajectories" ADD CONSTRAINT "trajectories_agentId_fkey" FOREIGN KEY ("agentId") REFERENCES "User" ("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "TradingFee" ADD CONSTRAINT "TradingFee_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id") ON DELETE RESTRICT ON UPDATE CASCADE;

INSERT INTO "_prisma_migrations" ("id", "checksum", "finished_at", "migration_name", "applied_steps_count")
VALUES ('c5a7a05d', 'c5a7a05d', now(), '20251115144702', 1);
