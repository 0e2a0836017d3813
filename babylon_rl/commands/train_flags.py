"""Which flags of `babylon train` mean something in which mode; the others are refused and not ignored."""

from collections.abc import Set

import typer

from babylon_rl.commands.support import CommandError

SHAPING = frozenset(
    {
        *("learning_rate", "min_agents", "min_actions", "target_trajectories", "max_dropout"),
        *("model", "backend", "config"),
    }
)
"""What shapes a training."""
LOOP = frozenset({"iterations", "windows_per_iteration", "poll"})

MEANT: dict[str, Set[str]] = {
    "list": {"lookback_hours", "min_agents"},
    "single": SHAPING | {"day", "window", "lookback_hours"},
    "continuous": SHAPING | LOOP | {"lookback_hours"},
}


def require_meaning(context: typer.Context, mode: str, named: str | None) -> None:
    """Refuse the first flag that was given and does nothing.

    Args:
        named: `day` or `window`, where one was named: then nothing is looked for.

    Raises:
        CommandError: A flag has no effect here; says in which mode it has one.
    """
    given = [name for name in context.params if _given(context, name) and name != "mode"]
    for name in given:
        flag = f"--{name.replace('_', '-')}"
        if name not in MEANT[mode]:
            modes = " or ".join(other for other, meant in MEANT.items() if name in meant)
            raise CommandError(f"{flag} means nothing in mode {mode}", f"Use --mode {modes}.")
        if name == "lookback_hours" and named is not None:
            raise CommandError(f"{flag} means nothing beside --{named}", "Leave one of them out.")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
