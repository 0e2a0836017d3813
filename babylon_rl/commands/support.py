"""What the commands share: consoles, one way to wait for asynchronous work, and the databases."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from babylon_rl.errors import BabylonError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from babylon_rl.database.connection import Databases

T = TypeVar("T")

# In a pipe a table is as wide as it needs to be, so that it can be searched line by line.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandError(BabylonError):
    """A command cannot do what it was asked in the present state."""


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Runs asynchronous work to its end."""
    return asyncio.run(work)


def databases() -> "AbstractAsyncContextManager[Databases]":
    """The databases of this installation; the embedded server is started if they are there."""
    from babylon_rl.database.connection import open_databases
    from babylon_rl.settings import get_settings

    return open_databases(get_settings())
