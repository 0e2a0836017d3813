"""Where a judge is, and whether episodes may go there.

Episodes, ground truth and a key leave the machine, so the host has to be on JUDGE_ALLOWED_HOSTS, the
connection encrypted outside of private networks, and redirects are not followed.
"""

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from babylon_rl.scoring.judge.errors import JudgeSetupError
from babylon_rl.scoring.judge.prices import (
    CONTEXT_TOKENS,
    FREE,
    Price,
    known_context,
    known_price,
)
from babylon_rl.settings import Settings

OPENAI_URL = "https://api.openai.com/v1"
COMPATIBLE = frozenset({"openai", "hosted_vllm", "custom_openai", "openai_like"})
"""Providers that mean: an OpenAI-compatible server, and the rest of the name is its model's."""

NO_KEY = "none"
"""Sent to servers of one's own that want no key; the client refuses to send an empty one."""


class JudgeAddress(msgspec.Struct, frozen=True):
    """One judge: whom to ask, at what price."""

    name: str
    """As in JUDGE_MODEL; stored with scores."""
    model: str
    """As the server knows it."""
    client: Literal["openai", "litellm"]
    base_url: str | None
    host: str
    """Host name, or `provider:NAME`."""
    key: SecretStr
    price: Price
    context_tokens: int


def judge_address(settings: Settings, model: str | None = None) -> JudgeAddress:
    """Returns the judge that the settings name.

    Args:
        settings: Address, key, prices.
        model: Another model than JUDGE_MODEL.

    Raises:
        JudgeSetupError: Key, host, scheme or price is missing or not allowed.
    """
    name = model or settings.judge_model
    provider, _, rest = name.partition("/")
    configured = settings.judge_base_url or settings.ruler_endpoint
    if configured is None and rest and provider not in COMPATIBLE:
        host = f"provider:{provider}"
        base_url, request_model = None, name
    else:
        base_url = configured or OPENAI_URL
        request_model = rest if rest and provider in COMPATIBLE else name
        host = _host(base_url)
    if host not in settings.judge_allowed_hosts:
        raise JudgeSetupError(
            f"episodes may not be sent to {host}",
            f"Add {host} to JUDGE_ALLOWED_HOSTS if that is meant; now it has "
            f"{', '.join(settings.judge_allowed_hosts)}.",
        )
    own = base_url is not None and is_private(host)
    key = settings.judge_api_key or settings.openai_api_key
    if key is None and not own:
        raise JudgeSetupError(
            f"the judge {name} at {host} needs a key, and neither JUDGE_API_KEY nor OPENAI_API_KEY is set",
            "Set one, or SCORER=pnl, which needs no judge.",
        )
    return JudgeAddress(
        name=name,
        model=request_model,
        client="openai" if base_url else "litellm",
        base_url=base_url,
        host=host,
        key=key or SecretStr(NO_KEY),
        price=_price(settings, name, request_model, free=own),
        context_tokens=settings.judge_context_tokens or known_context(request_model) or CONTEXT_TOKENS,
    )


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        raise JudgeSetupError(
            "the judge's address is not a plain http(s)://host[:port]/path",
            "Correct JUDGE_BASE_URL; keys belong into JUDGE_API_KEY.",
        )
    if parts.scheme != "https" and not is_private(host):
        raise JudgeSetupError(
            f"the judge at {host} would be spoken to without encryption",
            "Use https:// in JUDGE_BASE_URL; http:// is for this machine and private networks.",
        )
    return host


def is_private(host: str) -> bool:
    """Whether a host is this machine or in a private network, by its address or its name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost", ".svc"))
    return address.is_loopback or (address.is_private and not address.is_link_local)


def _price(settings: Settings, name: str, model: str, *, free: bool) -> Price:
    given = settings.judge_input_price, settings.judge_output_price
    first = given[0] if given[0] is not None else given[1]
    if first is not None:
        second = given[1] if given[1] is not None else first
        return Price(first / 1e6, second / 1e6)
    if free:
        return FREE
    known = known_price(model)
    if known is None:
        raise JudgeSetupError(
            f"the price of the judge {name} is not known, so no budget could hold",
            "Set JUDGE_INPUT_PRICE and JUDGE_OUTPUT_PRICE, in dollars per million tokens.",
        )
    return known
