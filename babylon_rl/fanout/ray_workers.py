"""Workers on a Ray cluster.

Ray retries a task whose worker or node died, on whatever node is left. Before the first task every node is
asked what code it has, and every task compares again, because nodes come and go. Ray is imported here only.
"""

import asyncio
import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

from babylon_rl.errors import BabylonError
from babylon_rl.fanout.errors import FanoutError, TaskError, WrongCodeError
from babylon_rl.fanout.identity import differences, make_probe
from babylon_rl.fanout.ray_desk import open_desk
from babylon_rl.fanout.ray_errors import explained
from babylon_rl.fanout.workers import Desk, Handle, Item, Result, Shared

logger = logging.getLogger(__name__)

RETRIES = 5
"""Workers that one task may lose."""
PROBE_SECONDS = 120.0
"""A node that gives no sign of life for so long cannot be used."""
CONNECT_SECONDS = 5.0
JOIN_SECONDS = 60.0
LOOK_EVERY = 5.0
NO_WORKER_SECONDS = 60.0
"""So long tasks wait for a cluster whose last worker was lost; one that scales itself brings another."""
SAME_CODE = (
    "Give every node the same checkout and the versions of constraints.txt (one image, or a runtime_env)."
)

_users = 0
_ours = False


class RayShared:
    """A value in the object store."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def get(self) -> Any:
        return import_module("ray").get(self._reference)


class RayWorkers:
    """The cluster that this process is connected to.

    Args:
        ray: The module.
        most: Tasks at the same time; None for as many as the cluster has CPUs.
    """

    def __init__(self, ray: Any, most: int | None = None) -> None:
        self._ray, self._most = ray, most
        self._places = asyncio.Semaphore(most) if most is not None else None
        self._identity = own_identity()
        # A task that raised is not repeated: what it raised is the result.
        self._task = ray.remote(_call).options(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)

    @property
    def width(self) -> int:
        cpus = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return cpus if self._most is None else min(cpus, self._most)

    async def run(self, function: Callable[[Item], Result], item: Item) -> Result:
        if self._places is None:
            return await self._run(function, item)
        async with self._places:
            return await self._run(function, item)

    async def share(self, value: Result) -> Shared[Result]:
        with explained(self._ray):
            return RayShared(await asyncio.to_thread(self._ray.put, value))

    def desk(self, handle: Handle) -> AbstractAsyncContextManager[Desk]:
        return open_desk(self._ray, handle)

    async def check_nodes(self) -> None:
        """Asks every node that could run a task what code it has.

        Raises:
            WrongCodeError: One has none, or other.
            FanoutError: One gives no answer, or there is none.
        """
        with explained(self._ray):
            nodes = _working(await asyncio.to_thread(self._ray.nodes))
            if not nodes:
                raise FanoutError(
                    "the Ray cluster has no node with a CPU for tasks",
                    "Start a worker: `ray start --address=HEAD:6379`.",
                )
            strategies = import_module("ray.util.scheduling_strategies")
            probe = self._ray.remote(make_probe())
            asked = []
            for node in nodes:
                there = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = probe.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                asked.append((node["NodeManagerAddress"], options.remote()))
            for address, reference in asked:
                try:
                    async with asyncio.timeout(PROBE_SECONDS):
                        theirs = await asyncio.wrap_future(reference.future())
                except TimeoutError:
                    raise FanoutError(
                        f"the Ray node {address} gave no answer in {PROBE_SECONDS:g} s",
                        "Look at its logs, or take it out of the cluster; then run this again.",
                    ) from None
                except _gone(self._ray):
                    logger.warning("the Ray node %s was lost a moment ago; going on without it", address)
                    continue
                _compare(address, self._identity, theirs)

    async def _run(self, function: Callable[[Item], Result], item: Item) -> Result:
        with explained(self._ray):
            reference = await asyncio.to_thread(self._task.remote, self._identity, function, item)
            try:
                found = await self._wait(asyncio.wrap_future(reference.future()))
            except asyncio.CancelledError:
                self._ray.cancel(reference)
                raise
        if isinstance(found, _Failed):
            raise found.error
        return found

    async def _wait(self, future: asyncio.Future[Any]) -> Any:
        alone_since: float | None = None
        while not (await asyncio.wait({future}, timeout=LOOK_EVERY))[0]:
            if _working(await asyncio.to_thread(self._ray.nodes)):
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
                logger.warning("the Ray cluster has lost its last worker; waiting for another one")
            elif time.monotonic() - alone_since > NO_WORKER_SECONDS:
                raise FanoutError(
                    "the Ray cluster has lost its last worker",
                    "Start workers and run this again; what was finished is kept.",
                )
        return future.result()


class _Failed:
    """What a task raised; as a value, so that it arrives as it was."""

    def __init__(self, error: BabylonError) -> None:
        self.error = error


def _call(expected: dict[str, str], function: Callable[[Any], Any], item: Any) -> Any:
    """A task, on its worker."""
    try:
        _compare(socket.gethostname(), expected, own_identity())
        return function(item)
    except BabylonError as error:
        return _Failed(_travelling(error))


def _travelling(error: BabylonError) -> BabylonError:
    """The error, or its line where its class cannot be pickled."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # an __init__ of its own may refuse in any way
        logger.debug("%s does not travel", type(error).__name__)
    return TaskError(error.problem, error.remedy)


@lru_cache(maxsize=1)
def own_identity() -> dict[str, str]:
    return make_probe()()


def _compare(node: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    found = differences(ours, theirs)
    if found is not None:
        raise WrongCodeError(f"the Ray node {node} {found}", SAME_CODE)


def _gone(ray: Any) -> tuple[type[Exception], ...]:
    """What asking a node comes to that died and is still on the list."""
    e = ray.exceptions
    return e.TaskUnschedulableError, e.WorkerCrashedError, e.NodeDiedError


def _working(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


@asynccontextmanager
async def open_ray(address: str, most: int | None = None) -> AsyncIterator[RayWorkers]:
    """Joins a running cluster; leaves it when the last user of this process is done.

    Args:
        address: `host:port` of the head, or `auto` for the one on this machine.
        most: Tasks at the same time; None for as many as the cluster has CPUs.

    Raises:
        FanoutError: Ray is not installed, or no cluster that can be used answers there.
    """
    global _users, _ours
    ray = _load()
    if not ray.is_initialized():
        await asyncio.to_thread(_connect, ray, address)
        _ours = True
    _users += 1
    try:
        workers = RayWorkers(ray, most)
        await workers.check_nodes()
        yield workers
    finally:
        _users -= 1
        if _users == 0 and _ours:  # somebody else's connection is theirs to close
            _ours = False
            await asyncio.to_thread(ray.shutdown)


def _load() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as missing:
        if missing.name != "ray":
            raise
        raise FanoutError(
            "RAY_ADDRESS is set, but Ray is not installed",
            "Install it with `pip install -c constraints.txt 'babylon_rl[ray]'`, or leave RAY_ADDRESS out.",
        ) from None


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    if address != "auto" and (not host or not port.isdigit() or "/" in host):
        raise FanoutError(
            f"RAY_ADDRESS={address} is no address of a cluster",
            "Give host:port of its head, such as 10.0.0.1:6379, or auto for the one on this machine.",
        )
    remedy = "Start one with `ray start --head`, correct RAY_ADDRESS, or leave it out to work here."
    try:
        if address != "auto":
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        _in_time(lambda: _init(ray, address))
    except (OSError, ConnectionError, RuntimeError, ValueError) as problem:
        line = " ".join(str(problem).split())[:200] or type(problem).__name__
        if line.startswith("Version mismatch"):
            remedy = f"Install the same Python and the same Ray on both sides. {SAME_CODE}"
        raise FanoutError(f"no Ray cluster can be joined at {address}: {line}", remedy) from problem


def _init(ray: Any, address: str) -> None:
    kept = os.environ.pop("RAY_ADDRESS", None)  # Ray refuses an address that is given twice
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except BaseException:
        ray.shutdown()  # half a connection stays behind where the versions differ
        raise
    finally:
        if kept is not None:
            os.environ["RAY_ADDRESS"] = kept


def _in_time(work: Callable[[], None]) -> None:
    """Does the work in a thread that does not keep the process, for at most `JOIN_SECONDS`.

    Ray asks a server that is no head of a cluster for ever.
    """
    problems: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run, name="ray-init", daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    if thread.is_alive():
        raise ConnectionError(f"it gave no answer in {JOIN_SECONDS:g} s")
    if problems:
        raise problems[0]
