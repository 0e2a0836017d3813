"""What the gateway answers when it does not answer: OpenAI's error envelope with the right status."""

import math

import msgspec

from babylon_rl.errors import BabylonError


class GatewaySetupError(BabylonError):
    """The gateway cannot start as it is configured."""


class GatewayError(BabylonError):
    """A request that ends in an error.

    Args:
        status: HTTP status of the answer.
        code: machine-readable name, in OpenAI's vocabulary where it has one.
        param: the field of the body at fault.
        retry_after: seconds after which asking again makes sense; sent as ``Retry-After``.
        close: whether the connection ends with the answer, because the request was not read to its end.
    """

    def __init__(
        self,
        status: int,
        code: str,
        problem: str,
        remedy: str = "",
        *,
        param: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(problem, remedy)
        self.status, self.code, self.param, self.close = status, code, param, close
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))

    @property
    def kind(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def envelope(self) -> bytes:
        """The body that the official clients understand."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class UpstreamFailure(Exception):  # noqa: N818 - never shown as it is: the dispatcher retries or falls back
    """One attempt at one upstream failed.

    Args:
        reason: short name, also a metric's label: ``connect``, ``first_token_timeout``, ``http_503`` …
        retry: whether the same upstream may be asked again for the same request.
        retry_after: seconds that the upstream asked to wait.
        detail: for the log; never sent to a client, because it may quote addresses.
    """

    def __init__(
        self, reason: str, detail: str = "", *, retry: bool = True, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.retry, self.retry_after = reason, retry, retry_after
