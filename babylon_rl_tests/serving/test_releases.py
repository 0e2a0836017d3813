"""Rollouts as the gateway serves them: who gets which version, tokens, quotas, overrides."""

import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import registry, rollout_rows
from babylon_rl.deployment.assignment import Assignment, draw
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.rollout import promote, roll_back, rollout_status, start_rollout
from babylon_rl.serving.callers import Keyring
from babylon_rl.serving.errors import GatewayError, GatewaySetupError
from babylon_rl.serving.models import ServedModels
from babylon_rl.serving.routing import TRAINED_SALT, RouteRequest, Serving, release_route
from babylon_rl.serving.tokens import Claims, TokenSigner
from babylon_rl.settings import Settings
from babylon_rl_tests.serving.doubles import UpstreamDouble
from babylon_rl_tests.serving.running import ACTIVE, BASE, Gateway, serving, upstream
from babylon_rl_tests.serving.versions import copied, trained

SECRET = "a-secret-of-forty-characters-0123456789ab"
CANDIDATE = "v0.0.2"
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
AGENTS = [f"agent-{number}" for number in range(40)]


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


def state(double: UpstreamDouble, percentage: float = 50.0, **changes: object) -> Serving:
    """An active version, a candidate beside it, and the base."""
    plain = serving(upstream(double.url))
    fields: dict[str, object] = {"experiment": False, "agents": frozenset()} | changes
    assignment = Assignment(
        7,
        CANDIDATE,
        ACTIVE,
        "salt",
        block_windows=1,
        origin=HOUR.timestamp(),
        stages=((HOUR.timestamp() - 86400, percentage),),
        **fields,  # type: ignore[arg-type]
    )
    target = replace(plain.targets[ACTIVE], version=CANDIDATE, model=f"babylon-agent-{CANDIDATE}")
    return replace(plain, targets={**plain.targets, CANDIDATE: target}, rollout=assignment)


def asked(
    agent: str | None, *, verified: bool = True, model: str = "", at: float | None = None
) -> RouteRequest:
    return RouteRequest(model, agent, verified, HOUR.timestamp() + 60 if at is None else at)


def test_a_share_of_the_agents_gets_the_candidate(double: UpstreamDouble) -> None:
    serving = state(double)
    routes = {agent: release_route(asked(agent), serving) for agent in AGENTS}
    for agent, route in routes.items():
        expected = "candidate" if draw(agent, "salt") < 50.0 else "active"
        assert route.variant == expected and route.rollout_id == 7
        assert route.target.version == (CANDIDATE if expected == "candidate" else ACTIVE)
        assert route.fallback is not None and route.fallback.version == BASE
    assert {route.variant for route in routes.values()} == {"candidate", "active"}


def test_an_experiment_switches_agents_between_blocks(double: UpstreamDouble) -> None:
    serving = state(double, experiment=True)
    for agent in AGENTS:
        first, second = (
            release_route(asked(agent, at=HOUR.timestamp() + 3600.0 * hour), serving).variant
            for hour in (0, 1)
        )
        assert {first, second} == {"candidate", "active"}


def test_who_is_not_known_gets_what_is_proven(double: UpstreamDouble) -> None:
    serving = state(double, 100.0)
    assert release_route(asked(None), serving).variant == "active"
    assert release_route(asked("agent-1", verified=False), serving).variant == "candidate"
    keyed = replace(serving, verified_only=True)
    assert release_route(asked("agent-1", verified=False), keyed).variant == "active"
    assert release_route(asked("agent-1"), keyed).variant == "candidate"


def test_versions_by_name_are_nobody_s_experiment(double: UpstreamDouble) -> None:
    serving = state(double, 100.0)
    for name, version in (("babylon-agent-v0.0.1", ACTIVE), ("tiny-base", BASE)):
        route = release_route(asked("agent-1", model=name), serving)
        assert route.target.version == version and route.rollout_id is None
        assert route.variant in ("pinned", "base")


def test_a_candidate_that_is_not_loaded_serves_nobody(double: UpstreamDouble) -> None:
    serving = state(double, 100.0)
    without = replace(serving, targets={ACTIVE: serving.targets[ACTIVE], BASE: serving.targets[BASE]})
    assert release_route(asked("agent-1"), without).target.version == ACTIVE


def test_named_agents_try_it(double: UpstreamDouble) -> None:
    serving = state(double, agents=frozenset({"agent-3"}))
    found = {agent: release_route(asked(agent), serving).variant for agent in AGENTS}
    assert [agent for agent, variant in found.items() if variant == "candidate"] == ["agent-3"]


def test_rl_rollout_percentage_leaves_the_rest_with_the_base(double: UpstreamDouble) -> None:
    serving = replace(state(double), rollout=None, trained_share=30.0)
    for agent in AGENTS:
        route = release_route(asked(agent), serving)
        assert route.variant == ("active" if draw(agent, TRAINED_SALT) < 30.0 else "base")
    assert release_route(asked(None), serving).variant == "base"
    more = replace(serving, trained_share=60.0)
    for agent in AGENTS:
        if release_route(asked(agent), serving).variant == "active":
            assert release_route(asked(agent), more).variant == "active", "raising it moves nobody out"
    nobody = replace(serving, trained_share=0.0)
    assert {release_route(asked(agent), nobody).variant for agent in AGENTS} == {"base"}


def test_the_variant_is_in_the_answer_and_in_the_record(double: UpstreamDouble, tmp_path: Path) -> None:
    token = TokenSigner(SECRET).sign(Claims("agent-1", "owner-1"))
    with Gateway(state(double, 100.0), tmp_path, router=release_route, token_secret=SECRET) as running:
        response = running.ask_as(token)
        assert response.status_code == 200, response.text
        assert (response.headers["x-variant"], response.headers["x-model-version"]) == (
            "candidate",
            CANDIDATE,
        )
        (call,) = running.kept()
    assert (call.variant, call.version, call.rollout_id) == ("candidate", CANDIDATE, 7)
    assert (call.agent_id, call.agent_verified, call.owner_id) == ("agent-1", True, "owner-1")


def test_tokens_speak_for_their_agent_only() -> None:
    signer = TokenSigner(SECRET)
    keyring = Keyring(None, signer)
    assert keyring.required
    token = signer.sign(Claims("agent-1", "owner-1")).encode()
    caller = keyring.identify(b"Bearer " + token, b"")
    assert (caller.agent_id, caller.verified, caller.owner_id, caller.quota_of) == (
        "agent-1", True, "owner-1", "owner-1",
    )  # fmt: skip
    assert keyring.identify(b"Bearer " + token, b"agent-1") == caller
    with pytest.raises(GatewayError, match="another agent") as refused:
        keyring.identify(b"Bearer " + token, b"agent-2")
    assert refused.value.status == 403


@pytest.mark.parametrize("change", ["cut", "other agent", "other secret", "ended", "garbage", "none"])
def test_tokens_that_are_not_ours_open_nothing(change: str) -> None:
    signer = TokenSigner(SECRET)
    token = signer.sign(Claims("agent-1"))
    body, _, signature = token.rpartition(".")
    forged = base64.urlsafe_b64encode(json.dumps({"agent": "agent-2"}).encode()).rstrip(b"=").decode()
    bad = {
        "cut": token[:-2],
        "other agent": f"bab_{forged}.{signature}",
        "other secret": TokenSigner("b" * 32).sign(Claims("agent-1")),
        "ended": signer.sign(Claims("agent-1", until=time.time() - 1)),
        "garbage": "bab_%%%." + signature,
        "none": "",
    }[change]
    with pytest.raises(GatewayError) as refused:
        Keyring(None, signer).identify(b"Bearer " + bad.encode(), b"")
    assert refused.value.status == 401


def test_secrets_can_be_replaced_and_short_ones_are_refused() -> None:
    old, new = "o" * 32, "n" * 32
    token = TokenSigner(old).sign(Claims("agent-1")).encode()
    both = TokenSigner(f"{new}, {old}")
    assert (
        both.read(token) == Claims("agent-1") == TokenSigner(new).read(both.sign(Claims("agent-1")).encode())
    )
    assert TokenSigner(new).read(token) is None
    with pytest.raises(GatewaySetupError, match="fewer than 32"):
        TokenSigner("short")
    with pytest.raises(GatewaySetupError, match="not set"):
        TokenSigner(None).sign(Claims("agent-1"))


def test_the_agents_of_an_owner_share_a_quota(double: UpstreamDouble) -> None:
    signer = TokenSigner(SECRET)
    with Gateway(
        serving(upstream(double.url)),
        token_secret=SECRET,
        owner_per_minute=12.0,
        keys="shared-key-0123456789",
    ) as running:
        codes = [
            running.ask_as(signer.sign(Claims(f"agent-{number}", "owner-1"))).status_code
            for number in range(3)
        ]
        assert codes == [200, 200, 429], "a sixth of a minute's requests at once"
        assert running.ask_as(signer.sign(Claims("agent-9", "owner-2"))).status_code == 200
        shared = [running.ask_as("shared-key-0123456789", x_agent_id=f"x-{n}").status_code for n in range(3)]
        assert shared == [200, 200, 429], "other names do not stretch a shared key"


# --- with a registry -------------------------------------------------------------------------------------


@pytest.fixture
async def db(anyio_backend: str, settings: Settings, home_with_base: Path) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        await ensure_base(databases.rl, settings)
        yield databases


async def registered(db: Databases, path: Path) -> str:
    model = await registry.register(db.rl, parent_version="v0.0.0", storage_path=path.as_uri())
    return model.version


@pytest.mark.anyio
async def test_a_candidate_is_checked_loaded_promoted_and_taken_back(
    db: Databases, settings: Settings, base_checkpoint: Path, tmp_path: Path
) -> None:
    paths = [trained(base_checkpoint, tmp_path / str(seed), seed) for seed in (1, 2)]
    first, second = [await registered(db, path) for path in paths]
    await deploy(db.rl, None, first, reason="first", verdict_required=False)
    async with open_databases(settings, role="babylon_gateway") as mine:
        models = ServedModels(settings)
        await models.refresh(mine.rl, mine.game)
        await start_rollout(db.rl, None, second, percentage=50, experiment=False, verdict_required=False)
        assert await models.refresh(mine.rl, mine.game)
        assert models.serving is not None and set(models.serving.targets) == {first, second, "v0.0.0"}
        assert models.serving.rollout is not None and models.serving.rollout.version == second
        assert await db.rl.fetchval("SELECT passed FROM rl.canaries WHERE version = $1", second)
        candidate = models.serving.targets[second]
        await start_rollout(db.rl, None, second, percentage=80, experiment=False)
        assert await models.refresh(mine.rl, mine.game)
        assert models.serving.targets[second] is candidate, "a new share loads nothing"
        assert models.serving.rollout.percentage_at(time.time() + 1) == 80.0
        await roll_back(db.rl, None)
        await models.refresh(mine.rl, mine.game)
        assert models.serving.rollout is None and set(models.serving.targets) == {first, "v0.0.0"}
        await start_rollout(db.rl, None, second, experiment=False, verdict_required=False)
        await models.refresh(mine.rl, mine.game)
        candidate = models.serving.targets[second]
        await promote(db.rl, None)
        await models.refresh(mine.rl, mine.game)
        assert models.serving.active == second and models.serving.targets[second] is candidate
        assert models.serving.rollout is None


@pytest.mark.anyio
async def test_a_candidate_like_the_base_or_without_a_checkpoint_serves_nobody(
    db: Databases, settings: Settings, base_checkpoint: Path, tmp_path: Path
) -> None:
    first = await registered(db, trained(base_checkpoint, tmp_path / "1", 1))
    await deploy(db.rl, None, first, reason="first", verdict_required=False)
    same = await registered(db, copied(base_checkpoint, tmp_path / "2"))
    async with open_databases(settings, role="babylon_gateway") as mine:
        models = ServedModels(settings)
        await models.refresh(mine.rl, mine.game)
        await start_rollout(db.rl, None, same, verdict_required=False)
        await models.refresh(mine.rl, mine.game)
        assert (await rollout_status(db.rl)).candidate is None, "its canary failed"
        (past,) = await rollout_rows.past_rollouts(db.rl)
        assert past.state == "rolled_back" and "answers like the base" in (past.reason or "")
        missing = await registered(db, tmp_path / "nothing here")
        await start_rollout(db.rl, None, missing, verdict_required=False)
        await models.refresh(mine.rl, mine.game)
        assert models.serving is not None and models.serving.rollout is None
        assert models.serving.active == first and "serves nobody" in models.serving.notes[0]
        await roll_back(db.rl, None)
        await models.refresh(mine.rl, mine.game)
        assert models.serving.notes == ()


@pytest.mark.anyio
async def test_a_pin_and_the_switch_beat_rollouts(
    db: Databases, settings: Settings, base_checkpoint: Path, tmp_path: Path
) -> None:
    first = await registered(db, trained(base_checkpoint, tmp_path / "1", 1))
    second = await registered(db, trained(base_checkpoint, tmp_path / "2", 2))
    await deploy(db.rl, None, first, reason="first", verdict_required=False)
    await start_rollout(db.rl, None, second, verdict_required=False)
    for changes, active in (({"rl_model_version": first}, first), ({"use_rl_model": False}, "v0.0.0")):
        chosen = Settings(_env_file=None, database_url=settings.database_url, **changes)
        models = ServedModels(chosen)
        await models.refresh(db.rl, db.game)
        assert models.serving is not None and models.serving.active == active
        assert models.serving.rollout is None


async def choose(db: Databases, name: str | None, enabled: bool = True) -> None:
    await db.game.execute('DELETE FROM "SystemSettings"')
    await db.game.execute(
        'INSERT INTO "SystemSettings" ("id", "wandbModel", "wandbEnabled", "updatedAt")'
        " VALUES ('system', $1, $2, now() AT TIME ZONE 'UTC')",
        name,
        enabled,
    )


@pytest.mark.anyio
async def test_the_game_s_override_is_visible(
    db: Databases, settings: Settings, base_checkpoint: Path, tmp_path: Path
) -> None:
    first = await registered(db, trained(base_checkpoint, tmp_path / "1", 1))
    second = await registered(db, trained(base_checkpoint, tmp_path / "2", 2))
    await deploy(db.rl, None, first, reason="first", verdict_required=False)
    async with open_databases(settings, role="babylon_gateway") as mine:
        models = ServedModels(settings)
        await choose(db, f"babylon-agent-{second}")
        await models.refresh(mine.rl, mine.game)
        assert models.serving is not None and models.serving.active == second
        assert models.serving.notes == (f"SystemSettings.wandbModel overrides: babylon-agent-{second}",)
        assert release_route(asked("agent-1"), models.serving).variant == "override"
        await choose(db, "OpenPipe/Qwen3-14B-Instruct")
        await models.refresh(mine.rl, mine.game)
        assert models.serving.active == second, "nothing here serves it, so what works goes on"
        assert "no server is set" in models.serving.notes[0]
        await choose(db, f"babylon-agent-{second}", enabled=False)
        await models.refresh(mine.rl, mine.game)
        assert models.serving.active == first and models.serving.notes == ()


@pytest.mark.anyio
async def test_an_override_may_name_a_model_of_the_server(
    db: Databases, settings: Settings, double: UpstreamDouble
) -> None:
    await choose(db, "another/model")
    served = Settings(_env_file=None, database_url=settings.database_url, gateway_upstream_url=double.url)
    models = ServedModels(served)
    await models.refresh(db.rl, db.game)
    assert models.serving is not None and models.serving.active == "external"
    assert models.serving.targets["external"].model == "another/model"
    assert release_route(asked("agent-1"), models.serving).variant == "override"
    await models.close()
