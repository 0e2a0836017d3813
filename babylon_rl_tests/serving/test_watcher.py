"""The watch beside real gateways: a failing candidate is taken back by itself, with Dagster nowhere."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from babylon_rl.database.connection import Databases
from babylon_rl.deployment import registry, rollout_rows
from babylon_rl.deployment.assignment import draw
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.rollout import rollout_status, start_rollout
from babylon_rl.deployment.rollout_rows import RolloutRow
from babylon_rl.serving.tokens import Claims, TokenSigner
from babylon_rl.settings import Settings
from babylon_rl_tests.serving.doubles import UpstreamDouble, answer, status
from babylon_rl_tests.serving.program import ASK, Program, gateway, in_database, stored
from babylon_rl_tests.serving.running import ACTIVE, BASE

SECRET = "a-secret-of-forty-characters-0123456789ab"
CANDIDATE = "v0.0.2"
AGENTS = [f"agent-{number}" for number in range(40)]
TOKENS = [TokenSigner(SECRET).sign(Claims(agent)) for agent in AGENTS]


@pytest.fixture
def double(settings: Settings) -> Iterator[UpstreamDouble]:
    """A server whose candidate fails, and an active version in the registry."""

    async def behave(request, writer) -> None:  # noqa: ANN001
        bad = request.body["model"] == f"babylon-agent-{CANDIDATE}"
        await (status(500) if bad else answer())(request, writer)

    async def prepare(db: Databases) -> None:
        await registry.ensure_base(db.rl, base_model="tiny-base")
        for _ in range(2):
            await registry.register(db.rl, parent_version="v0.0.0", storage_path="")
        await deploy(db.rl, None, ACTIVE, reason="first", verdict_required=False)

    in_database(settings, prepare)
    with UpstreamDouble() as started:
        started.behave = behave
        yield started


@pytest.fixture
def environment(double: UpstreamDouble) -> dict[str, str]:
    return {
        "GATEWAY_UPSTREAM_URL": double.url,
        "GATEWAY_CANARY": "off",
        "GATEWAY_RETRIES": "0",
        "GATEWAY_TOKEN_SECRET": SECRET,
        "ROLLOUT_WATCH_SECONDS": "0.3",
    }


def ask_as(program: Program, token: str) -> str:
    """The variant, version and fallback of one answer."""
    raw = program.client(key=token).chat.completions.with_raw_response.create(
        model="babylon-agent", messages=ASK
    )
    return f"{raw.headers['x-variant']} {raw.headers['x-model-version']} {raw.headers['x-fallback']}"


def until(found: Callable[[], str], words: str, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while words not in (seen := found()):
        assert time.monotonic() < limit, f"{words!r} is not in {seen!r}"
        time.sleep(0.1)


def leader(settings: Settings) -> str:
    """Who leads now; empty where nobody does."""

    async def read(db: Databases) -> str | None:
        return await db.rl.fetchval(
            "SELECT owner FROM rl.leases WHERE name = 'deployment_watch' AND until > clock_timestamp()"
        )

    return in_database(settings, read) or ""


def fail_in_a_rollout(settings: Settings, program: Program) -> RolloutRow:
    """Rolls the candidate out and asks until it has been taken back; returns the rollout that ended."""
    in_database(
        settings,
        lambda db: start_rollout(
            db.rl, None, CANDIDATE, percentage=50, experiment=False, verdict_required=False
        ),
    )
    row = in_database(settings, lambda db: rollout_rows.running(db.rl))
    assert row is not None
    trying = next(token for token, agent in zip(TOKENS, AGENTS, strict=True) if draw(agent, row.salt) < 50.0)
    until(lambda: ask_as(program, trying), f"candidate {BASE} true")
    for _ in range(3):
        for token in TOKENS:
            assert ask_as(program, token).split()[0] in ("candidate", "active")
    until(lambda: str(in_database(settings, lambda db: rollout_status(db.rl))), "candidate=None")
    until(lambda: ask_as(program, trying), f"active {ACTIVE} false")
    past = in_database(settings, lambda db: rollout_rows.past_rollouts(db.rl))[0]
    assert past.state == "rolled_back" and "error burst" in (past.reason or "")
    return past


def test_a_gateway_takes_a_failing_candidate_back_by_itself(
    settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    with gateway(settings, tmp_path / "log.txt", **environment) as program:
        assert ask_as(program, TOKENS[0]) == f"active {ACTIVE} false"
        with pytest.raises(openai.AuthenticationError):
            program.ask()
        past = fail_in_a_rollout(settings, program)
        assert (past.decided_by or "").startswith("gateway ")
    rows = stored(settings, "agent_id, variant, version, fallback, rollout_id, agent_verified")
    candidates = [row for row in rows if row[1] == "candidate"]
    assert candidates and all(row[2:] == (BASE, True, past.id, True) for row in candidates)
    assert all(draw(row[0], past.salt) < 50.0 for row in candidates), "only agents of the share"


@pytest.mark.long
def test_of_two_gateways_one_leads_and_the_other_decides_when_it_is_killed(
    settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    with gateway(settings, tmp_path / "one.txt", **environment) as first:
        until(lambda: leader(settings), "gateway ")
        before = leader(settings)
        with gateway(settings, tmp_path / "two.txt", **environment) as second:
            assert ask_as(second, TOKENS[0]) == f"active {ACTIVE} false"
            assert leader(settings) == before
            first.kill()
            past = fail_in_a_rollout(settings, second)
            assert past.decided_by == leader(settings) != before
