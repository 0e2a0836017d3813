"""`babylon deploy`, `rollout`, `promote`, `rollback` and `token`, as a person meets them."""

import asyncio
import os

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.registry import ensure_base, register
from babylon_rl.serving.tokens import TokenSigner
from babylon_rl_tests.test_cli import babylon, environment, error_of

__all__ = ["environment"]

SECRET = "a-secret-of-forty-characters-0123456789ab"


@pytest.fixture
def two(environment: dict[str, str], dsn: str) -> tuple[str, str]:
    async def make() -> tuple[str, str]:
        rl: asyncpg.Connection = await connect(dsn)
        await ensure_base(rl, base_model="tiny", storage_path="file:///models/base")
        first = await register(rl, parent_version="v0.0.0", storage_path="file:///models/1")
        second = await register(rl, parent_version=first.version, storage_path="file:///models/2")
        await deploy(rl, None, first.version, reason="first", verdict_required=False)
        await rl.close()
        return first.version, second.version

    return asyncio.run(make())


def test_a_rollout_from_its_first_share_to_its_end(environment: dict[str, str], two: tuple[str, str]) -> None:
    first, second = two
    assert "serves everybody; no rollout" in babylon(environment, "rollout").stdout
    assert "gate has not promoted" in error_of(babylon(environment, "deploy", second, "--strategy", "canary"))
    started = babylon(
        environment, "deploy", second, "--strategy", "gradual", "--schedule", "10:24,50", "--force"
    )
    assert f"{first} serves; {second} goes to" in started.stdout, started.stderr
    assert "schedule: 10 % for 24 h then 50 %" in babylon(environment, "rollout").stdout
    more = babylon(environment, "deploy", second, "--strategy", "gradual", "--percentage", "30", "--force")
    assert more.returncode == 0, more.stderr
    assert f"{second} serves now instead of {first}" in babylon(environment, "promote").stdout
    assert "no rollout is running" in error_of(babylon(environment, "promote"))
    assert f"{first} serves now instead of {second}" in babylon(environment, "rollback").stdout


def test_named_agents_try_a_model(environment: dict[str, str], two: tuple[str, str]) -> None:
    named = ("deploy", two[1], "--strategy", "test", "--force")
    assert "needs the agents" in error_of(babylon(environment, *named))
    done = babylon(environment, *named, "--agents", "agent-1, agent-2")
    assert "goes to 2 named agents (agent-1, agent-2)" in done.stdout, done.stderr
    assert f"{two[0]} serves now instead of {two[1]}" in babylon(environment, "rollback").stdout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--strategy", "gradual", "--percentage", "101"), "percentage: 101"),
        (("--strategy", "rolling"), "there is no 'rolling'"),
        (("--strategy", "gradual", "--schedule", "half"), "'half' is no step"),
        (("--percentage", "20"), "strategy immediate gives everybody"),
    ],
)
def test_what_cannot_be_released(
    environment: dict[str, str], two: tuple[str, str], options: tuple[str, ...], problem: str
) -> None:
    assert problem in error_of(babylon(environment, "deploy", two[1], "--force", *options))


def test_latest_is_no_version(environment: dict[str, str], two: tuple[str, str]) -> None:
    assert "latest" in error_of(babylon(environment, "deploy", "latest"))


def test_a_token_is_one_line_that_the_gateway_believes(environment: dict[str, str]) -> None:
    assert "GATEWAY_TOKEN_SECRET is not set" in error_of(babylon(environment, "token", "agent-1"))
    signing = environment | {"GATEWAY_TOKEN_SECRET": SECRET}
    done = babylon(signing, "token", "agent-1", "--owner", "owner-1", "--days", "2")
    claims = TokenSigner(SECRET).read(done.stdout.strip().encode())
    assert claims is not None and (claims.agent, claims.owner) == ("agent-1", "owner-1")
    assert claims.until is not None
    for days in ("0", "nan", "inf"):
        assert f"--days: {days}" in error_of(babylon(signing, "token", "agent-1", "--days", days))
    assert "no agent id" in error_of(babylon(signing, "token", "agent\n1"))
    assert SECRET not in done.stdout + done.stderr + str(os.environ.get("HOME"))
