"""`babylon simulate`, `babylon spawn` and `babylon demo`."""

import asyncio
import os
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from babylon_rl.windows import parse_day

if TYPE_CHECKING:
    from babylon_rl.simulation.spawn import Spawned
    from babylon_rl.simulation.world import DaySummary

DEMO_DAYS = 10
AGENTS = 8
SEED = 7

out = Console(highlight=False, width=None if sys.stdout.isatty() else 110)

Days = Annotated[int, typer.Option(min=1, max=3650, help="How many days of the game.")]
Agents = Annotated[int, typer.Option(min=2, max=200, help="Agents that the policy plays.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides the market and every random number.")]


def simulate(
    days: Days = 1,
    agents: Agents = AGENTS,
    seed: Seed = SEED,
    start: Annotated[
        str | None,
        typer.Option(
            help="First day of a new world, YYYY-MM-DD. By default the last day is the newest settled."
        ),
    ] = None,
) -> None:
    """Let the newest checkpoint trade further days of the simulated game; same seed, same rows.

    A world that exists goes on where it ended. Needs the embedded database: a real game is never written to.
    """
    with Progress(console=out, transient=True) as progress:
        task = progress.add_task("agents trade", total=days * 24)
        summaries = asyncio.run(_simulate(days, agents, seed, start, lambda: progress.advance(task)))
    for summary in summaries:
        out.print(
            f"{summary.day}: {summary.trajectories} trajectories, {summary.orders} orders worth "
            f"{summary.value:+.2f} $, {summary.invalid} invalid answers, played by "
            f"{', '.join(summary.policy_versions)}"
        )


def spawn(
    agents: Annotated[int, typer.Option(min=1, max=1000, help="How many test agents.")] = 5,
    duration: Annotated[float, typer.Option(min=0.1, help="Minutes that they act in each window.")] = 5.0,
    windows: Annotated[int, typer.Option(min=1, max=720, help="Consecutive hours, the last one now.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Decides every number. Default: drawn, and printed.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="When they end, in UTC. Default: now.", formats=["%Y-%m-%dT%H:%M"])
    ] = None,
) -> None:
    """Make test agents with random trajectories, to try the data tools; only in a database of ours.

    They are marked isTest and left out of training; `babylon windows check --test-users` counts them.
    """
    from babylon_rl.database.connection import open_databases
    from babylon_rl.settings import get_settings
    from babylon_rl.simulation.spawn import spawn as make

    chosen = random.SystemRandom().randrange(2**31) if seed is None else seed
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)

    async def act() -> "list[Spawned]":
        made: list[Spawned] = []
        async with open_databases(get_settings()) as db:
            for hour in reversed(range(windows)):
                made += await make(
                    db.game,
                    agents=agents,
                    duration=timedelta(minutes=duration),
                    seed=chosen,
                    until=end - timedelta(hours=hour),
                )
        return made

    spawned = asyncio.run(act())
    for one in spawned:
        out.print(f"{one.window_id} {one.agent_id}: {one.steps} steps, P&L {one.final_pnl:+.2f} $")
    hours = len({one.window_id for one in spawned})
    out.print(f"{len(spawned)} trajectories of {agents} agents in {hours} windows (seed {chosen})")


def demo(days: Days = DEMO_DAYS, agents: Agents = AGENTS, seed: Seed = SEED) -> None:
    """Run the whole loop on this machine: trading, scoring, training, benchmark, deployment, one answer.

    No GPU, no key, no network. A second run reuses what is there and goes on where the first one stopped.
    """
    from babylon_rl.demo import run_demo
    from babylon_rl.settings import get_settings

    # A key or a GPU would let `auto` choose another backend, for this process and those it starts.
    os.environ["TRAINING_BACKEND"] = "embedded"
    run_demo(get_settings(), days=days, agents=agents, seed=seed, out=out)


async def _simulate(
    days: int, agents: int, seed: int, start: str | None, on_hour: Callable[[], None]
) -> "list[DaySummary]":
    from babylon_rl.database.connection import open_databases
    from babylon_rl.deployment.candidates import ensure_base
    from babylon_rl.deployment.lineage import newest_not_rejected
    from babylon_rl.deployment.storage import open_engine
    from babylon_rl.settings import get_settings
    from babylon_rl.simulation.calendar import require_settled, start_of_world
    from babylon_rl.simulation.world import ensure_world, simulate_day

    settings, now = get_settings(), datetime.now(UTC)
    async with open_databases(settings) as db:
        base = await ensure_base(db.rl, settings)
        first = parse_day(start) if start else await start_of_world(db.rl, seed, days, now)
        world = await ensure_world(db.game, db.rl, seed=seed, agents=agents, start_day=first)
        require_settled(world.next_day + timedelta(days=days - 1), now)
        engine = open_engine(await newest_not_rejected(db.rl) or base)
        return [
            await simulate_day(
                db.game, db.rl, engine, world, world.next_day, on_progress=lambda *_: on_hour()
            )
            for _ in range(days)
        ]
