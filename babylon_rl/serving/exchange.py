"""One chat request on its way: who, what, when, and what became of it."""

import time
import uuid
from typing import Any

from babylon_rl.serving.answers import Answer
from babylon_rl.serving.callers import Caller
from babylon_rl.serving.calls import CapturedCall
from babylon_rl.serving.dispatch import Progress
from babylon_rl.serving.protocol import ChatCall
from babylon_rl.serving.routing import Route
from babylon_rl.serving.telemetry import CallSpan
from babylon_rl.serving.upstream import Target

Headers = list[tuple[bytes, bytes]]


class Exchange:
    """The state of one request; fields are filled as it proceeds."""

    def __init__(self) -> None:
        self.response_id = f"chatcmpl-{uuid.uuid4().hex}"
        self.started_at = time.time()
        self._started = time.perf_counter()
        self._first_token: float | None = None
        self.caller: Caller | None = None
        self.call: ChatCall | None = None
        self.route: Route | None = None
        self.span: CallSpan | None = None
        self.progress = Progress()
        self.kept = False
        """Whether a record was made of it."""

    @property
    def seconds(self) -> float:
        """Since the request arrived."""
        return time.perf_counter() - self._started

    @property
    def created(self) -> int:
        return int(self.started_at)

    @property
    def variant(self) -> str:
        return self.route.variant if self.route else "none"

    @property
    def version(self) -> str:
        return self.progress.target.version if self.progress.target else "none"

    def note_first_token(self) -> float:
        self._first_token = self.seconds
        return self._first_token

    def record(self, answer: Answer | None, *, status: int = 200, error: str | None = None) -> CapturedCall:
        """What is kept of it."""
        progress, target, caller = self.progress, self.progress.target, self.caller
        call = CapturedCall(
            response_id=self.response_id,
            started_at=self.started_at,
            latency_ms=1e3 * self.seconds,
            first_token_ms=None if self._first_token is None else 1e3 * self._first_token,
            agent_id=caller.agent_id if caller else None,
            agent_verified=bool(caller and caller.verified),
            api_key=caller.key if caller else None,
            version=target.version if target else None,
            variant=self.variant,
            upstream=target.upstream.name if target else None,
            model=target.model if target else None,
            fallback=progress.fallback,
            fallback_reason=progress.reason if progress.fallback else None,
            attempts=min(progress.attempts, 1000),
            status=status,
            error=error,
            rollout_id=self.route.rollout_id if self.route else None,
            owner_id=caller.owner_id if caller else None,
        )
        if self.call is not None:
            call.keep_request(self.call)
        if answer is not None:
            call.keep_answer(answer)
        return call

    def headers(self, target: Target, capture: str, content_type: bytes) -> Headers:
        """Of an answer: which version gave it, under which variant, and whether it was the fallback."""
        return [
            (b"content-type", content_type),
            (b"x-request-id", self.response_id.encode()),
            (b"x-model-version", target.version.encode()),
            (b"x-variant", self.variant.encode()),
            (b"x-fallback", b"true" if self.progress.fallback else b"false"),
            (b"x-capture", capture.encode()),
        ]


def find_headers(scope: Any, *names: bytes) -> list[bytes]:
    """The first value of each header; empty where it is missing."""
    found = dict.fromkeys(names, b"")
    for name, value in scope["headers"]:
        if name in found and not found[name]:
            found[name] = value
    return list(found.values())
