"""Versions, lineage and verdicts."""

import asyncio
from datetime import date

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.errors import (
    BaseModelMismatchError,
    InvalidVersionError,
    ReusedSeedsError,
    UnknownVersionError,
    WrongStatusError,
)
from babylon_rl.deployment.lineage import ancestors, newest_not_rejected, parent_for_training
from babylon_rl.deployment.verdicts import candidate_number, latest_benchmark, record_benchmark
from babylon_rl.deployment.versions import Version, nearest, parse_version
from babylon_rl.training.units import TrainingUnit, claim, publish
from babylon_rl_tests.deployment.conftest import MakeModel

pytestmark = pytest.mark.anyio


def test_versions_compare_as_numbers() -> None:
    assert parse_version("v0.0.10") > parse_version("v0.0.9")
    assert str(parse_version("0.1.2")) == "v0.1.2" == str(parse_version("babylon-agent-v0.1.2"))
    assert Version(1, 2, 3).next_patch() == (1, 2, 4)
    assert nearest("v0.0.12", ["v0.0.1", "v0.0.2", "v7.7.7"])[0] in ("v0.0.1", "v0.0.2")


@pytest.mark.parametrize(
    "text", ["", "v1", "v1.2", "v01.2.3", "v1.2.3.4", "latest", "v1.2.-3", "v1.2.3 OR true"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidVersionError, match="is not a version"):
        parse_version(text)


async def test_the_base_is_registered_once(rl: asyncpg.Connection) -> None:
    base = await registry.ensure_base(rl, base_model="tiny", storage_path="file:///elsewhere")
    assert (base.version, base.model_id, base.status) == ("v0.0.0", "babylon-agent-v0.0.0", "ready")
    assert base.storage_path == "file:///elsewhere" and base.is_base
    assert (await registry.ensure_base(rl, base_model="tiny")).storage_path == "file:///elsewhere"
    with pytest.raises(BaseModelMismatchError, match="grows on tiny, not on other"):
        await registry.ensure_base(rl, base_model="other")


async def test_versions_follow_the_numerically_newest(rl: asyncpg.Connection, make: MakeModel) -> None:
    for _ in range(10):
        newest = await make(None)
    assert newest.version == "v0.0.10"
    assert (await make(None)).version == "v0.0.11"
    assert [model.version for model in await registry.list_models(rl)][:2] == ["v0.0.11", "v0.0.10"]
    assert (await registry.get(rl, "babylon-agent-v0.0.11")).base_model == "tiny"


async def test_simultaneous_registrations_get_different_versions(rl: asyncpg.Connection, dsn: str) -> None:
    connections = [await connect(dsn) for _ in range(5)]

    async def register(connection: asyncpg.Connection, number: int) -> str:
        async with connection.transaction():
            model = await registry.register(
                connection, parent_version="v0.0.0", storage_path=None, unit_key=f"unit {number}"
            )
            await asyncio.sleep(0.02)
            return model.version

    versions = await asyncio.gather(*(register(c, i) for i, c in enumerate(connections)))
    for connection in connections:
        await connection.close()
    assert sorted(versions) == [f"v0.0.{i}" for i in range(1, 6)]


async def test_a_rolled_back_registration_leaves_no_gap(rl: asyncpg.Connection, make: MakeModel) -> None:
    with pytest.raises(RuntimeError):
        async with rl.transaction():
            await make(None)
            raise RuntimeError
    assert (await make(None)).version == "v0.0.1"


async def test_a_unit_has_one_model(make: MakeModel) -> None:
    first = await make(None, unit_key="k", manifest={"seed": 1}, metrics={"loss": float("nan")})
    assert await make(None, unit_key="k") == first
    assert first.manifest == {"seed": 1} and first.metrics == {"loss": None}


async def test_an_unknown_version_lists_near_ones(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make(None)
    with pytest.raises(
        UnknownVersionError, match=r"no model v0.0.3. Registered are, among others: v0.0.1, v0.0.0"
    ):
        await registry.get(rl, "0.0.3")
    with pytest.raises(UnknownVersionError):
        await registry.register(rl, parent_version="v1.0.0", storage_path=None)


async def test_statuses_have_an_order(rl: asyncpg.Connection, make: MakeModel) -> None:
    model = await make(None, status="training", storage_path=None)
    ready = await registry.set_status(rl, model.version, "ready", storage_path="file:///done")
    assert (ready.status, ready.storage_path) == ("ready", "file:///done")
    with pytest.raises(WrongStatusError, match="is ready and cannot become training"):
        await registry.set_status(rl, model.version, "training")
    with pytest.raises(WrongStatusError, match="babylon deploy"):
        await registry.set_status(rl, model.version, "deployed")


async def test_the_parent_is_the_base_first_and_then_the_newest_checkpoint(
    rl: asyncpg.Connection, make: MakeModel
) -> None:
    assert (await parent_for_training(rl)).model.version == "v0.0.0"
    await make("promoted")
    await make("inconclusive", parent="v0.0.1")
    choice = await parent_for_training(rl)
    assert choice.model.version == "v0.0.2" and "inconclusive" in choice.reason


async def test_a_rejected_checkpoint_and_what_grew_on_it_are_passed_over(
    rl: asyncpg.Connection, make: MakeModel
) -> None:
    await make("inconclusive")
    await make("rejected", parent="v0.0.1")
    await make(None, parent="v0.0.2")
    assert (await parent_for_training(rl)).model.version == "v0.0.1"
    await make("inconclusive", parent="v0.0.3")  # judged on its own: whatever it grew on, it is not bad
    assert (await parent_for_training(rl)).model.version == "v0.0.4"
    assert [model.version for model in await ancestors(rl, "v0.0.4")] == [
        "v0.0.4",
        "v0.0.3",
        "v0.0.2",
        "v0.0.1",
        "v0.0.0",
    ]


async def test_unfinished_and_failed_checkpoints_are_no_parents(
    rl: asyncpg.Connection, make: MakeModel
) -> None:
    await make(None, status="training")
    failed = await make(None)
    await registry.set_status(rl, failed.version, "failed")
    assert await newest_not_rejected(rl) is None
    assert (await parent_for_training(rl)).reason.startswith("base model")


async def test_an_earlier_day_does_not_start_from_a_later_ones_result(
    rl: asyncpg.Connection, make: MakeModel
) -> None:
    await make("promoted", day=date(2026, 10, 1))
    await make("promoted", day=date(2026, 10, 2))
    assert (await parent_for_training(rl, date(2026, 10, 3))).model.version == "v0.0.2"
    assert (await parent_for_training(rl, date(2026, 10, 2))).model.version == "v0.0.1"
    await deploy(rl, None, "v0.0.2", reason="better")
    assert (await parent_for_training(rl, date(2026, 10, 1))).model.version == "v0.0.0"


async def _train(rl: asyncpg.Connection, day: date, batch: str, parent: str) -> str:
    unit = TrainingUnit(batch, parent, {}, "embedded", day)

    async def register(connection: asyncpg.Connection) -> str:
        model = await registry.register(
            connection, parent_version=parent, storage_path="file:///x", unit_key=unit.key, day=day
        )
        return model.version

    return await publish(rl, await claim(rl, unit, owner="test"), register)


async def test_a_day_keeps_the_parent_it_was_trained_from_and_branches_do_not_count(
    rl: asyncpg.Connection,
) -> None:
    first, second = date(2026, 10, 1), date(2026, 10, 2)
    assert await _train(rl, first, "batch 1", "v0.0.0") == "v0.0.1"
    assert await _train(rl, second, "batch 2", "v0.0.1") == "v0.0.2"
    assert await _train(rl, second, "batch 2, more rows", "v0.0.0") == "v0.0.3"
    assert (await parent_for_training(rl, date(2026, 10, 3))).model.version == "v0.0.2"
    repeated = await parent_for_training(rl, second)
    assert repeated.model.version == "v0.0.1" and "was trained from it" in repeated.reason


async def test_without_a_base_there_is_no_parent(connection: asyncpg.Connection) -> None:
    with pytest.raises(UnknownVersionError, match="Register the base model first"):
        await parent_for_training(connection)


async def test_a_first_verdict_stands(rl: asyncpg.Connection, make: MakeModel) -> None:
    model = await make("inconclusive")
    again = await record_benchmark(
        rl,
        version=model.version,
        incumbent="v0.0.0",
        purpose="gate",
        seed_key=f"seeds of {model.version}",
        windows=512,
        metrics={"benchmark_score": 9.9},
        verdict="promoted",
    )
    assert (again.verdict, again.windows) == ("inconclusive", 128)
    judged = await registry.get(rl, model.version)
    assert judged.verdict == "inconclusive" and judged.metrics["benchmark"]["benchmark_score"] == 0.03
    latest = await latest_benchmark(rl, model.version)
    assert latest == again and await latest_benchmark(rl, model.version, "vault") is None


async def test_held_out_markets_judge_one_model(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make("inconclusive")
    other = await make(None)
    with pytest.raises(ReusedSeedsError, match=r"seeds of v0.0.1 already judged v0.0.1, not v0.0.2"):
        await record_benchmark(
            rl,
            version=other.version,
            incumbent="v0.0.0",
            purpose="gate",
            seed_key="seeds of v0.0.1",
            windows=1,
            metrics={},
        )


async def test_the_vault_gives_no_verdict(rl: asyncpg.Connection, make: MakeModel) -> None:
    for model in (await make("promoted"), await make("promoted")):
        record = await record_benchmark(
            rl,
            version=model.version,
            incumbent=None,
            purpose="vault",
            seed_key="the vault",
            windows=256,
            metrics={"benchmark_score": float("inf")},
        )
        assert record.metrics == {"benchmark_score": None}
        assert (await registry.get(rl, model.version)).verdict == "promoted"


async def test_the_budget_counts_candidates_of_one_reign(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make("inconclusive")
    await make("inconclusive")
    assert await candidate_number(rl, "v0.0.3", "v0.0.0") == 3
    assert await candidate_number(rl, "v0.0.1", "v0.0.0") == 1
    assert await candidate_number(rl, "v0.0.3", "v0.0.2") == 1
