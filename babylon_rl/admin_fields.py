"""The environment variables of the admin API; see `setting_fields.py` for the other topics."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from babylon_rl.setting_fields import HttpUrl, PageUrl

SHORTEST_SECRET = 16


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < SHORTEST_SECRET:
        raise ValueError(f"should have at least {SHORTEST_SECRET} characters")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_long_enough)]


class AdminFields(BaseSettings):
    """Admin API and dashboard"""

    admin_token: Secret | None = Field(
        None,
        description="Bearer token of the admin API and login of the dashboard, 16 characters or more. Unset: "
        "the admin API answers nobody; `make dev` makes one up for its session.",
    )
    admin_port: int = Field(3001, ge=0, le=65535, description="Port of `babylon admin`; 0 takes a free one.")
    admin_upload_bytes: int = Field(
        1 << 30, ge=1024, description="Largest checkpoint that may be uploaded, packed or unpacked."
    )
    cron_secret: Secret | None = Field(
        None, description="Bearer token of /api/cron/training-check. Unset: that path answers nobody."
    )
    dagster_url: HttpUrl = Field(
        "http://127.0.0.1:3000", description="Dagster's webserver, through which the admin API starts runs."
    )
    dagster_public_url: PageUrl | None = Field(
        None,
        description="Where people open Dagster's UI, for links in alerts and on the dashboard. Unset: "
        "DAGSTER_URL.",
    )
    admin_public_url: PageUrl | None = Field(
        None,
        description="Where people open the dashboard, without /admin/training, for links in Dagster's UI. "
        "Unset: 127.0.0.1 and ADMIN_PORT.",
    )
    source_url: PageUrl | None = Field(
        None,
        description="Where the repository's files are on the web, https://github.com/OWNER/NAME/blob/main: "
        "assets in Dagster's UI then link to their code and documents.",
    )

    @property
    def dagster_page(self) -> str:
        """Dagster's UI as a browser finds it."""
        return self.dagster_public_url or self.dagster_url

    @property
    def dashboard_page(self) -> str:
        """The dashboard as a browser finds it."""
        return f"{self.admin_public_url or f'http://127.0.0.1:{self.admin_port}'}/admin/training"
