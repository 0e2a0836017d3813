"""`babylon demo`: the whole loop on this machine, from recorded trading to a better model that answers.

Each simulated day is played by the newest checkpoint that was not rejected, goes through the Dagster assets,
and ends with a benchmark and, if the gate promotes the candidate, a deployment. What is there already is
reused, so that a second run continues where the first one was, even after a kill.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.judging import VaultResult, open_vault
from babylon_rl.deployment.lineage import newest_not_rejected
from babylon_rl.deployment.storage import open_engine
from babylon_rl.deployment.verdicts import BenchmarkRecord, latest_benchmark
from babylon_rl.orchestration.instance import open_instance
from babylon_rl.orchestration.runs import DAILY_JOB, HOURLY_JOB, launch_through_workspace, run_day, run_hours
from babylon_rl.settings import Settings
from babylon_rl.simulation.calendar import require_settled, start_of_world
from babylon_rl.simulation.trader import build_messages
from babylon_rl.simulation.world import ensure_world, simulate_day
from babylon_rl.windows import windows_of_day

_DAY = """
SELECT count(*) FILTER (WHERE group_status = 'scored') AS windows, sum(episodes) AS episodes,
       avg(reward_mean) AS reward
  FROM rl.window_state WHERE window_id = ANY($1::text[])
"""
_LEASE = """
SELECT extract(epoch FROM max(lease_until) - clock_timestamp())::float8 FROM rl.training_units
 WHERE day = $1 AND status = 'running' HAVING max(lease_until) > clock_timestamp()
"""
_TRAINED = "SELECT version FROM rl.trained_days WHERE day = $1 AND version IS NOT NULL"


@dataclass(frozen=True)
class DayRow:
    """One line of the final table."""

    day: date
    windows: int
    episodes: int
    reward: float
    version: str | None
    benchmark: BenchmarkRecord | None


class _Steps:
    """Progress bars: one for the days, one for what is being done now."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.days: TaskID = progress.add_task("days", total=total)
        self.current: TaskID = progress.add_task("", total=1)

    def start(self, text: str, total: int = 1) -> None:
        self.progress.reset(self.current, description=text, total=total)

    def update(self, done: int, total: int) -> None:
        self.progress.update(self.current, completed=done, total=total)

    def day_done(self) -> None:
        self.progress.advance(self.days)


def run_demo(settings: Settings, *, days: int, agents: int, seed: int, out: Console) -> None:
    """Run the demonstration and print its table.

    Raises:
        BabylonError: something is in the way; the message says what to do.
    """
    logging.getLogger("dagster").setLevel(logging.WARNING)
    started, cpu = time.monotonic(), time.process_time()
    with open_instance(settings) as instance, _progress(out, days) as steps:
        steps.start("base model: learning the answer format", 1)
        calendar = asyncio.run(_prepare(settings, days, agents, seed, steps))
        for position, day in enumerate(calendar):
            last = position == len(calendar) - 1
            _one_day(settings, instance, day, agents, seed, calendar[0], steps, through_workspace=last)
            steps.day_done()
        steps.start("vault: markets that no choice was made on")
        rows, vault = asyncio.run(_report(settings, calendar))
        steps.update(1, 1)
    _print_days(out, rows)
    _print_vault(out, vault)
    if vault is not None:
        _print_criteria(out, next(row.benchmark for row in rows if row.version == vault.version))
        asyncio.run(_ask_over_http(settings, out))
    out.print(
        f"\n{time.monotonic() - started:.0f} s, {time.process_time() - cpu:.0f} CPU seconds in this process. "
        "Next: [bold]make dev[/] opens the Dagster UI with these runs and serves the model; "
        "[bold]babylon status[/] and [bold]babylon models[/] show the same here."
    )


async def _prepare(settings: Settings, days: int, agents: int, seed: int, steps: _Steps) -> list[date]:
    """Database, base model and world; returns the days of the demonstration."""
    async with open_databases(settings) as db:
        await ensure_base(db.rl, settings, lambda step, loss, echo: steps.update(step, max(step + 1, 140)))
        now = datetime.now(UTC)
        start = await start_of_world(db.rl, seed, days, now)
        require_settled(start + timedelta(days=days - 1), now)
        await ensure_world(db.game, db.rl, seed=seed, agents=agents, start_day=start)
    return [start + timedelta(days=offset) for offset in range(days)]


def _one_day(
    settings: Settings,
    instance: dg.DagsterInstance,
    day: date,
    agents: int,
    seed: int,
    start: date,
    steps: _Steps,
    *,
    through_workspace: bool,
) -> None:
    """Simulate, score, train, judge and perhaps deploy one day; nothing that is done is done again."""
    steps.start(f"{day}: agents trade", 24)
    trained = asyncio.run(_simulate(settings, day, agents, seed, start, steps))
    if trained:
        return
    windows = windows_of_day(str(day))
    steps.start(f"{day}: trajectories, outcomes, groups")
    if through_workspace:
        launch_through_workspace(instance, HOURLY_JOB, windows[0], windows[-1])
    else:
        run_hours(instance, str(day))
    asyncio.run(_wait_for_lease(settings, day, steps))
    steps.start(f"{day}: batch, training, benchmark, gate")
    if through_workspace:
        launch_through_workspace(instance, DAILY_JOB, str(day))
    else:
        run_day(instance, str(day))


async def _simulate(
    settings: Settings, day: date, agents: int, seed: int, start: date, steps: _Steps
) -> bool:
    """Let the newest checkpoint that was not rejected play a day; returns whether the day was trained
    before.
    """
    async with open_databases(settings) as db:
        if await db.rl.fetchval(_TRAINED, day) is not None:
            return True
        model = await newest_not_rejected(db.rl, before=day) or await registry.get(db.rl, "v0.0.0")
        world = await ensure_world(db.game, db.rl, seed=seed, agents=agents, start_day=start)
        await simulate_day(db.game, db.rl, open_engine(model), world, day, on_progress=steps.update)
    return False


async def _wait_for_lease(settings: Settings, day: date, steps: _Steps) -> None:
    """A run that was killed while it trained holds the day's unit until its lease has run out."""
    async with open_databases(settings) as db:
        while (seconds := await db.rl.fetchval(_LEASE, day)) is not None:
            steps.start(f"{day}: waiting for a killed run's lease ({seconds:.0f} s)")
            await asyncio.sleep(min(1.0, seconds))


async def _report(settings: Settings, calendar: list[date]) -> tuple[list[DayRow], VaultResult | None]:
    """The table's lines, and the deployed model against the base on the vault."""
    async with open_databases(settings) as db:
        rows = []
        for day in calendar:
            facts = await db.rl.fetchrow(_DAY, windows_of_day(str(day)))
            version = await db.rl.fetchval(_TRAINED, day)
            benchmark = await latest_benchmark(db.rl, version) if version else None
            assert facts is not None  # an aggregate without GROUP BY has one row
            numbers = (facts["windows"], facts["episodes"] or 0, facts["reward"] or 0.0)
            rows.append(DayRow(day, *numbers, version, benchmark))
        active = await registry.active(db.rl)
        return rows, await open_vault(db, active.version) if active else None


async def _ask_over_http(settings: Settings, out: Console) -> None:
    """One chat completion from the deployed model, over HTTP, with the official client."""
    from openai import AsyncOpenAI

    from babylon_rl.policy.server import PolicyServer

    async with open_databases(settings) as db:
        active = await registry.active(db.rl)
        assert active is not None
        engine = open_engine(active)
    headlines = [("AURUM", "quiet"), ("BOREAL", "surge"), ("COBALT", "bearish"), ("DYNAMO", "bullish")]
    messages: Any = build_messages(headlines, 1000.0, 0)
    with PolicyServer(engine) as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key=server.api_key) as client:
            answer = await client.chat.completions.create(
                model=active.version, messages=messages, max_tokens=12, temperature=0
            )
    out.print(f"\nAsked over HTTP ({server.base_url}/chat/completions, model {answer.model}):")
    out.print("  " + messages[-1]["content"].replace("\n", "  |  "))
    out.print(f"  [bold]{answer.choices[0].message.content}[/]")


def _print_days(out: Console, rows: list[DayRow]) -> None:
    table = _table("Held-out return per hour on start equity, with the gate's interval")
    for name in (
        "day",
        "hours",
        "epis.",
        "reward",
        "base",
        "cand.",
        "vs incumbent",
        "verdict",
        "version",
    ):
        table.add_column(name, justify="left" if name in ("day", "verdict") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.day:%m-%d}",
            str(row.windows),
            str(row.episodes),
            f"{row.reward:+.4f}",
            *_benchmark_cells(row.benchmark),
            row.version or "-",
        )
    out.print(table)


def _benchmark_cells(benchmark: BenchmarkRecord | None) -> tuple[str, ...]:
    if benchmark is None:
        return ("-",) * 4
    standings = benchmark.metrics["standings"]
    difference = benchmark.metrics["verdict"]["difference"]
    return (
        f"{standings['v0.0.0']['return_mean']:+.4f}",
        f"{standings[benchmark.version]['return_mean']:+.4f}",
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}]",
        str(benchmark.verdict),
    )


def _print_criteria(out: Console, benchmark: BenchmarkRecord | None) -> None:
    """Seed 002's success criteria, as the gate's markets answer them for the deployed version."""
    if benchmark is None:
        return
    out.print(f"\nSuccess criteria of {benchmark.version} against the base model:")
    for criterion in benchmark.metrics["criteria"]:
        out.print(f"  {criterion['status']:<14} {criterion['name']}: {criterion['figure']}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)


def _print_vault(out: Console, vault: VaultResult | None) -> None:
    if vault is None:
        out.print("\nNo candidate was promoted: the gate saw no improvement that chance could not explain.")
        return
    table = _table(f"Vault: {vault.gain.n} markets, two regimes of which nothing was tuned on")
    for name in ("player", "return", "win rate", "invalid", "worst hour"):
        table.add_column(name, justify="left" if name == "player" else "right")
    for name, summary in vault.standings.items():
        table.add_row(
            f"{name} (base)" if name == "v0.0.0" else name,
            f"{summary['return_mean']:+.4f} [{summary['return_low']:+.4f}, {summary['return_high']:+.4f}]",
            f"{summary['win_rate']:.1%}" if summary["orders"] else "-",
            f"{summary['invalid_rate']:.1%}",
            f"{summary['worst_return']:+.3f}",
        )
    out.print(table)
    out.print(f"{vault.version} over the base model: {vault.gain}")


@contextmanager
def _progress(out: Console, days: int) -> Iterator[_Steps]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        yield _Steps(progress, days)
