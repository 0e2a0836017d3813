"""Runs of Dagster, started, followed and stopped over the GraphQL API of its webserver."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from babylon_rl.api.errors import AdminError

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "babylon_rl"}
UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
SECONDS = 20.0

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
_RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) {
    __typename
    ... on Run { runId status startTime endTime stepStats { stepKey status startTime endTime } }
  }
}"""
_FAILURE = """
query Failure($id: ID!) {
  logsForRun(runId: $id, limit: 1000) {
    ... on EventConnection { events {
      __typename
      ... on ExecutionStepFailureEvent { stepKey error { message causes { message } } }
      ... on RunFailureEvent { message }
    } }
  }
}"""
_FIND = """
query Find($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 5) { ... on Runs { results { runId status } } }
}"""
_STOP = """
mutation Stop($id: String!) {
  terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunSuccess { run { runId status } }
    ... on Error { message }
    ... on TerminateRunFailure { message }
  }
}"""


@dataclass(frozen=True)
class Run:
    """A run as Dagster sees it; times are seconds since 1970."""

    run_id: str
    status: str
    """Dagster's word: QUEUED, STARTED, SUCCESS, FAILURE, CANCELED, …"""
    started: float | None
    ended: float | None
    steps: Mapping[str, str]
    """Status of each step that began, by its key."""


class DagsterClient:
    """Asks a webserver; one connection pool, closed by ``close``."""

    def __init__(self, url: str) -> None:
        self._url = f"{url.rstrip('/')}/graphql"
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def launch(self, job: str, tags: Mapping[str, str], run_config: Mapping[str, Any]) -> str:
        """Starts a run of a job of the workspace and returns its id.

        Raises:
            AdminError: 503 where Dagster does not answer, 502 where it refuses.
        """
        params = {
            "selector": {**REPOSITORY, "jobName": job},
            "runConfigData": dict(run_config),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = (await self._ask(_LAUNCH, {"params": params}))["launchRun"]
        if answer["__typename"] == "LaunchRunSuccess":
            return str(answer["run"]["runId"])
        wrong = answer.get("message") or "; ".join(e["message"] for e in answer.get("errors", ()))
        raise AdminError(
            502,
            f"Dagster did not start {job}: {_line(wrong) or answer['__typename']}",
            "`dagster definitions validate -w workspace.yaml` shows the whole error.",
        )

    async def run(self, run_id: str) -> Run | None:
        """A run; None where Dagster does not know it."""
        found = (await self._ask(_RUN, {"id": run_id}))["runOrError"]
        if found["__typename"] != "Run":
            return None
        steps = {step["stepKey"]: step["status"] or "" for step in found["stepStats"]}
        return Run(found["runId"], found["status"], found["startTime"], found["endTime"], steps)

    async def why_failed(self, run_id: str) -> str:
        """The first error of a failed run, on one line."""
        events = (await self._ask(_FAILURE, {"id": run_id}))["logsForRun"].get("events", ())
        for event in events:
            if event["__typename"] == "ExecutionStepFailureEvent" and event["error"]:
                causes = event["error"].get("causes") or ()
                message = causes[-1]["message"] if causes else event["error"]["message"]
                return f"{event['stepKey']}: {_line(message)}"
        messages = [e["message"] for e in events if e["__typename"] == "RunFailureEvent"]
        return _line(messages[0]) if messages else "the run failed; Dagster's UI shows its events"

    async def find(self, *, job: str | None = None, tags: Mapping[str, str], unfinished: bool) -> list[str]:
        """Ids of runs with these tags, newest first."""
        wanted: dict[str, Any] = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        if job is not None:
            wanted["pipelineName"] = job
        if unfinished:
            wanted["statuses"] = list(UNFINISHED)
        found = (await self._ask(_FIND, {"filter": wanted}))["runsOrError"]
        return [run["runId"] for run in found.get("results", ())]

    async def stop(self, run_id: str) -> None:
        """Asks a run to stop; what it has finished stays.

        Raises:
            AdminError: 409 where it cannot be stopped.
        """
        answer = (await self._ask(_STOP, {"id": run_id}))["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess":
            raise AdminError(409, f"Dagster did not stop {run_id}: {_line(answer.get('message') or '')}")

    async def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS, connect=2.0))
        try:
            async with self._session.post(
                self._url, json={"query": query, "variables": variables}
            ) as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            raise AdminError(
                503,
                f"Dagster's webserver does not answer ({type(problem).__name__})",
                "Start it (`make dev`), or set DAGSTER_URL.",
                retry_after=5,
            ) from None
        if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
            errors = body.get("errors") if isinstance(body, dict) else None
            told = errors[0].get("message", "") if errors else f"status {response.status}"
            raise AdminError(502, f"Dagster's webserver did not understand: {_line(told)}")
        return body["data"]


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
