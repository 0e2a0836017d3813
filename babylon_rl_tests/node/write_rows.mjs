// Rows of `trajectories` as the game's two TypeScript recorders write them, through npm's `pg`.
//
//     DATABASE_URL=postgresql://... node write_rows.mjs      prints {"<case>": "<trajectoryId>", ...}
//
// R is TrajectoryRecorder (cron coordinator, spawner, benchmark runner), P is the plugin's
// TrajectoryLoggerService. JavaScript's own habits are the point: JSON.stringify turns NaN and Infinity into
// null and drops undefined, performance.now() has fractions, half an emoji is escaped, a Decimal is a string.

import { randomUUID } from 'node:crypto'
import pg from 'pg'

const WINDOW = '2026-10-01T14:00'
const START = Date.UTC(2026, 9, 1, 14)
const minute = (n) => START + n * 60_000

// Prisma sends UTC without a zone; a Date given to `pg` would arrive in the host's time zone.
const timestamp = (ms) => new Date(ms).toISOString().replace('T', ' ').replace('Z', '')

let sequence = 0n
const EPOCH = BigInt(Date.UTC(2024, 0, 1))
const snowflake = (ms) => (((BigInt(ms) - EPOCH) << 22n) | (sequence++ & 0xfffn)).toString()

const client = new pg.Client({ connectionString: process.env.DATABASE_URL })

async function insert(table, row) {
  const columns = Object.keys(row)
  const names = columns.map((name) => `"${name}"`).join(', ')
  const places = columns.map((_, i) => `$${i + 1}`).join(', ')
  await client.query(`INSERT INTO "${table}" (${names}) VALUES (${places})`, Object.values(row))
}

const addUser = (id) => insert('User', { id, isAgent: true, updatedAt: timestamp(START) })

// TrajectoryRecorder.endTrajectory: one row, then a row per call in a try whose failure is swallowed.
async function record({ agentId, steps, from, to, scenarioId, windowId, finalStatus, balance, pnl, metrics }) {
  const trajectoryId = snowflake(from)
  const totalReward = steps.reduce((sum, step) => sum + (step.reward || 0), 0)
  const actions = steps.map((step) => step.action.actionType)
  const count = (word) => actions.filter((type) => type.includes(word)).length
  await insert('trajectories', {
    id: snowflake(to),
    trajectoryId,
    agentId,
    startTime: timestamp(from),
    endTime: timestamp(to),
    durationMs: to - from,
    windowId,
    windowHours: 1,
    episodeId: `${scenarioId}-${to}`,
    scenarioId,
    batchId: null,
    stepsJson: JSON.stringify(steps),
    rewardComponentsJson: JSON.stringify({ environmentReward: totalReward }),
    metricsJson: JSON.stringify({
      episodeLength: steps.length,
      finalStatus,
      finalBalance: balance,
      finalPnL: pnl,
      tradesExecuted: count('BUY') + count('SELL'),
      postsCreated: count('POST'),
      errorCount: steps.filter((step) => !step.action.success).length,
      ...metrics,
    }),
    metadataJson: JSON.stringify({
      isTrainingData: true,
      gameKnowledge: { trueProbabilities: {}, actualOutcomes: {}, futureOutcomes: undefined },
    }),
    totalReward,
    episodeLength: steps.length,
    finalStatus,
    finalBalance: balance ?? null,
    finalPnL: pnl ?? null,
    tradesExecuted: count('BUY') + count('SELL'),
    postsCreated: count('POST'),
    aiJudgeReward: null,
    aiJudgeReasoning: null,
    isTrainingData: true,
    isEvaluation: false,
    usedInTraining: false,
    createdAt: timestamp(to),
    updatedAt: timestamp(to),
  })
  for (const step of steps) {
    for (const [index, call] of step.llmCalls.entries()) {
      await insert('llm_call_logs', {
        id: snowflake(to),
        trajectoryId,
        stepId: `${trajectoryId}-step-${step.stepNumber}`,
        callId: `${trajectoryId}-call-${step.stepNumber}-${index}`,
        timestamp: timestamp(step.timestamp),
        latencyMs: call.latencyMs === undefined ? null : Math.round(call.latencyMs),
        model: call.model,
        purpose: call.purpose,
        actionType: call.actionType ?? null,
        systemPrompt: call.systemPrompt,
        userPrompt: call.userPrompt,
        response: call.response,
        reasoning: call.reasoning ?? null,
        messagesJson: null,
        temperature: call.temperature,
        maxTokens: call.maxTokens,
        metadata: JSON.stringify({ modelVersion: call.modelVersion }),
      })
    }
  }
  return trajectoryId
}

// TrajectoryLoggerService.endTrajectory: UUIDs, no windowId, the caller's metadata, everything in one row.
async function log({ agentId, steps, from, to, metadata }) {
  const trajectoryId = randomUUID()
  await insert('trajectories', {
    id: trajectoryId,
    trajectoryId,
    agentId,
    startTime: timestamp(from),
    endTime: timestamp(to),
    durationMs: to - from,
    windowId: null,
    episodeId: null,
    scenarioId: null,
    batchId: null,
    stepsJson: JSON.stringify(steps),
    rewardComponentsJson: JSON.stringify({ environmentReward: 0, components: { profitLoss: undefined } }),
    metricsJson: JSON.stringify({ episodeLength: steps.length, finalStatus: 'terminated', successRate: 0 / 0 }),
    metadataJson: JSON.stringify(metadata),
    totalReward: 0,
    episodeLength: steps.length,
    finalStatus: 'terminated',
    isTrainingData: metadata.isTrainingData !== false,
    isEvaluation: metadata.isEvaluation || false,
    createdAt: timestamp(to),
    updatedAt: timestamp(to),
  })
  return trajectoryId
}

const state = (extra) => ({ agentBalance: 941.2, agentPnL: -58.8, openPositions: 2, ...extra })

// A cron tick across the hour: the scenario is of the hour of its start, a hold counts as a failure.
const coordinator = () =>
  record({
    agentId: 'coordinator',
    from: minute(-0.03),
    to: minute(0.07),
    scenarioId: '2026-10-01T13:00',
    windowId: WINDOW,
    finalStatus: 'completed_with_errors',
    balance: 941.2,
    pnl: -58.8,
    steps: [
      {
        stepNumber: 0,
        timestamp: minute(0.01),
        environmentState: state({ activeMarkets: 9, timestamp: minute(0.01) }),
        providerAccesses: [],
        llmCalls: [],
        action: {
          actionType: 'TRADING_DECISION',
          parameters: { method: 'a2a', pnlChange: 0, initialPnL: -58.8, finalPnL: -58.8, ticker: undefined },
          success: false,
        },
        reward: 0,
      },
      {
        stepNumber: 1,
        timestamp: minute(0.03),
        environmentState: state({ activeMarkets: 9, timestamp: minute(0.03) }),
        providerAccesses: [],
        llmCalls: [],
        action: {
          actionType: 'CREATE_POST',
          parameters: { postId: '248447081117646848' },
          success: true,
          result: { postId: '248447081117646848' },
        },
        reward: 0.1,
      },
    ],
  })

// The spawner: the shape that training needs.
const spawner = () =>
  record({
    agentId: 'spawner',
    from: minute(1),
    to: minute(3),
    scenarioId: WINDOW,
    windowId: WINDOW,
    finalStatus: 'completed',
    balance: 10018.2,
    pnl: 18.2,
    steps: Array.from({ length: 10 }, (_, n) => ({
      stepNumber: n,
      timestamp: minute(1) + n * 1000,
      environmentState: { agentBalance: 10000 + n, agentPnL: n, openPositions: 3, activeMarkets: 21 },
      providerAccesses: [
        {
          providerName: 'market_data',
          data: { ticker: '$SOL', price: 131.4, volume: 412000.5, sentiment: 'BULLISH' },
          purpose: 'get_market_data',
        },
      ],
      llmCalls: [
        {
          model: 'gpt-4o-mini',
          systemPrompt: 'Aggressive trader, risk 0.8. Markets move on news; act on them quickly.',
          userPrompt: `SOL trades at ${131.4 + n}. 🚀 "to the moon" \u2028 ${'\u{1F680}'.slice(0, 1)} `.padEnd(120, '.'),
          response: 'BUY_SHARES',
          reasoning: 'Momentum',
          temperature: 0.7,
          maxTokens: 150,
          latencyMs: 812.25 + n / 3,
          purpose: 'action',
          actionType: 'BUY_SHARES',
        },
      ],
      action: {
        actionType: n % 5 ? 'BUY_SHARES' : 'HOLD',
        parameters: n % 5 ? { ticker: '$SOL', shares: 22, price: 131.4 } : {},
        success: true,
        result: n % 5 ? { executed: true, pnl: 18.2 } : { held: true },
        reasoning: 'Momentum',
      },
      reward: 0.182,
    })),
  })

// A run of an agent with the logger plugin: the first step was never completed, numbers went wrong.
const plugin = () =>
  log({
    agentId: 'plugin',
    from: minute(10),
    to: minute(12),
    metadata: { agentName: 'Ada', isTrainingData: true, trueProbabilities: { m: 0.7 }, hiddenVariables: {} },
    steps: [
      {
        stepId: randomUUID(),
        stepNumber: 0,
        timestamp: minute(10),
        environmentState: state({ timestamp: minute(10), agentPoints: 5, portfolioValue: 12.5, custom: { a: [1] } }),
        observation: {},
        providerAccesses: [],
        llmCalls: [],
        action: {
          attemptId: randomUUID(),
          timestamp: minute(10),
          actionType: 'pending',
          actionName: 'pending',
          parameters: {},
          success: false,
        },
        reward: 0,
        done: false,
      },
      {
        stepId: randomUUID(),
        stepNumber: 1,
        timestamp: minute(11),
        environmentState: state({ timestamp: minute(11), agentPnL: 0 / 0, portfolioValue: Infinity, unreadMessages: 3 }),
        observation: {},
        providerAccesses: [
          {
            providerId: randomUUID(),
            providerName: 'BABYLON_MARKETS',
            timestamp: minute(11) + 0.5,
            query: { message: 'what moves?', state: { deep: { er: [null, 1] } } },
            data: { text: 'AURUM surge', success: true },
            purpose: 'context',
          },
        ],
        llmCalls: [
          {
            callId: randomUUID(),
            timestamp: minute(11) + 0.25,
            model: 'qwen/qwen3-32b',
            systemPrompt: '',
            userPrompt: 'Decide.',
            messages: [{ role: 'user', content: 'Decide.' }],
            response: '{"action":"trade"}',
            temperature: 0.7,
            maxTokens: 300,
            topP: 1,
            promptTokens: 10,
            completionTokens: 2,
            latencyMs: 12.5,
            purpose: 'other',
          },
        ],
        reasoning: 'because',
        action: {
          attemptId: randomUUID(),
          timestamp: minute(11),
          actionType: 'BUY_PREDICTION_SHARES',
          actionName: 'BUY_PREDICTION_SHARES',
          parameters: { message: 'buy', state: { values: 'x'.repeat(200_000) } },
          success: true,
          result: { executed: true },
          immediateReward: 0.1,
        },
        reward: 0 / 0,
        done: false,
        metadata: { gameEvent: 'tick' },
      },
    ],
  })

// Seed 000's short shape, and a balance that a Decimal turned into a string.
const short = () =>
  record({
    agentId: 'short',
    from: minute(20),
    to: minute(21),
    scenarioId: 'trading-1',
    windowId: `${WINDOW}:00.000Z`,
    finalStatus: 'completed',
    balance: undefined,
    pnl: undefined,
    steps: [
      {
        stepNumber: 1,
        environmentState: { balance: '1000.50', pnl: '50' },
        llmCalls: [],
        action: { actionType: 'trade', type: 'trade', params: { side: 'YES' } },
        reward: 0.8,
      },
    ],
  })

// The benchmark runner ends what it started without a step.
const benchmark = () =>
  record({
    agentId: 'benchmark',
    from: minute(30),
    to: minute(31),
    scenarioId: 'benchmark-week-1',
    windowId: WINDOW,
    finalStatus: 'completed',
    balance: 10000,
    pnl: 0,
    steps: [],
  })

await client.connect()
const cases = { coordinator, spawner, plugin, short, benchmark }
const written = {}
for (const [name, write] of Object.entries(cases)) {
  await addUser(name)
  written[name] = await write()
}
await client.end()
console.log(JSON.stringify(written))
