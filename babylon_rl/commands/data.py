"""`babylon archive`, `restore`, `export` and `forget`."""

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from babylon_rl.commands.support import CommandError, databases, err, out, wait

if TYPE_CHECKING:
    import asyncpg

    from babylon_rl.deployment.forget import Forgetting
    from babylon_rl.records.archive import Archived, Restored
    from babylon_rl.records.store import ArtifactStore
    from babylon_rl.training.export import Exported

KILOBYTE = 1024


class DatasetForm(StrEnum):
    """What a dataset's files are."""

    openai = "openai"
    art = "art"
    groups = "groups"
    parquet = "parquet"


WindowArguments = Annotated[
    list[str] | None, typer.Argument(help="Window ids such as 2026-10-01T14:00.", show_default=False)
]
Place = Annotated[
    str | None,
    typer.Option("--place", help="Folder or s3://bucket/prefix. Default: BABYLON_HOME/archives."),
]


def archive(
    window_ids: WindowArguments = None,
    day: Annotated[str | None, typer.Option(help="All windows of a day, YYYY-MM-DD.")] = None,
    older_than: Annotated[
        int | None, typer.Option(min=1, help="All windows that ended so many days ago or earlier.")
    ] = None,
    place: Place = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Then delete the local files of windows whose day was trained.")
    ] = False,
) -> None:
    """Copy windows (rows, call logs, snapshot, group, scores, outcomes) to a private place, verified."""
    from babylon_rl.records.archive import archive_window, prune_window
    from babylon_rl.records.archive_files import ArchiveError
    from babylon_rl.records.places import open_place
    from babylon_rl.records.reader import refresh_window_rows
    from babylon_rl.settings import get_settings

    settings = get_settings()
    target = open_place(place or str(settings.home / "archives"), settings)

    async def act() -> "tuple[list[Archived], int, int]":
        done: list[Archived] = []
        freed = kept = 0
        async with databases() as db:
            await refresh_window_rows(db.game, db.rl)
            selected = await _selected_windows(db.rl, window_ids or [], day, older_than)
            for window_id in track(selected, "Archive", console=err):
                done.append(await archive_window(db.game, db.rl, _store(), target, window_id))
                if prune:
                    try:
                        freed += await prune_window(db.rl, _store(), done[-1], window_id)
                    except ArchiveError:
                        kept += 1
        return done, freed, kept

    done, freed, kept = wait(act())
    size = sum(one.bytes for one in done) // KILOBYTE
    new = sum(one.is_new for one in done)
    out.print(f"{len(done)} windows archived ({new} anew, {size} KiB) at {target.url}", soft_wrap=True)
    if prune:
        out.print(f"{freed // KILOBYTE} KiB freed here; {kept} windows kept because their day is not trained")


def restore(
    window_ids: Annotated[list[str], typer.Argument(help="Window ids such as 2026-10-01T14:00.")],
    place: Place = None,
    game_rows: Annotated[
        bool, typer.Option("--game-rows", help="Also insert the game's rows that are missing there.")
    ] = False,
) -> None:
    """Bring archived windows back; what is there is kept as it is."""
    from babylon_rl.records.archive import restore_window
    from babylon_rl.records.places import open_place
    from babylon_rl.records.reader import BEGINNING, refresh_window_rows
    from babylon_rl.settings import get_settings

    settings = get_settings()
    source = open_place(place or str(settings.home / "archives"), settings)

    async def act() -> "list[Restored]":
        async with databases() as db:
            done = [
                await restore_window(db.game, db.rl, _store(), source, window_id, game_rows=game_rows)
                for window_id in track(window_ids, "Restore", console=err)
            ]
            if game_rows:  # they keep the dates of their creation, which the feed would not look at again
                await refresh_window_rows(db.game, db.rl, since=BEGINNING)
            return done

    for one in wait(act()):
        out.print(
            f"{one.url}: {one.files} files, {one.pipeline_rows} rows of rl, {one.game_rows} trajectories and "
            f"{one.calls} call logs of the game came back",
            soft_wrap=True,
        )


def export(
    form: Annotated[DatasetForm, typer.Option(help="What the files are; see docs/data_tools.md.")] = (
        DatasetForm.parquet
    ),
    since: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD. Default: the oldest.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day, included. Default: the newest.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Only members of this scenario.")] = None,
    by_scenario: Annotated[bool, typer.Option("--by-scenario", help="One file per scenario.")] = False,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Leave out days that were trained here.")
    ] = False,
    split: Annotated[
        str, typer.Option(help="Shares of training, validation and test, in time order.")
    ] = "0.8,0.1,0.1",
    embargo: Annotated[
        float | None, typer.Option(min=0, help="Hours between splits. Default: TRAINING_HORIZON.")
    ] = None,
    place: Annotated[
        str | None, typer.Option("--place", help="Folder or s3://… Default: BABYLON_HOME/exports.")
    ] = None,
) -> None:
    """Write scored groups as a dataset: OpenAI chat, ART, GRPO groups or Parquet, split by time."""
    from babylon_rl.orchestration.readiness import HORIZONS
    from babylon_rl.records.places import open_place
    from babylon_rl.settings import get_settings
    from babylon_rl.training.dataset import Selection
    from babylon_rl.training.export import export_dataset
    from babylon_rl.windows import parse_day, windows_of_day

    settings = get_settings()
    for given in (since, until):
        if given is not None:
            parse_day(given)
    selection = Selection(
        first=f"{since}T00:00" if since else "0001-01-01T00:00",
        last=windows_of_day(until)[-1] if until else "9999-12-31T23:00",
        scenario=scenario,
        untrained=untrained,
        shares=_shares(split),
        embargo=HORIZONS[settings.training_horizon] if embargo is None else timedelta(hours=embargo),
    )
    target = open_place(place or str(settings.home / "exports"), settings)

    async def act() -> "Exported":
        async with databases() as db:
            return await export_dataset(
                db.rl, _store(), settings, target, selection, form=form.value, by_scenario=by_scenario
            )

    done = wait(act())
    for name, windows in done.windows.items():
        out.print(f"{name}: {windows} windows, {done.calls.get(name, 0)} LLM calls")
    for reason, count in done.left_out.items():
        out.print(f"left out: {count} {reason}")
    out.print(f"{len(done.files)} files at {done.url}", soft_wrap=True)


def forget(
    agent_id: Annotated[str, typer.Argument(help='The agent\'s id in "User".')],
    game_rows: Annotated[
        bool, typer.Option("--game-rows", help="Also delete its trajectories and call logs from the game.")
    ] = False,
    archives: Annotated[
        list[str] | None,
        typer.Option("--archives", help="More places of archives; those made here are known."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an agent's part of everything stored, and name the versions that were trained on it."""
    from babylon_rl.deployment.forget import forget_agent
    from babylon_rl.settings import get_settings

    if not yes:
        if not sys.stdin.isatty():
            raise CommandError("forgetting cannot be undone", "Add --yes to do it without a question.")
        typer.confirm(f"Delete what is stored of {agent_id}? It cannot be undone", abort=True)

    async def act() -> "Forgetting":
        async with databases() as db:
            return await forget_agent(
                *(db.game, db.rl, _store(), get_settings(), agent_id),
                game_rows=game_rows,
                archives=archives or (),
            )

    report = wait(act())
    rows = sum(report.pipeline_rows.values())
    out.print(
        f"deleted: {rows} rows of rl, {report.game_rows} trajectories of the game; "
        f"rewritten: {len(report.files)} stored files, {len(report.archives)} archives"
    )
    for name, found in (
        ("trained on it, no longer reproducible", report.affected_versions),
        ("trained on top of those", report.built_on),
        ("exported with it, to be deleted by hand", report.exports),
    ):
        out.print(f"{name}: {', '.join(found) or 'none'}", soft_wrap=True)
    out.print("not reached: trained weights, W&B artifacts and Dagster's event log")


def _store() -> "ArtifactStore":
    from babylon_rl.orchestration.resources import ArtifactStoreResource

    return ArtifactStoreResource().open()


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise CommandError(
            f"--split {text!r} is not three numbers", "Write for example 0.8,0.1,0.1."
        ) from None
    return train, validation, test


async def _selected_windows(
    rl: "asyncpg.Connection", window_ids: list[str], day: str | None, older_than: int | None
) -> list[str]:
    from babylon_rl.windows import parse_day, parse_window, window_id_at

    for window_id in window_ids:
        parse_window(window_id)
    selected = set(window_ids)
    if day is not None:
        parse_day(day)
        selected |= set(await _recorded(rl, f"{day}T00:00", f"{day}T23:00"))
    if older_than is not None:
        newest = window_id_at(datetime.now(UTC) - timedelta(days=older_than, hours=1))
        selected |= set(await _recorded(rl, "0001-01-01T00:00", newest))
    if not selected:
        raise CommandError(
            "there is nothing to archive", "Name windows, or use --day or --older-than; see `windows list`."
        )
    return sorted(selected)


async def _recorded(rl: "asyncpg.Connection", first: str, last: str) -> list[str]:
    query = "SELECT window_id FROM rl.recorded_windows WHERE window_id BETWEEN $1 AND $2"
    return [row["window_id"] for row in await rl.fetch(query, first, last)]
