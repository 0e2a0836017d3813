"""Rollouts on two Ray nodes of this machine, and every way in which a cluster cannot be used."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import babylon_rl
from babylon_rl.benchmark.arena import contest, held_out
from babylon_rl.benchmark.crowd import crowd
from babylon_rl.benchmark.rollouts import play_here, play_shipped, ship
from babylon_rl.errors import BabylonError
from babylon_rl.fanout import FanoutError, WrongCodeError, map_tasks, ray_workers
from babylon_rl.fanout.ray_workers import open_ray
from babylon_rl.policy.chat import ChatRequest, Policy
from babylon_rl_tests.skipping import require_module
from benchmarks.parts.ray_nodes import RayNodes, ray_nodes

pytestmark = [pytest.mark.long, pytest.mark.anyio]

FOUND = {"PYTHONPATH": str(Path(__file__).parents[2])}
"""Lets workers import this file's functions."""
NO_SPILLING = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.0}
HIDE = """
import os, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path[:] = [path for path in sys.path if not os.path.isdir(os.path.join(path, "babylon_rl"))]
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    require_module("ray")
    with ray_nodes(env=FOUND, _system_config=NO_SPILLING) as started:
        started.add(env=FOUND)
        yield started


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray lets workers import from the folder in which the driver was started; so not the repository."""
    monkeypatch.chdir(tmp_path)


def refuse(number: int) -> int:
    if number == 3:
        raise BabylonError("three is not allowed", "Take four.")
    return number * number


def figures(standings: dict[str, Any]) -> dict[str, list[bytes]]:
    return {name: [s.returns.tobytes(), s.orders.tobytes()] for name, s in standings.items()}


async def test_rollouts_and_answers_are_those_of_this_process(nodes, base_checkpoint, base_engine) -> None:
    material = held_out("fanout", 600)
    here: dict[str, Policy] = {"a": base_engine, "b": base_engine}
    async with open_ray(nodes.address) as workers:
        assert workers.width == 2
        policy = await ship(workers, base_checkpoint, base_engine.version)
        there: dict[str, Policy] = {"a": policy, "b": policy}
        expected = figures(await contest(here, material, play_here))
        assert figures(await contest(there, material, play_shipped)) == expected
        ours = await crowd(base_engine, base_engine, material, 2)
        assert (await crowd(policy, policy, material, 2, play=play_shipped)).summary() == ours.summary()
        requests = [
            ChatRequest([{"role": "user", "content": f"Number {i}"}], seed=i, max_tokens=4)
            for i in range(300)
        ]
        answers = await policy.complete(requests)
        assert [a.token_ids for a in answers] == [a.token_ids for a in base_engine.sample(requests)]
        assert [a.logprobs for a in answers] == [a.logprobs for a in base_engine.sample(requests)]


async def test_a_task_s_own_error_arrives_as_it_is(nodes) -> None:
    async with open_ray(nodes.address) as workers:
        assert await map_tasks(workers, refuse, range(3)) == [0, 1, 4]
        with pytest.raises(BabylonError, match=r"three is not allowed. Take four."):
            await map_tasks(workers, refuse, range(6))


async def test_a_killed_node_loses_nothing(nodes, base_checkpoint, base_engine) -> None:
    extra = nodes.add(env=FOUND)
    material = held_out("killed", 1024)
    expected = figures(await contest({"a": base_engine}, material))
    async with open_ray(nodes.address) as workers:
        policy = await ship(workers, base_checkpoint, base_engine.version)
        running = asyncio.ensure_future(contest({"a": policy}, material, play_shipped))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(nodes.kill, extra)
        assert figures(await running) == expected


async def test_a_full_object_store_is_said_and_the_next_try_works(nodes) -> None:
    async with open_ray(nodes.address) as workers:
        with pytest.raises(FanoutError, match="of a Ray node is full.*--object-store-memory"):
            await workers.share(b"x" * (400 * 2**20))
        assert (await workers.share(b"small")).get() == b"small"


async def test_a_node_with_other_code_or_none_is_named(nodes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(babylon_rl.__file__).parent, other / "babylon_rl")
    (other / "babylon_rl/windows.py").write_text("# another version\n")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(HIDE)
    for folder, message in ((other, "has babylon_rl .* instead of"), (bare, "has no babylon_rl")):
        node = nodes.add(env={"PYTHONPATH": str(folder)})
        with pytest.raises(WrongCodeError, match=f"the Ray node .* {message}.*same checkout"):
            async with open_ray(nodes.address):
                pass
        nodes.kill(node)
    async with open_ray(nodes.address) as workers:
        assert await map_tasks(workers, refuse, [2]) == [4]


async def test_a_cluster_of_another_ray_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head writes down its version when it starts; this one says that it is older."""
    require_module("ray")
    ray = import_module("ray")
    ours = ray.__version__
    with ExitStack() as started:
        with monkeypatch.context() as another:
            another.setattr(ray, "__version__", "2.0.0")
            nodes = started.enter_context(ray_nodes())
        with pytest.raises(FanoutError, match=r"Version mismatch.*Ray: 2\.0\.0.*constraints\.txt") as refusal:
            async with open_ray(nodes.address):
                pass
        assert f"Ray: {ours}" in str(refusal.value)


@pytest.mark.parametrize("address", ["cluster", "ray://127.0.0.1:10001", "127.0.0.1:http"])
async def test_what_is_no_address_is_refused(address: str) -> None:
    require_module("ray")
    with pytest.raises(FanoutError, match="is no address of a cluster"):
        async with open_ray(address):
            pass


async def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    require_module("ray")
    monkeypatch.setattr(ray_workers, "JOIN_SECONDS", 3.0)
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(FanoutError, match="no Ray cluster can be joined.*ray start --head"):
            async with open_ray(address):  # nobody listens
                pass
        server.listen()
        with pytest.raises(FanoutError, match="it gave no answer in 3 s"):
            async with open_ray(address):  # something else does
                pass
