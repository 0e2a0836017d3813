"""The self-check on a real server: it works, and leaves nothing behind."""

import asyncio

import dagster as dg

from babylon_rl.database.connection import connect
from babylon_rl.definitions import defs
from babylon_rl.settings import Settings


def test_the_job_proves_the_installation_and_leaves_nothing(settings: Settings, dsn: str):
    with dg.instance_for_test() as instance:
        assert defs.resolve_job_def("self_check_job").execute_in_process(instance=instance).success

    async def left() -> tuple[int | None, int | None]:
        connection = await connect(dsn)
        scratch = await connection.fetchval(
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'babylon_self_check%'"
        )
        rows = await connection.fetchval('SELECT count(*) FROM "trajectories"')
        await connection.close()
        return scratch, rows

    assert asyncio.run(left()) == (0, 0)
