"""The environment variables of the judge: which model, what it may see and cost, and when it is doubted."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from babylon_rl.setting_fields import HttpUrl


def _hosts(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    return [part.strip().lower() for part in parts] if isinstance(parts, list | tuple) else parts


def _named(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if any(not host or "/" in host or "*" in host for host in hosts):
        raise ValueError("must be host names or provider:NAME entries, without scheme, path or wildcard")
    return hosts


Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts), AfterValidator(_named)]


class JudgeFields(BaseSettings):
    """The judge: RULER by a language model that sees the ground truth"""

    judge_model: str = Field(
        "openai/gpt-4o-mini",
        min_length=1,
        description="provider/model. openai/… speaks to JUDGE_BASE_URL; other providers go through litellm.",
    )
    judge_base_url: HttpUrl | None = Field(
        None, description="Any OpenAI-compatible server, with its /v1. Unset: RULER_ENDPOINT, else OpenAI."
    )
    ruler_endpoint: HttpUrl | None = Field(
        None, description="The seeds' name of JUDGE_BASE_URL, used where that is unset."
    )
    judge_api_key: SecretStr | None = Field(None, description="Key of the judge. Unset: OPENAI_API_KEY.")
    openai_api_key: SecretStr | None = Field(None, description="Key used where JUDGE_API_KEY is unset.")
    judge_allowed_hosts: Hosts = Field(
        ("api.openai.com", "127.0.0.1", "localhost", "::1"),
        description="The only hosts that episodes may be sent to; provider:NAME allows a litellm provider.",
    )
    judge_second_model: str | None = Field(
        None, min_length=1, description="Judge of the same server that is asked when the first is doubted."
    )
    judge_rubric: Path | None = Field(
        None, description="Text file that replaces the built-in rubric; its hash is stored with every score."
    )
    judge_orders: int = Field(
        1, ge=1, le=8, description="Orders of the episodes that are judged and averaged; each costs a call."
    )
    judge_temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the judge.")
    judge_context_tokens: int | None = Field(
        None,
        ge=2000,
        description="Tokens that the judge can read at once. Unset: known models' own, else 32000.",
    )
    judge_episode_tokens: int = Field(
        1200, ge=200, description="Most tokens of one episode in the judge's view; longer ones are condensed."
    )
    judge_concurrency: int = Field(16, ge=1, le=256, description="Requests to the judge at the same time.")
    judge_timeout_seconds: float = Field(
        60.0, gt=0, description="Seconds that one request may take as a whole; then it is tried again."
    )
    judge_attempts: int = Field(
        4, ge=1, le=10, description="Requests for one verdict before its window is left unjudged."
    )
    judge_daily_budget_usd: float = Field(
        5.0, ge=0, description="Dollars per UTC day; a request that could exceed them is not made."
    )
    judge_input_price: float | None = Field(
        None, ge=0, description="Dollars per million input tokens. Unset: known models' own; 0 on localhost."
    )
    judge_output_price: float | None = Field(
        None, ge=0, description="Dollars per million output tokens. Unset: as JUDGE_INPUT_PRICE."
    )
    judge_canary_rate: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of verdicts that also judge a made-up disaster, to test the judge.",
    )
    judge_alarm_correlation: float = Field(
        0.3,
        ge=-1,
        le=1,
        description="Rank correlation of score and attributed P&L below which a whole group is judged again.",
    )
    judge_check_scorer: Literal["pnl", "heuristic"] = Field(
        "pnl",
        description="Takes over a group that ruler_with_heuristic_check still doubts after judging again.",
    )
    target_trajectories: int | None = Field(
        None, ge=1, description="Episodes per day worth judging; larger windows are thinned. Unset: all."
    )
    max_dropout: float = Field(
        0.3, ge=0, le=0.3, description="Most of a window's agents that TARGET_TRAJECTORIES may leave out."
    )
