"""A webserver with the part of Dagster's GraphQL that the admin API uses; its runs do what tests say."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class DagsterDouble:
    """Runs by id: `{"status": "QUEUED", "steps": {...}, "tags": {...}, "config": {...}}`."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.refuse: str | None = None

    def __enter__(self) -> "DagsterDouble":
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                body = json.dumps({"data": double._answer(asked["query"], asked["variables"])}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        if "launchRun" in query:
            if self.refuse is not None:
                return {"launchRun": {"__typename": "PythonError", "message": self.refuse}}
            params, run_id = values["params"], str(uuid.uuid4())
            tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
            self.runs[run_id] = {
                "status": "QUEUED",
                "steps": {},
                "tags": tags,
                "config": params["runConfigData"],
            }
            return {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": run_id}}}
        if "terminateRun" in query:
            self.stopped.append(values["id"])
            self.runs[values["id"]]["status"] = "CANCELED"
            run = {"runId": values["id"], "status": "CANCELED"}
            return {"terminateRun": {"__typename": "TerminateRunSuccess", "run": run}}
        if "runOrError" in query:
            run = self.runs.get(values["id"])
            if run is None:
                return {"runOrError": {"__typename": "RunNotFoundError"}}
            steps = [
                {"stepKey": key, "status": status, "startTime": 1.0, "endTime": None}
                for key, status in run["steps"].items()
            ]
            times = {"startTime": 1.0, "endTime": None}
            known = {"runId": values["id"], "status": run["status"], **times, "stepStats": steps}
            return {"runOrError": {"__typename": "Run", **known}}
        if "logsForRun" in query:
            error = {"message": "Boom", "causes": [{"message": "the GPU is\n on fire"}]}
            event = {
                "__typename": "ExecutionStepFailureEvent",
                "stepKey": "trained_checkpoint",
                "error": error,
            }
            return {"logsForRun": {"events": [event]}}
        wanted = {tag["key"]: tag["value"] for tag in values["filter"].get("tags", ())}
        statuses = values["filter"].get("statuses")
        found = [
            {"runId": run_id, "status": run["status"]}
            for run_id, run in self.runs.items()
            if wanted.items() <= run["tags"].items() and (not statuses or run["status"] in statuses)
        ]
        return {"runsOrError": {"results": found}}
