"""Posting one alert to a webhook, in the form that its host reads. The address is a secret: nothing shows it.

Discord takes `{"content": …}`, Slack and what imitates it `{"text": …}`. Agents write names and messages, so
mentions are switched off in both.
"""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from babylon_rl.settings import Settings

TIMEOUT_SECONDS = 5.0
DISCORD_HOSTS = ("discord.com", "discordapp.com")
DISCORD_LONGEST = 2000


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook answers itself; where else it points must not get the alert."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def post(settings: Settings, kind: str, text: str, link: str) -> str | None:
    """Posts an alert; returns why it was not taken, in words without the address, or None.

    Args:
        settings: ALERT_WEBHOOK_URL, else DISCORD_WEBHOOK_URL; one of them is set.
        kind: What kind of alert.
        text: What a person reads.
        link: Where to go on.
    """
    secret = settings.alert_webhook_url or settings.discord_webhook_url
    if secret is None:
        return "no webhook is set"
    url = secret.get_secret_value()
    try:
        host = (urlsplit(url).hostname or "").lower()
        form = discord if settings.alert_webhook_url is None or _is_discord(host) else slack
        request = urllib.request.Request(
            url,
            data=json.dumps(form(kind, text, link)).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "babylon-rl"},
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return f"the webhook answered with status {refusal.code}"
    except TimeoutError:
        return f"the webhook did not answer within {TIMEOUT_SECONDS:.0f} s"
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as problem:
        reason = getattr(problem, "reason", None)
        known = reason if isinstance(reason, OSError) else problem
        return f"the webhook cannot be reached ({type(known).__name__})"


def discord(kind: str, text: str, link: str) -> dict[str, Any]:
    """The body of a Discord webhook."""
    head, tail = f"**babylon_rl: {kind.replace('_', ' ')}**\n", f"\n<{link}>"
    room = DISCORD_LONGEST - len(head) - len(tail)
    return {"content": f"{head}{text[:room]}{tail}", "allowed_mentions": {"parse": []}}


def slack(kind: str, text: str, link: str) -> dict[str, Any]:
    """The body of a Slack webhook."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"*babylon_rl: {kind.replace('_', ' ')}*\n{escaped}\n<{link}|Dagster>"}


def _is_discord(host: str) -> bool:
    return any(host == known or host.endswith(f".{known}") for known in DISCORD_HOSTS)
