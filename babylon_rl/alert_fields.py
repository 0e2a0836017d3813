"""The environment variables of alerts: whom to call, and about what. See `setting_fields.py` for others."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings


def _webhook(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().startswith(("http://", "https://")):
        raise ValueError("must be an address that begins with http:// or https://")
    return secret


Webhook = Annotated[SecretStr, AfterValidator(_webhook)]


class AlertFields(BaseSettings):
    """Alerts (docs/operations.md)"""

    alert_webhook_url: Webhook | None = Field(
        None,
        description="Where alerts are posted: a webhook of Discord, of Slack, or of anything that takes "
        "Slack's form. The address is a secret. Unset: DISCORD_WEBHOOK_URL, else rl.alerts and the UI only.",
    )
    discord_webhook_url: Webhook | None = Field(
        None, description="As ALERT_WEBHOOK_URL, in Discord's form (the seeds' name)."
    )
    alert_repeat_hours: float = Field(
        24.0, gt=0, description="Hours after which somebody is called again about what is still wrong."
    )
    alert_stuck_hours: float = Field(
        4.0, gt=0, description="Hours after which a training that is still running counts as stuck."
    )
    alert_no_data_hours: float = Field(
        6.0, gt=0, description="Hours without a new recorded row after which somebody is called."
    )
    alert_quarantine_rate: float = Field(
        0.05, gt=0, le=1, description="Share of unreadable rows in the last day that somebody should know of."
    )
    alert_budget_share: float = Field(
        0.8, gt=0, le=1, description="Share of JUDGE_DAILY_BUDGET_USD that somebody should know is spent."
    )
