"""Work on other machines: tasks on a Ray cluster where there is one, and nothing of Ray where there is none.

    async with open_workers(settings) as workers:        # None without RAY_ADDRESS
        results = await map_tasks(workers, function, items)

`function` is a module-level function of an importable module; items and results are pickled. A task may be
run more than once, because workers are lost: it must not matter.
"""

from babylon_rl.fanout.errors import FanoutError, TaskError, WrongCodeError
from babylon_rl.fanout.workers import Desk, Shared, Workers, map_tasks, open_workers

__all__ = [
    "Desk",
    "FanoutError",
    "Shared",
    "TaskError",
    "Workers",
    "WrongCodeError",
    "map_tasks",
    "open_workers",
]
