"""`babylon replay`: a recorded trajectory, and what another model would have answered."""

import json
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.deployment.side_by_side import Replayed
    from babylon_rl.policy.chat import Policy

SHOWN = 400
"""Characters of an answer that the table shows."""


def replay(
    trajectory: Annotated[str, typer.Argument(help="Id of a recorded trajectory.")],
    model: Annotated[
        str, typer.Option(help="Version such as v0.1.0; with --url, the model's name at that server.")
    ],
    url: Annotated[
        str | None, typer.Option(help="Any OpenAI-compatible server, with /v1. Default: the checkpoint here.")
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Variable with that server's key.")
    ] = "GATEWAY_UPSTREAM_API_KEY",
    sample: Annotated[
        bool, typer.Option("--sample", help="Sample at the recorded temperature, not the likeliest answer.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Fixes what is sampled.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page.")] = None,
) -> None:
    """Show what another model would have answered at each recorded step, side by side."""
    from babylon_rl.deployment.side_by_side import replay_trajectory

    async def work() -> "Replayed":
        async with databases() as db:
            policy = await _policy(db.rl, model, url, api_key_env)
            return await replay_trajectory(
                db.game, trajectory, policy, temperature=None if sample else 0.0, seed=seed
            )

    if as_json:
        replayed = wait(work())
        typer.echo(json.dumps(replayed.to_json(), ensure_ascii=False))
    else:
        with out.status(f"{model} answers"):
            replayed = wait(work())
        _print(replayed)
    if html is not None:
        try:
            html.write_text(_page(replayed), encoding="utf-8")
        except OSError as problem:
            raise CommandError(
                f"{html} cannot be written: {problem.strerror}", "Name another file."
            ) from None
        if not as_json:
            out.print(f"page: {html}", markup=False)


async def _policy(rl: object, model: str, url: str | None, api_key_env: str) -> "Policy":
    from typing import cast

    import asyncpg

    from babylon_rl.deployment.registry import get
    from babylon_rl.deployment.storage import open_engine
    from babylon_rl.policy.remote import RemotePolicy

    if url is not None:
        return RemotePolicy(model, url, model, os.environ.get(api_key_env))
    return open_engine(await get(cast(asyncpg.Connection, rl), model))


def _print(replayed: "Replayed") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for title in ("step", "time", "recorded", replayed.version, "same"):
        table.add_column(title, overflow="fold", no_wrap=title in ("step", "same"))
    for call in replayed.calls:
        then = Text.assemble(
            (f"{call.model}\n", "dim"), _cut(call.recorded), (f"\n→ {call.recorded_decision}", "cyan")
        )
        if call.answer is None:
            now = Text(call.problem or "no answer", style="red")
        else:
            now = Text.assemble(("\n", "dim"), _cut(call.answer), (f"\n→ {call.decision}", "cyan"))
        mark = {True: "[green]yes[/]", False: "[yellow]no[/]", None: "–"}[call.same]
        table.add_row(str(call.step), f"{call.at:%H:%M:%S}" if call.at else "–", then, now, mark)
    out.print(
        f"trajectory {replayed.trajectory_id} of {replayed.agent_id}, window {replayed.window_id}",
        markup=False,
    )
    out.print(table)
    out.print(
        f"{replayed.version} answered {replayed.answered} of {len(replayed.calls)} recorded calls; "
        f"{replayed.same} are the same decision",
        markup=False,
    )


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _page(replayed: "Replayed") -> str:
    """A page of its own, without anything from elsewhere."""
    rows = "".join(
        f"<tr class={'same' if call.same else 'other'}><td>{call.step}<td>{call.at or '–'}"
        f"<td><small>{escape(call.model)}</small><pre>{escape(call.recorded)}</pre>{escape(call.recorded_decision)}"
        f"<td><pre>{escape(call.answer if call.answer is not None else call.problem or '')}</pre>"
        f"{escape(call.decision or 'no answer')}"
        f"<tr><td colspan=4><details><summary>prompt</summary><pre>{escape(call.prompt)}</pre></details>"
        for call in replayed.calls
    )
    title = f"{replayed.trajectory_id}: {replayed.version} beside the record"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>
<style>body{{font:15px system-ui,sans-serif;margin:24px;color-scheme:light dark}}
table{{border-collapse:collapse;width:100%}}
td,th{{text-align:left;vertical-align:top;padding:8px;border-top:1px solid #8884}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}}.other td{{background:#f5a62322}}</style>
<h1>{escape(title)}</h1>
<p>{escape(replayed.agent_id)}, window {escape(replayed.window_id)}: {replayed.same} of {replayed.answered}
answers are the same decision.</p>
<table><thead><tr><th>Step<th>Time<th>Recorded<th>{escape(replayed.version)}</thead><tbody>{rows}</tbody></table>
</html>
"""
