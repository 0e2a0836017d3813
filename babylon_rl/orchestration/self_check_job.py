"""`self_check_job`: proves the installation from the UI."""

import asyncio

import dagster as dg

from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.self_check import self_check


@dg.op(description="Plays a tiny game in a scratch database, scores one window, removes the database.")
def prove_installation(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    for line in asyncio.run(self_check(postgres.settings())):
        context.log.info(line)


@dg.job(
    description="Proves this installation: rows, snapshot, outcomes and group in a scratch database.",
    tags={"babylon/kind": "upkeep"},
)
def self_check_job() -> None:
    prove_installation()
