"""Does a cluster pay? Benchmark rollouts on one and two Ray workers against this process, and after a kill.

    python benchmarks/scale_out.py [--quick] [--json]        # needs the extra `ray`

Two Ray nodes of one CPU each are started on this machine. After a warm-up that loads the checkpoint on both,
the comparison of the gate (two policies on the same held-out markets) is played in turns: in this process,
with one task at a time, with two. Then once more while the second node and all of its processes are killed in
the middle. Every result has to equal this process's own, bit for bit.

The baseline is `play_here`, what runs without RAY_ADDRESS: one thread of one process.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from parts.machine import machine
from parts.ray_nodes import RayNodes, ray_nodes

from babylon_rl.benchmark.arena import GATE_WINDOWS, Standing, contest, held_out
from babylon_rl.benchmark.rollouts import play_here, play_shipped, ship
from babylon_rl.fanout.ray_workers import open_ray
from babylon_rl.policy.chat import Policy
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.training.tiny_base import ensure_base_model

NAMES = ("candidate", "incumbent")
Round = Callable[[], Awaitable[dict[str, Standing]]]


async def measure(windows: int, rounds: int) -> dict[str, Any]:
    """Plays all rounds and returns the figures."""
    with tempfile.TemporaryDirectory() as home, ray_nodes() as nodes:
        checkpoint = ensure_base_model(Path(home))
        second = nodes.add()
        engine = EmbeddedEngine.load(checkpoint, "v0.0.0")
        material = held_out("scale-out", windows)
        here: dict[str, Policy] = dict.fromkeys(NAMES, engine)
        async with open_ray(nodes.address, most=1) as one, open_ray(nodes.address) as two:
            single: dict[str, Policy] = dict.fromkeys(NAMES, await ship(one, checkpoint, "v0.0.0"))
            double: dict[str, Policy] = dict.fromkeys(NAMES, await ship(two, checkpoint, "v0.0.0"))
            kinds: dict[str, Round] = {
                "local": lambda: contest(here, material, play_here),
                "one": lambda: contest(single, material, play_shipped),
                "two": lambda: contest(double, material, play_shipped),
            }
            seconds: dict[str, list[float]] = {name: [] for name in kinds}
            expected, identical = outcome(await kinds["local"]()), True
            for _ in range(2):  # warms both workers: engines, imports, allocator
                identical &= outcome(await kinds["two"]()) == expected
            for _ in range(rounds):
                for name, play in kinds.items():
                    started = time.perf_counter()
                    identical &= outcome(await play()) == expected
                    seconds[name].append(time.perf_counter() - started)
            lost, kill_seconds = await after_kill(nodes, second, kinds["two"], expected, seconds["two"])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "speedup_2_workers": middle["one"] / middle["two"],
        "overhead_1_worker": middle["one"] / middle["local"] - 1,
        "lost_after_kill": lost,
        "identical": identical,
        "seconds": middle,
        "all_seconds": seconds,
        "seconds_with_kill": kill_seconds,
        "rollouts_per_second": {name: windows * len(NAMES) / value for name, value in middle.items()},
        "windows": windows,
        "rounds": rounds,
    }


async def after_kill(
    nodes: RayNodes, node: Any, play: Round, expected: dict[str, bytes], usual: list[float]
) -> tuple[int, float]:
    """Kills a node in the middle; returns the rollouts that are missing or differ, and the seconds."""
    started = time.perf_counter()
    running = asyncio.ensure_future(play())
    await asyncio.sleep(statistics.median(usual) / 3)
    assert not running.done()
    await asyncio.to_thread(nodes.kill, node)
    standings = await running
    seconds = time.perf_counter() - started
    found = outcome(standings)
    lost = sum(
        sum(a != b for a, b in zip(found.get(name, b""), content, strict=False))
        + abs(len(found.get(name, b"")) - len(content))
        for name, content in expected.items()
    )
    return lost, seconds


def outcome(standings: dict[str, Standing]) -> dict[str, bytes]:
    """All arrays of all standings, as bytes."""
    return {
        name: b"".join(
            getattr(standing, column).tobytes()
            for column in ("returns", "orders", "wins", "well_timed", "invalid")
        )
        for name, standing in standings.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer markets and rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    windows, rounds = (512, 2) if arguments.quick else (GATE_WINDOWS, 7)
    result = asyncio.run(measure(windows, rounds))
    result |= {"quick": arguments.quick, "machine": machine("ray", "dagster-ray", "torch", "numpy")}
    print(f"{windows} markets, {len(NAMES)} policies, medians of {rounds} rounds in turns")
    for name, label in (("local", "this process"), ("one", "one Ray worker"), ("two", "two Ray workers")):
        print(
            f"  {label:16} {result['seconds'][name]:7.2f} s "
            f"{result['rollouts_per_second'][name]:8.0f} rollouts/s"
        )
    print(f"speedup of two workers      {result['speedup_2_workers']:.2f}x   (at least 1.4)")
    print(f"overhead of one worker      {result['overhead_1_worker']:+.1%}  (at most 15 %)")
    print(f"lost after a node's kill    {result['lost_after_kill']}       (0)")
    print(f"identical to this process   {result['identical']}    (True)")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
