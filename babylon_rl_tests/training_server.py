"""W&B Training as far as its clients can see: a server on a socket that speaks its protocol, and misbehaves.

    with TrainingServer() as server:
        server.fault("POST", "/training-jobs", status=500, times=2)
        ServerlessBackend(api_key=server.api_key, base_url=server.base_url)

Shapes follow the service's published OpenAPI document and what ART's client reads: bearer key, UUIDs, cursor
pages with `has_more`, one step per job. Not published, and assumed here: step 0 is listed, a checkpoint's
metrics carry counts (`counts=False` leaves them out), a known name keeps its base model (`conflict=True`
refuses another one).
"""

import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PAGE = 3
"""Items per page, at most; small, so that every list is paged."""


@dataclass
class Fault:
    """One misbehaviour, for requests of a method whose path contains `path`.

    Attributes:
        times: How often; None for ever.
        skip: How many matching requests go well before.
        status: Answer with this status.
        body: Answer 200 with this text.
        drop: Close the connection without an answer.
        cut: Close it in the middle of the answer.
        process: Do what was asked before misbehaving.
        delay: Seconds to wait first.
    """

    method: str
    path: str
    times: int | None = 1
    skip: int = 0
    status: int | None = None
    body: str | None = None
    drop: bool = False
    cut: bool = False
    process: bool = False
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def applies(self, method: str, path: str) -> bool:
        if self.method != method or self.path not in path or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Job:
    """A submitted chunk and the events that it has produced so far."""

    id: str
    model: str
    body: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trajectories(self) -> list[dict[str, Any]]:
        return [t for group in self.body["trajectory_groups"] for t in group["trajectories"]]

    @property
    def tokens(self) -> int:
        """Trainable tokens: those of choices with log-probabilities."""
        return sum(
            len(message["logprobs"]["content"])
            for trajectory in self.trajectories
            for history in [trajectory, *trajectory.get("additional_histories", [])]
            for message in history["messages_and_choices"]
            if "finish_reason" in message and message.get("logprobs")
        )


class TrainingServer:
    """The service; a context manager.

    Attributes:
        jobs: Every job that was ever accepted.
        requests: (method, path) of every request.
        stuck: Jobs stop before their first event.
        failing: Jobs fail with this message.
        steps: Gradient steps of a job.
        on_event: Called with each event that becomes visible.
    """

    def __init__(
        self, *, counts: bool = True, conflict: bool = False, steps: int = 2, api_key: str = "test-key"
    ) -> None:
        self.api_key, self.counts, self.conflict, self.steps = api_key, counts, conflict, steps
        self.models: dict[str, dict[str, Any]] = {}
        self.checkpoints: dict[str, list[dict[str, Any]]] = {}
        self.jobs: dict[str, Job] = {}
        self.requests: list[tuple[str, str]] = []
        self.authorizations: set[str] = set()
        self.stuck = False
        self.failing: str | None = None
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.service = self
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fault(self, method: str, path: str, **what: Any) -> None:
        """Misbehave; see `Fault`."""
        self._faults.append(Fault(method, path, **what))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    @property
    def step(self) -> int:
        """Newest step of the only model."""
        [checkpoints] = self.checkpoints.values()
        return checkpoints[-1]["step"]

    def advance(self, model: str, metrics: dict[str, float]) -> None:
        """Somebody else trains a step."""
        with self._lock:
            listed = self.checkpoints[model]
            listed.append({"id": str(uuid.uuid4()), "step": listed[-1]["step"] + 1, "metrics": metrics})

    def find_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.applies(method, path)), None)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """What a well-behaved service answers."""
        with self._lock:
            for known, pattern, handle in _ROUTES:
                if known == method and (match := re.fullmatch(pattern, path)):
                    return handle(self, match, query, body)
        return 404, {"detail": "Not Found"}

    def create_model(self, _: re.Match[str], __: dict[str, str], body: Any) -> tuple[int, Any]:
        for name in ("project", "name", "base_model"):
            if not isinstance(body.get(name), str):
                return _invalid(["body", name], "Field required")
        entity = body.get("entity") or "default-entity"
        for model in self.models.values():
            if (model["entity"], model["project"], model["name"]) == (entity, body["project"], body["name"]):
                if not body.get("return_existing"):
                    return 409, {"detail": "A model of this name exists"}
                if self.conflict and model["base_model"] != body["base_model"]:
                    return 409, {"detail": f"The model's base is {model['base_model']}"}
                return 200, model
        key = str(uuid.uuid4())
        named = {name: body[name] for name in ("project", "name", "base_model")}
        self.models[key] = {"id": key, "entity": entity, **named, "run_id": f"run-{key[:8]}"}
        self.checkpoints[key] = [{"id": str(uuid.uuid4()), "step": 0, "metrics": {}}]
        return 200, self.models[key]

    def list_checkpoints(self, match: re.Match[str], query: dict[str, str], _: Any) -> tuple[int, Any]:
        listed = self.checkpoints.get(match["model"])
        if listed is None:
            return 404, {"detail": "Model not found"}
        self._progress()
        ordered = listed if query.get("order", "asc") == "asc" else listed[::-1]
        return _page(ordered, query)

    def delete_checkpoints(self, match: re.Match[str], _: dict[str, str], body: Any) -> tuple[int, Any]:
        listed = self.checkpoints[match["model"]]
        kept = [checkpoint for checkpoint in listed if checkpoint["step"] not in body["steps"]]
        missing = [step for step in body["steps"] if step not in {c["step"] for c in listed}]
        self.checkpoints[match["model"]] = kept
        return 200, {"deleted_count": len(listed) - len(kept), "not_found_steps": missing}

    def create_job(self, _: re.Match[str], __: dict[str, str], body: Any) -> tuple[int, Any]:
        if body.get("model_id") not in self.models:
            return 404, {"detail": "Model not found"}
        for group in body["trajectory_groups"]:
            for trajectory in group["trajectories"]:
                if not isinstance(trajectory.get("reward"), int | float):
                    return _invalid(["body", "trajectory_groups", "reward"], "Input should be a valid number")
                if not trajectory.get("messages_and_choices"):
                    return _invalid(["body", "trajectory_groups", "messages_and_choices"], "Field required")
        job = Job(str(uuid.uuid4()), body["model_id"], body)
        losses = [{"loss": 0.5 / (n + 1), "grad_norm": 1.0, "entropy": 0.4} for n in range(self.steps)]
        job.pending = [
            _event("training_started", {"num_sequences": self.steps}),
            *(_event("gradient_step", loss) for loss in losses),
            _event("training_failed", {"error_message": self.failing})
            if self.failing
            else _event("training_ended", {}),
        ]
        self.jobs[job.id] = job
        return 200, {"id": job.id}

    def get_job(self, match: re.Match[str], _: dict[str, str], __: Any) -> tuple[int, Any]:
        return (
            (200, {"id": match["job"]}) if match["job"] in self.jobs else (404, {"detail": "Job not found"})
        )

    def list_events(self, match: re.Match[str], query: dict[str, str], _: Any) -> tuple[int, Any]:
        job = self.jobs.get(match["job"])
        if job is None:
            return 404, {"detail": "Job not found"}
        if "after" not in query:
            self._progress()
        return _page(job.events, query)

    def complete(self, _: re.Match[str], __: dict[str, str], body: Any) -> tuple[int, Any]:
        named = re.fullmatch(r"wandb-artifact:///([^/]+)/([^/]+)/([^:]+)(?::step(\d+))?", body["model"])
        for key, model in self.models.items():
            if named and (model["entity"], model["project"], model["name"]) == named.groups()[:3]:
                steps = {checkpoint["step"] for checkpoint in self.checkpoints[key]}
                if named[4] is None or int(named[4]) in steps:
                    return 200, _completion(body)
        return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}

    def _progress(self) -> None:
        """Every look lets one event of every job happen; nothing happens on its own."""
        if self.stuck:
            return
        for job in self.jobs.values():
            if not job.pending:
                continue
            event = job.pending.pop(0)
            if event["type"] == "training_ended":
                listed = self.checkpoints[job.model]
                metrics = {"loss": 0.25}
                if self.counts:
                    metrics |= {
                        "num_trajectories": float(len(job.trajectories)),
                        "num_trainable_tokens": float(job.tokens),
                    }
                step = max((c["step"] for c in listed), default=0) + 1
                listed.append({"id": str(uuid.uuid4()), "step": step, "metrics": metrics})
            job.events.append(event)
            self.on_event(event)


_ROUTES: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
    ("POST", r"/v1/preview/models", TrainingServer.create_model),
    ("GET", r"/v1/preview/models/(?P<model>[^/]+)/checkpoints", TrainingServer.list_checkpoints),
    ("DELETE", r"/v1/preview/models/(?P<model>[^/]+)/checkpoints", TrainingServer.delete_checkpoints),
    ("POST", r"/v1/preview/training-jobs", TrainingServer.create_job),
    ("GET", r"/v1/preview/training-jobs/(?P<job>[^/]+)", TrainingServer.get_job),
    ("GET", r"/v1/preview/training-jobs/(?P<job>[^/]+)/events", TrainingServer.list_events),
    ("POST", r"/v1/chat/completions", TrainingServer.complete),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    service: TrainingServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms
    server: _Server  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _handle(self) -> None:
        service, address = self.server.service, urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        service.requests.append((self.command, address.path))
        authorization = self.headers.get("authorization", "")
        service.authorizations.add(authorization)
        if authorization != f"Bearer {service.api_key}":
            self._send(401, {"error": {"message": "Invalid API key", "code": "invalid_api_key"}})
            return
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        fault = service.find_fault(self.command, address.path)
        if fault is None:
            self._send(*service.answer(self.command, address.path, query, body))
            return
        time.sleep(fault.delay)
        processed = service.answer(self.command, address.path, query, body) if fault.process else (200, {})
        if fault.drop:
            self._reset()
        elif fault.cut:
            self._send(*processed, cut=True)
        elif fault.body is not None:
            self._send_text(200, fault.body, fault.headers)
        elif fault.status is not None:
            self._send_text(fault.status, json.dumps({"detail": "injected"}), fault.headers)
        else:
            self._send(*service.answer(self.command, address.path, query, body))

    do_GET = do_POST = do_DELETE = _handle

    def _send(self, status: int, answer: Any, cut: bool = False) -> None:
        self._send_text(status, json.dumps(answer), {}, cut=cut)

    def _send_text(self, status: int, text: str, headers: dict[str, str], cut: bool = False) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content) + (10 if cut else 0)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
        self.wfile = _Nowhere()  # type: ignore[assignment]


class _Nowhere:
    closed = True

    def write(self, _: bytes) -> int:
        return 0

    def flush(self) -> None:
        """Nothing is left to flush."""

    def close(self) -> None:
        """Nothing is left to close."""


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> tuple[int, Any]:
    ids = [item["id"] for item in items]
    start = 0
    if "after" in query:
        if query["after"] not in ids:
            return 400, {"detail": "Unknown cursor"}
        start = ids.index(query["after"]) + 1
    limit = int(query.get("limit", 20))
    if not 1 <= limit <= 100:
        return _invalid(["query", "limit"], "Input should be between 1 and 100")
    page = items[start : start + min(limit, PAGE)]
    has_more = start + len(page) < len(items)
    edges = (
        {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    )
    return 200, {"object": "list", "data": page, "has_more": has_more, **edges}


def _event(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "type": kind, "data": data}


def _invalid(where: list[str], message: str) -> tuple[int, Any]:
    return 422, {"detail": [{"loc": where, "msg": message, "type": "value_error"}]}


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "HOLD"},
                "finish_reason": "stop",
                "logprobs": {
                    "content": [{"token": "token_id:7", "logprob": -0.1, "bytes": None, "top_logprobs": []}]
                }
                if body.get("logprobs")
                else None,
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
