"""From a recorded trajectory to rows of `trajectories` and `llm_call_logs`, as the game writes them.

Pure functions. The shapes are those of the game's TypeScript recorder: keys that it leaves out when undefined
are left out, counters count what it counts (`tradesExecuted` only actions with BUY or SELL in their name).
"""

import math
from typing import Any

from babylon_rl.recorder.state import Ending, OpenTrajectory
from babylon_rl.recorder.values import column_text, to_json
from babylon_rl.records.steps import Action

SCENARIO_LIMIT = 100  # characters of "scenarioId" and "episodeId"
LONGEST_MS = 2**31 - 1  # "durationMs" is an INTEGER

_UNFINISHED = Action(action_type="pending", parameters={}, success=False)


def trajectory_row(trajectory: OpenTrajectory, ending: Ending, row_id: str, end_ms: int) -> dict[str, Any]:
    """One row of `trajectories`; times in milliseconds since 1970.

    A step that was never completed ends as `pending`, as the game's other writer leaves it, and is not lost.
    """
    if trajectory.open_step is not None:
        trajectory.add(trajectory.open_step.complete(_UNFINISHED, 0.0))
    steps = trajectory.steps
    failed = sum(not step.action.success for step in steps)
    names = [step.action.action_type for step in steps]
    total = ending.total_reward
    if total is None:
        total = math.fsum(step.reward or 0.0 for step in steps)
    status = ending.final_status or ("completed_with_errors" if failed else "completed")
    metrics = {
        "episodeLength": len(steps),
        "finalStatus": status,
        "finalBalance": ending.final_balance,
        "finalPnL": ending.final_pnl,
        "tradesExecuted": sum("BUY" in name or "SELL" in name for name in names),
        "postsCreated": sum("POST" in name for name in names),
        "errorCount": failed,
    }
    metadata = {"isTrainingData": True, "gameKnowledge": {}} | trajectory.metadata
    return {
        "id": row_id,
        "trajectoryId": trajectory.trajectory_id,
        "agentId": trajectory.agent_id,
        "startTime": trajectory.start_ms,
        "endTime": end_ms,
        "durationMs": end_ms - trajectory.start_ms,
        "windowId": trajectory.window_id,
        "episodeId": trajectory.episode_id or _episode_id(trajectory.scenario_id, end_ms),
        "scenarioId": trajectory.scenario_id,
        "stepsJson": f"[{','.join(trajectory.encoded)}]",
        "rewardComponentsJson": to_json({"environmentReward": total}, "reward"),
        "metricsJson": to_json(
            {key: value for key, value in metrics.items() if value is not None}, "metrics"
        ),
        "metadataJson": to_json(metadata, "metadata"),
        "totalReward": float(total),
        "episodeLength": len(steps),
        "finalStatus": status,
        "finalBalance": ending.final_balance,
        "finalPnL": ending.final_pnl,
        "tradesExecuted": metrics["tradesExecuted"],
        "postsCreated": metrics["postsCreated"],
        "isTrainingData": bool(metadata["isTrainingData"]),
        "isEvaluation": bool(metadata.get("isEvaluation", False)),
    }


def call_rows(trajectory: OpenTrajectory) -> list[dict[str, Any]]:
    """The rows of `llm_call_logs` but for their ids, in the order of the calls."""
    rows = []
    for step in trajectory.steps:
        for index, call in enumerate(step.llm_calls):
            prompt_tokens = _count(call.prompt_tokens, call.prompt_token_ids)
            completion_tokens = _count(call.completion_tokens, call.token_ids)
            total = None
            if prompt_tokens is not None and completion_tokens is not None:
                total = prompt_tokens + completion_tokens
            rows.append(
                {
                    "trajectoryId": trajectory.trajectory_id,
                    "stepId": f"{trajectory.trajectory_id}-step-{step.step_number}",
                    "callId": f"{trajectory.trajectory_id}-call-{step.step_number}-{index}",
                    "timestamp": int(call.timestamp or step.timestamp or trajectory.start_ms),
                    "latencyMs": None if call.latency_ms is None else round(call.latency_ms),
                    "model": column_text(call.model),
                    "purpose": column_text(call.purpose),
                    "actionType": column_text(call.action_type),
                    "systemPrompt": column_text(call.system_prompt),
                    "userPrompt": column_text(call.user_prompt),
                    "messagesJson": to_json(call.messages, "messages") if call.messages else None,
                    "response": column_text(call.response),
                    "reasoning": column_text(call.reasoning),
                    "temperature": call.temperature,
                    "maxTokens": call.max_tokens,
                    "topP": call.top_p,
                    "promptTokens": prompt_tokens,
                    "completionTokens": completion_tokens,
                    "totalTokens": total,
                    "metadata": to_json({"modelVersion": call.model_version}, "metadata")
                    if call.model_version
                    else "{}",
                }
            )
    return rows


def _episode_id(scenario_id: str, end_ms: int) -> str:
    # The scenario is cut, not the moment, which tells two episodes of a long scenario id apart.
    return f"{scenario_id[: SCENARIO_LIMIT - 1 - len(str(end_ms))]}-{end_ms}"


def _count(count: int | None, ids: list[int] | None) -> int | None:
    return len(ids) if count is None and ids is not None else count
