"""What `babylon train` shows: the bar of a training, a unit in doubt."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from babylon_rl.commands.support import err, out

if TYPE_CHECKING:
    from babylon_rl.training.resolve import Doubt


@contextmanager
def training_bar() -> Iterator[None]:
    """A progress bar of whatever this process trains: steps, tokens per second, time left."""
    from rich.progress import BarColumn, Progress, TextColumn

    from babylon_rl.training.progress import Pace, watching

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def show(name: str, pace: Pace) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=pace.total, pace="")
            progress.update(tasks[name], total=pace.total, completed=pace.done, pace=str(pace))

        with watching(show):
            yield


def print_doubt(doubt: "Doubt") -> None:
    """Print a unit in doubt and the chunk that it stands at."""
    unit, chunk = doubt.unit, doubt.chunk
    out.print(
        f"{unit.unit_key[:16]}  {unit.day or ''}  {unit.backend}  {unit.status}  parent {unit.parent_version}"
    )
    if unit.error:
        out.print(f"  {unit.error}")
    if chunk is not None:
        job = f", job {chunk.external_job_id}" if chunk.external_job_id else ""
        out.print(
            f"  chunk {chunk.chunk + 1} of {chunk.chunks}: {chunk.status}{job}; {chunk.trajectories} "
            f"trajectories, {chunk.tokens} tokens; the service was at step {chunk.step_before}"
        )
