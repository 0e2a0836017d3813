"""The environment variables of the gateway; see `setting_fields.py` for the other topics."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from babylon_rl.setting_fields import HttpUrl


class ServingFields(BaseSettings):
    """Gateway: callers, upstreams, capture"""

    gateway_api_keys: SecretStr | None = Field(
        None,
        description="Keys of callers, comma-separated; agent=key binds a key to an agent. Unset: "
        "no login, and the gateway listens on this machine only.",
    )
    gateway_rate_per_minute: float = Field(
        600.0, ge=0, description="Requests a minute that one agent may make (bursts of a sixth); 0: no limit."
    )
    gateway_token_secret: SecretStr | None = Field(
        None,
        description="Signs agents' tokens (`babylon token AGENT`), 32 characters or more; several, comma-"
        "separated, while one replaces another. Unset: keys only.",
    )
    gateway_owner_rate_per_minute: float = Field(
        6000.0,
        ge=0,
        description="Requests a minute of all agents of one owner, or of one shared key; 0: no limit.",
    )
    gateway_max_body_bytes: int = Field(2 << 20, ge=1024, description="Largest request body.")
    gateway_max_requests: int = Field(
        512, ge=1, description="Requests in flight; beyond that callers are told to come back (503)."
    )
    gateway_client_seconds: float = Field(
        15.0, gt=0, description="Patience with a client that sends its body, or reads its answer, slowly."
    )
    gateway_upstream_kind: Literal["auto", "embedded", "openai", "vllm", "wandb"] = Field(
        "auto",
        description="Who answers. auto: the embedded engine, W&B Inference for wandb-artifact:// "
        "checkpoints, vllm where GATEWAY_UPSTREAM_URL is set.",
    )
    gateway_upstream_url: HttpUrl | None = Field(
        None, description="Base address of the OpenAI-compatible server, with /v1."
    )
    gateway_upstream_api_key: SecretStr | None = Field(None, description="Its key.")
    gateway_upstream_model: str = Field(
        "babylon-agent-{version}",
        min_length=1,
        description="Name of a trained model there; {version} becomes v1.2.3. The base is called BASE_MODEL.",
    )
    gateway_load_lora: bool = Field(
        False, description="Load adapters into vLLM (/v1/load_lora_adapter) before they are served."
    )
    gateway_logprobs_of: Literal["raw", "sampled"] = Field(
        "raw",
        description="Distribution of the upstream's log-probabilities: before temperature and top_p (vLLM's "
        "default), or the sampled one.",
    )
    gateway_fallback_url: HttpUrl | None = Field(
        None, description="Another OpenAI-compatible server for the base model. Unset: the same upstream."
    )
    gateway_fallback_api_key: SecretStr | None = Field(None, description="Its key.")
    gateway_fallback_model: str | None = Field(
        None, min_length=1, description="Name of the base model there. Unset: BASE_MODEL."
    )
    gateway_connect_seconds: float = Field(2.0, gt=0, description="Limit for connecting to an upstream.")
    gateway_first_token_seconds: float = Field(
        20.0, gt=0, description="Limit for a stream's first token; what is slower is retried or falls back."
    )
    gateway_total_seconds: float = Field(120.0, gt=0, description="Limit for one upstream's whole answer.")
    gateway_retries: int = Field(2, ge=0, le=10, description="Further attempts before the fallback.")
    gateway_capture: Literal["off", "process", "power"] = Field(
        "process",
        description="Calls are kept for training before they are answered. process: survives the end of the "
        "process; power: also of the machine (fdatasync); off: nothing is kept.",
    )
    gateway_spool_bytes: int = Field(
        1 << 30, ge=65536, description="Room for calls not yet in PostgreSQL; full means 503 for callers."
    )
    gateway_canary: Literal["enforce", "warn", "off"] = Field(
        "enforce",
        description="Check each newly deployed model before it answers: it must differ from the base model "
        "and name its own version. enforce ends a deployment that fails.",
    )
    rollout_block_windows: int = Field(
        3, ge=1, le=168, description="Hours that an agent stays with one version in an experiment."
    )
    rollout_alpha: float = Field(
        0.05, gt=0, lt=1, description="Probability of a wrong decision on P&L over all looks at a rollout."
    )
    rollout_promote: bool = Field(
        True, description="Promote on a significant gain. false: an operator does; rollbacks stay automatic."
    )
    rollout_watch_seconds: float = Field(
        5.0, ge=0, description="Pause between two looks of the gateway at a rollout; 0: it does not look."
    )
    otel_exporter_otlp_endpoint: HttpUrl | None = Field(
        None, description="OpenTelemetry collector (OTLP over HTTP) for spans of calls. Unset: no spans."
    )
