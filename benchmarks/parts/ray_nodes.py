"""Ray nodes on this machine, for benchmarks and tests: processes of ours, ended by their ids.

with ray_nodes() as nodes:          # a head that runs one task at a time
    nodes.address                   # for RAY_ADDRESS
    worker = nodes.add()            # a second one
    nodes.kill(worker)              # SIGKILL to all of its processes
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import psutil

STORE_BYTES = 200 * 2**20
"""Memory of a node's object store."""


class RayNodes:
    """A cluster of one-CPU nodes on this machine."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        return self._cluster.address

    def add(self, cpus: int = 1, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Starts a node; its processes inherit `env` beside this process's variables."""
        with _variables(env or {}):
            return self._cluster.add_node(
                num_cpus=cpus,
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                **options,
            )

    def kill(self, node: Any) -> None:
        """Ends a node's processes, and those of its workers, as a crash of its machine does."""
        roots = [info.process.pid for infos in node.all_processes.values() for info in infos]
        found = [child for pid in roots for child in _with_children(pid)]
        for process in found:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        self._cluster.remove_node(node, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()


def _with_children(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def ray_nodes(cpus: int = 1, env: Mapping[str, str] | None = None, **options: Any) -> Iterator[RayNodes]:
    """Starts a head on free ports and ends every node with the block."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    with _variables(quiet):
        cluster = import_module("ray.cluster_utils").Cluster()
        nodes = RayNodes(cluster)
        try:
            nodes.add(cpus, env, **options)
            yield nodes
        finally:
            nodes.shutdown()
