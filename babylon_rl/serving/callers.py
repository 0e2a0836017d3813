"""Who asks: API keys, the agent behind a key, and how often each may ask.

    GATEWAY_API_KEYS=key-for-everybody-0123456789,agent-7=key-of-agent-7-0123456789

A key that is bound to an agent, and a signed token (`tokens.py`), speak for that agent only. With any other
key, or without login, the agent is what the header `x-agent-id` says, and counts as not verified.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from babylon_rl.serving.errors import GatewayError, GatewaySetupError
from babylon_rl.serving.tokens import TokenSigner

AGENT_HEADER = "x-agent-id"
SHORTEST_KEY = 16
MOST_BUCKETS = 20_000

_AGENT = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,126}[\x21-\x7e]|[\x21-\x7e]")


@dataclass(frozen=True)
class Caller:
    """Where a request comes from."""

    agent_id: str | None
    verified: bool
    """Whether a key vouches for the agent."""
    key: str | None
    """A fingerprint of the key, for logs and records."""
    owner_id: str | None = None
    """Who the agent belongs to, as its token says."""

    @property
    def quota_of(self) -> str | None:
        """What shares one quota: an owner's agents, or whoever a shared key was given to."""
        return self.owner_id or (None if self.verified else self.key)

    @property
    def limited_as(self) -> str:
        """What shares one rate limit."""
        return self.agent_id or self.key or "anonymous"


@dataclass(frozen=True)
class _Key:
    digest: bytes
    agent_id: str | None

    @property
    def fingerprint(self) -> str:
        return self.digest.hex()[:12]


class Keyring:
    """The keys and tokens that open the gateway; without any, everybody is let in (see `required`).

    Args:
        keys: GATEWAY_API_KEYS.
        signer: reads tokens.

    Raises:
        GatewaySetupError: a key is too short, or given twice.
    """

    def __init__(self, keys: str | None = None, signer: TokenSigner | None = None) -> None:
        self._signer = signer or TokenSigner(None)
        self._keys: dict[bytes, _Key] = {}
        for entry in filter(None, map(str.strip, (keys or "").split(","))):
            agent, separator, key = entry.partition("=")
            if not separator or not key.strip("="):  # an unbound key may end in base64's padding
                agent, key = "", entry
            if len(key) < SHORTEST_KEY:
                raise GatewaySetupError(
                    f"GATEWAY_API_KEYS: a key has fewer than {SHORTEST_KEY} characters",
                    'Make one with `python -c "import secrets; print(secrets.token_urlsafe(24))"`.',
                )
            made = _Key(_digest(key.encode()), agent or None)
            if made.digest in self._keys:
                raise GatewaySetupError("GATEWAY_API_KEYS: a key is listed twice", "Give each agent its own.")
            self._keys[made.digest] = made

    @property
    def required(self) -> bool:
        """Whether callers must send a key."""
        return bool(self._keys) or self._signer.active

    def identify(self, authorization: bytes, agent_header: bytes) -> Caller:
        """Who sends these headers.

        The key is looked up by its SHA-256, so that the time tells nothing about how much of it was right.

        Raises:
            GatewayError: 401 without a good key, 403 for another agent than the key's, 400 for an odd name.
        """
        claimed = agent_header.decode("latin-1")
        if claimed and not _AGENT.fullmatch(claimed):
            raise GatewayError(
                400, "invalid_request_error", f"{AGENT_HEADER}: it must have 1 to 128 printable characters"
            )
        if not self.required:
            return Caller(claimed or None, False, None)
        scheme, _, token = authorization.partition(b" ")
        digest = _digest(token.strip())
        if scheme.lower() == b"bearer" and (claims := self._signer.read(token.strip())) is not None:
            _require_same(claimed, claims.agent)
            return Caller(claims.agent, True, digest.hex()[:12], claims.owner)
        key = self._keys.get(digest)
        if scheme.lower() != b"bearer" or key is None or not hmac.compare_digest(key.digest, digest):
            raise GatewayError(
                401, "invalid_api_key", "The API key is missing or wrong", "Send `Authorization: Bearer KEY`."
            )
        if key.agent_id is None:
            return Caller(claimed or None, False, key.fingerprint)
        _require_same(claimed, key.agent_id)
        return Caller(key.agent_id, True, key.fingerprint)


class RateLimiter:
    """One token bucket per caller.

    Args:
        per_minute: tokens that flow in; 0 means no limit. A bucket holds a sixth of that, at least one.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60.0
        self._size = max(1.0, per_minute / 6.0)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str) -> None:
        """Takes one token.

        Raises:
            GatewayError: 429 with the time until the next one.
        """
        if self._rate == 0.0:
            return
        now = self._clock()
        level, since = self._buckets.get(caller, (self._size, now))
        level = min(self._size, level + (now - since) * self._rate)
        if level < 1.0:
            self._buckets[caller] = (level, now)
            raise GatewayError(
                429,
                "rate_limit_exceeded",
                f"More than {60 * self._rate:g} requests a minute",
                "Wait as long as Retry-After says.",
                retry_after=(1.0 - level) / self._rate,
            )
        self._buckets[caller] = (level - 1.0, now)
        if len(self._buckets) > MOST_BUCKETS:
            self._forget_full(now)

    def _forget_full(self, now: float) -> None:
        """Full buckets say nothing; if none is full, the oldest half goes."""
        kept = {
            caller: (level, since)
            for caller, (level, since) in self._buckets.items()
            if level + (now - since) * self._rate < self._size
        }
        if len(kept) > MOST_BUCKETS:
            kept = dict(list(kept.items())[MOST_BUCKETS // 2 :])
        self._buckets = kept


def _require_same(claimed: str, agent_id: str) -> None:
    if claimed and claimed != agent_id:
        raise GatewayError(
            403, "agent_mismatch", f"{AGENT_HEADER}: this key belongs to another agent than {claimed!r}"
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
