"""Who may ask: a bearer token, compared in constant time; without a configured one nobody is let in.

Nothing is kept in cookies, so that no other page can act in an operator's name.
"""

import hashlib
import hmac
import time
from collections.abc import Callable

from pydantic import SecretStr
from starlette.requests import Request

from babylon_rl.api.errors import AdminError

FREE_FAILURES = 20
"""Wrong tokens per minute, over all callers, before further ones wait: 16 characters cannot be guessed so."""


class Guard:
    """Lets requests pass that carry one of the secrets.

    Args:
        secrets: by the name of their variable; None where it is not set.
    """

    def __init__(
        self, secrets: dict[str, SecretStr | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._names = " or ".join(secrets)
        self._digests = [_digest(s.get_secret_value().encode()) for s in secrets.values() if s is not None]
        self._clock = clock
        self._failures: list[float] = []

    def check(self, request: Request) -> None:
        """Passes, or refuses.

        Raises:
            AdminError: 503 where no secret is configured, 401 for a missing or wrong one, 429 after many.
        """
        if not self._digests:
            raise AdminError(503, f"Nobody can log in: {self._names} is not set", "Set it and start again.")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = _digest(token.strip().encode("utf-8", "surrogateescape"))
        # Every secret is compared, so that the time tells nothing about which one it might have been.
        right = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() == "bearer" and any(right):
            return
        now = self._clock()
        self._failures = [moment for moment in self._failures if now - moment < 60.0]
        if len(self._failures) >= FREE_FAILURES:
            raise AdminError(429, "Too many wrong tokens", "Wait a minute.", retry_after=60)
        self._failures.append(now)
        raise AdminError(
            401, "The token is missing or wrong", f"Send `Authorization: Bearer` and {self._names}."
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
