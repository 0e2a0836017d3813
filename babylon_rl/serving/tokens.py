"""Tokens that bind callers to agents: signed, so that thousands of agents need no list of keys.

    bab_<agent and owner, base64>.<HMAC-SHA256 of that, base64>

`babylon token AGENT --owner OWNER` makes one with GATEWAY_TOKEN_SECRET; the gateway believes whatever it
signed. Several secrets, comma-separated, are all believed and the first one signs: so a secret can be
replaced, and every token of an old one ends when it is taken out.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence

import msgspec

from babylon_rl.serving.errors import GatewaySetupError

PREFIX = b"bab_"
SHORTEST_SECRET = 32
LONGEST_TOKEN = 1024


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a token says."""

    agent: str
    owner: str | None = None
    until: float | None = None
    """Seconds since 1970 in UTC; None never ends."""


_decoder = msgspec.json.Decoder(Claims)


class TokenSigner:
    """Makes and reads tokens.

    Args:
        secrets: GATEWAY_TOKEN_SECRET, comma-separated; empty makes and reads none.

    Raises:
        GatewaySetupError: a secret is too short.
    """

    def __init__(self, secrets: str | None) -> None:
        self._secrets: Sequence[bytes] = [
            part.encode() for part in filter(None, map(str.strip, (secrets or "").split(",")))
        ]
        if any(len(secret) < SHORTEST_SECRET for secret in self._secrets):
            raise GatewaySetupError(
                f"GATEWAY_TOKEN_SECRET has fewer than {SHORTEST_SECRET} characters",
                'Make one with `python -c "import secrets; print(secrets.token_urlsafe(32))"`.',
            )

    @property
    def active(self) -> bool:
        return bool(self._secrets)

    def sign(self, claims: Claims) -> str:
        """A token for these claims.

        Raises:
            GatewaySetupError: there is no secret.
        """
        if not self._secrets:
            raise GatewaySetupError(
                "GATEWAY_TOKEN_SECRET is not set", "Set it for this command and for the gateway."
            )
        body = PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
        return (body + b"." + _signature(self._secrets[0], body)).decode()

    def read(self, token: bytes) -> Claims | None:
        """The claims of a token that is ours and still good; None for anything else."""
        if not self._secrets or not token.startswith(PREFIX) or len(token) > LONGEST_TOKEN:
            return None
        body, _, signature = token.rpartition(b".")
        # All are compared, so that the time does not tell which secret was nearly right.
        good = [hmac.compare_digest(_signature(secret, body), signature) for secret in self._secrets]
        if not any(good):
            return None
        try:
            packed = body.removeprefix(PREFIX)
            claims = _decoder.decode(base64.urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)))
        except (binascii.Error, msgspec.MsgspecError):
            return None
        return claims if claims.until is None or time.time() < claims.until else None


def _signature(secret: bytes, body: bytes) -> bytes:
    return base64.urlsafe_b64encode(hmac.new(secret, body, hashlib.sha256).digest()).rstrip(b"=")
