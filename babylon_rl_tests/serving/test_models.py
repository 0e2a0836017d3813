"""Which model answers, that it passed its canary, and that a broken one never takes a working one's place."""

import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import canary, registry
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.deploy import current, deploy
from babylon_rl.deployment.errors import UnknownVersionError
from babylon_rl.deployment.release import release
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.serving.errors import GatewaySetupError
from babylon_rl.serving.models import RETRY_SECONDS, ServedModels, model_to_serve
from babylon_rl.serving.protocol import parse_chat
from babylon_rl.settings import Settings
from babylon_rl_tests.serving.doubles import Behaviour, UpstreamDouble, answer, status
from babylon_rl_tests.serving.versions import copied, deployed, spoil, trained
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio

ASK = parse_chat(b'{"messages":[{"role":"user","content":"AURUM crash"}],"seed":1}')


@pytest.fixture
async def db(anyio_backend: str, settings: Settings, home_with_base: Path) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        await ensure_base(databases.rl, settings)
        yield databases


@pytest.fixture
async def gateway_db(db: Databases, settings: Settings) -> AsyncIterator[Databases]:
    """Under the role that the gateway has."""
    async with open_databases(settings, role="babylon_gateway") as databases:
        yield databases


@pytest.fixture(scope="module")
def checkpoints(base_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("trained")
    return [trained(base_checkpoint, folder / str(seed), seed) for seed in (1, 2)]


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


def choose(settings: Settings, **changes: object) -> Settings:
    return Settings(_env_file=None, database_url=settings.database_url, **changes)


async def said_by(models: ServedModels) -> str:
    """The version in the answer of what serves now."""
    assert models.serving is not None
    target = models.serving.targets[models.serving.active]
    return (await target.upstream.complete(ASK, target.model, {})).model


async def test_the_deployed_model_answers_and_before_it_the_base(
    db: Databases, settings: Settings, checkpoints: list[Path]
) -> None:
    assert (await model_to_serve(db.rl, settings)).model.version == "v0.0.0"
    for path in checkpoints:
        await deployed(db.rl, path)
    assert (await model_to_serve(db.rl, settings)).model.version == "v0.0.2"
    pinned = choose(settings, rl_model_version="v0.0.1")
    assert (await model_to_serve(db.rl, pinned)).model.version == "v0.0.1"
    with pytest.raises(UnknownVersionError, match="v0.0.2"):
        await model_to_serve(db.rl, choose(settings, rl_model_version="v0.0.9"))


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"use_rl_model": False}, "v0.0.0"),
        ({"use_rl_model": False, "rl_model_version": "v0.0.1"}, "v0.0.0"),
        ({"babylon_env": "production"}, "v0.0.0"),
        ({"babylon_env": "production", "use_rl_model": True}, "v0.0.1"),
    ],
)
async def test_trained_models_answer_only_where_they_may(
    db: Databases, settings: Settings, checkpoints: list[Path], changes: dict[str, object], version: str
) -> None:
    await deployed(db.rl, checkpoints[0])
    assert (await model_to_serve(db.rl, choose(settings, **changes))).model.version == version


async def test_a_new_deployment_is_checked_loaded_and_the_old_one_let_go(
    db: Databases, gateway_db: Databases, settings: Settings, checkpoints: list[Path]
) -> None:
    models = ServedModels(settings)
    assert await models.refresh(gateway_db.rl) and models.version == "v0.0.0"
    assert not await models.refresh(gateway_db.rl)
    await deployed(db.rl, checkpoints[0])
    assert await said_by(models) == "v0.0.0", "until it is looked for"
    before = models.serving
    assert await models.refresh(gateway_db.rl)
    assert await said_by(models) == "v0.0.1" == models.version
    assert before is not None and await said_by_state(before, "v0.0.0") == "v0.0.0", "running calls go on"
    assert await db.rl.fetchval("SELECT passed FROM rl.canaries WHERE version = 'v0.0.1'") is True
    await deployed(db.rl, checkpoints[1])
    await models.refresh(gateway_db.rl)
    assert models.serving is not None and set(models.serving.targets) == {"v0.0.2", "v0.0.0"}
    await deploy(db.rl, None, "v0.0.0", reason="back to the base")
    assert await models.refresh(gateway_db.rl) and await said_by(models) == "v0.0.0"


async def said_by_state(state, version: str) -> str:
    target = state.targets[version]
    return (await target.upstream.complete(ASK, target.model, {})).model


async def test_a_corrupt_model_does_not_replace_a_working_one(
    db: Databases,
    gateway_db: Databases,
    settings: Settings,
    base_checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = ServedModels(settings)
    await models.refresh(gateway_db.rl)
    path = trained(base_checkpoint, tmp_path / "version")
    whole = shutil.copytree(path, tmp_path / "whole")
    await deployed(db.rl, path)
    spoil(path)
    with caplog.at_level(logging.ERROR):
        assert not await models.refresh(gateway_db.rl)
        assert not await models.refresh(gateway_db.rl)
    assert caplog.text.count("keeping v0.0.0") == 1, "said once, not every two seconds"
    assert "does not match its checksum" in caplog.text
    assert await said_by(models) == "v0.0.0"

    started = ServedModels(settings)
    assert await started.refresh(gateway_db.rl) and started.version == "v0.0.0"
    assert started.serving is not None and "checksum" in started.serving.notes[0]
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        await ServedModels(choose(settings, rl_fallback_to_base=False)).refresh(gateway_db.rl)

    shutil.copy(Path(whole) / "model.safetensors", path / "model.safetensors")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + RETRY_SECONDS)
    assert await models.refresh(gateway_db.rl) and models.version == "v0.0.1", "once it is whole it serves"


async def test_a_deployment_that_is_the_base_model_fails(
    db: Databases,
    gateway_db: Databases,
    settings: Settings,
    base_checkpoint: Path,
    checkpoints: list[Path],
    tmp_path: Path,
) -> None:
    await deployed(db.rl, checkpoints[0])
    models = ServedModels(settings)
    await models.refresh(gateway_db.rl)
    await deployed(db.rl, copied(base_checkpoint, tmp_path / "copy"))
    assert not await models.refresh(gateway_db.rl) and models.version == "v0.0.1"
    now = await current(db.rl)
    assert now is not None and now.version == "v0.0.1"
    assert (
        now.reason is not None and "the canary of v0.0.2 failed: it answers like the base model" in now.reason
    )
    await models.refresh(gateway_db.rl)
    assert models.version == "v0.0.1"
    passed = await db.rl.fetch("SELECT version, passed, difference FROM rl.canaries ORDER BY id")
    assert [(row["version"], row["passed"]) for row in passed[:2]] == [("v0.0.1", True), ("v0.0.2", False)]
    assert passed[0]["difference"] > 0.01 and passed[1]["difference"] < 1e-5
    assert (await registry.get(db.rl, "v0.0.2")).status == "archived"


async def test_a_first_deployment_that_fails_leaves_the_base_model(
    db: Databases, gateway_db: Databases, settings: Settings, base_checkpoint: Path, tmp_path: Path
) -> None:
    model = await deployed(db.rl, copied(base_checkpoint, tmp_path / "copy"))
    deployment = await current(db.rl)
    models = ServedModels(settings)
    assert await models.refresh(gateway_db.rl) and models.version == "v0.0.0"
    assert models.serving is not None and models.serving.notes == ()
    assert await current(db.rl) is None
    assert deployment is not None
    assert await canary.fail_deployment(db.rl, deployment.id, "another gateway saw it too") is None

    await db.rl.execute("UPDATE rl.models SET verdict = 'promoted' WHERE version = $1", model.version)
    left = await release(db, settings)
    assert not left.changed and "failed its canary" in left.reason
    await deploy(db.rl, None, model.version, reason="by hand")
    assert await ServedModels(choose(settings, gateway_canary="warn")).refresh(gateway_db.rl)
    assert (await current(db.rl)) is not None, "warn serves what enforce refuses"


def by_model(**behaviours: Behaviour) -> Behaviour:
    async def behave(request, writer) -> None:  # noqa: ANN001
        for part, behaviour in behaviours.items():
            if part in request.body.get("model", ""):
                return await behaviour(request, writer)
        await answer()(request, writer)

    return behave


async def test_a_server_of_adapters_is_checked_too(
    db: Databases, gateway_db: Databases, settings: Settings, double: UpstreamDouble, checkpoints: list[Path]
) -> None:
    server = choose(settings, gateway_upstream_url=double.url, gateway_load_lora=True, base_model="tiny-base")
    await deployed(db.rl, checkpoints[0])
    models = ServedModels(server)
    assert await models.refresh(gateway_db.rl) and models.version == "v0.0.1"
    assert await said_by(models) == "babylon-agent-v0.0.1"
    [loaded] = [request for request in double.requests if request.path.endswith("load_lora_adapter")]
    assert loaded.body == {"lora_name": "babylon-agent-v0.0.1", "lora_path": str(checkpoints[0])}

    async def like_base(request, writer) -> None:  # noqa: ANN001 - an adapter that was not loaded
        named = request.body.get("model")
        request.body["model"] = "tiny-base"
        from babylon_rl_tests.serving.doubles import completion, reply

        body = completion(request.body) | {"model": named}
        await reply(200, msgspec.json.encode(body))(request, writer)

    double.behave = by_model(**{"v0.0.2": like_base})
    await deployed(db.rl, checkpoints[1])
    assert not await models.refresh(gateway_db.rl) and models.version == "v0.0.1"
    assert "answers like the base" in await last_canary(db)

    double.behave = by_model(**{"v0.0.3": under_another_name})
    await deployed(db.rl, checkpoints[1])
    assert not await models.refresh(gateway_db.rl) and models.version == "v0.0.1"
    assert "it answers as 'babylon-agent-v0.0.1'" in await last_canary(db)
    await models.close()


async def under_another_name(request, writer) -> None:  # noqa: ANN001
    request.body["model"] = "babylon-agent-v0.0.1"
    await answer()(request, writer)


async def last_canary(db: Databases) -> str:
    return str(await db.rl.fetchval("SELECT reason FROM rl.canaries ORDER BY id DESC LIMIT 1"))


async def test_a_server_that_is_away_proves_nothing(
    db: Databases, gateway_db: Databases, settings: Settings, double: UpstreamDouble, checkpoints: list[Path]
) -> None:
    server = choose(settings, gateway_upstream_url=double.url, base_model="tiny-base")
    await deployed(db.rl, checkpoints[0])
    models = ServedModels(server)
    await models.refresh(gateway_db.rl)
    await deployed(db.rl, checkpoints[1])
    double.behave = by_model(**{"v0.0.2": status(503)})
    assert not await models.refresh(gateway_db.rl) and models.version == "v0.0.1"
    now = await current(db.rl)
    assert now is not None and now.version == "v0.0.2", "it is tried again, not taken back"
    assert await db.rl.fetchval("SELECT count(*) FROM rl.canaries WHERE version = 'v0.0.2'") == 0

    double.behave = None
    later = ServedModels(server)
    assert await later.refresh(gateway_db.rl) and later.version == "v0.0.2"
    double.behave = by_model(**{"v0.0.2": status(503)})
    restarted = ServedModels(server)
    assert await restarted.refresh(gateway_db.rl) and restarted.version == "v0.0.2", "it passed before"
    for each in (models, later, restarted):
        await each.close()


async def test_a_server_that_refuses_an_adapter(
    db: Databases, gateway_db: Databases, settings: Settings, double: UpstreamDouble, checkpoints: list[Path]
) -> None:
    server = choose(
        settings, gateway_upstream_url=double.url, gateway_load_lora=True, rl_fallback_to_base=False
    )
    await deployed(db.rl, checkpoints[0])
    double.next(status(404, "LoRA is not enabled"))
    from babylon_rl.serving.targets import AdapterError

    with pytest.raises(AdapterError, match="LoRA is not enabled.*--enable-lora"):
        await ServedModels(server).refresh(gateway_db.rl)
    double.next(status(400, "The lora adapter has already been loaded"))
    models = ServedModels(choose(settings, gateway_upstream_url=double.url, gateway_load_lora=True))
    assert await models.refresh(gateway_db.rl) and models.version == "v0.0.1"
    await models.close()


async def test_settings_that_contradict_each_other(settings: Settings) -> None:
    for changes in (
        {"gateway_upstream_kind": "vllm"},
        {"gateway_upstream_kind": "embedded", "gateway_upstream_url": "http://127.0.0.1:1/v1"},
    ):
        with pytest.raises(GatewaySetupError, match="GATEWAY_UPSTREAM"):
            ServedModels(choose(settings, **changes))


async def test_wandb_serves_what_it_trained(
    db: Databases, gateway_db: Databases, settings: Settings, double: UpstreamDouble
) -> None:
    path = "wandb-artifact:///team/babylon/agent:step3"
    model = await registry.register(db.rl, parent_version="v0.0.0", storage_path=path)
    await deploy(db.rl, None, model.version, reason="test", verdict_required=False)
    wandb = choose(
        settings,
        gateway_upstream_kind="wandb",
        gateway_upstream_url=double.url,
        wandb_api_key="wandb-key",
        wandb_entity="team",
        wandb_project="babylon",
        base_model="OpenPipe/Qwen3-14B-Instruct",
    )
    models = ServedModels(wandb)
    assert await models.refresh(gateway_db.rl) and await said_by(models) == path
    assert {request.body["model"] for request in double.requests} == {path, "OpenPipe/Qwen3-14B-Instruct"}
    sent = double.requests[-1]
    assert sent.headers["authorization"] == "Bearer wandb-key"
    assert sent.headers["openai-project"] == "team/babylon"
    assert sent.body["logprobs"] is True and "return_token_ids" not in sent.body
    await models.close()
    with pytest.raises(GatewaySetupError, match="W&B Inference does not serve"):
        await deploy_elsewhere(db)
        await ServedModels(wandb.model_copy(update={"rl_fallback_to_base": False})).refresh(gateway_db.rl)


async def deploy_elsewhere(db: Databases) -> None:
    model = await registry.register(db.rl, parent_version="v0.0.0", storage_path="file:///here")
    await deploy(db.rl, None, model.version, reason="test", verdict_required=False)


async def test_the_base_model_on_a_server_of_its_own(
    db: Databases, gateway_db: Databases, settings: Settings, double: UpstreamDouble, checkpoints: list[Path]
) -> None:
    apart = choose(settings, gateway_fallback_url=double.url, gateway_fallback_model="llama-base")
    await deployed(db.rl, checkpoints[0])
    models = ServedModels(apart)
    assert await models.refresh(gateway_db.rl) and await said_by(models) == "v0.0.1"
    assert double.requests == [], (
        "the canary compares with the base model beside it, not with another server's"
    )
    assert models.serving is not None and await said_by_state(models.serving, "v0.0.0") == "llama-base"
    assert "llama-base" in models.serving.base_names
    await models.close()
