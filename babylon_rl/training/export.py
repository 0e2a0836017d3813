"""Exporting datasets: groups become files with a card, in a private place, once per content.

exported = await export_dataset(db.rl, store, settings, place, Selection(first=…, last=…), form="parquet")
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import msgspec

import babylon_rl
from babylon_rl.records.archive_files import folder_of
from babylon_rl.records.forgotten import agent_hash
from babylon_rl.records.places import Place
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training.dataset import SPLITS, DatasetError, ExampleGroup, Selection, read_groups
from babylon_rl.training.dataset_files import Form, open_files

CARD = "README.md"

_RECORD = """
INSERT INTO rl.exports (url, form, window_ids, agents, calls) VALUES ($1, $2, $3, $4, $5)
"""


class Exported(msgspec.Struct, frozen=True):
    """An exported dataset."""

    url: str
    files: list[str]
    windows: dict[str, int]
    """By split."""
    calls: dict[str, int]
    """By split."""
    left_out: dict[str, int]


class _Tally:
    """What the card says."""

    def __init__(self) -> None:
        self.windows: dict[str, list[str]] = {split: [] for split in SPLITS}
        self.agents: set[str] = set()
        self.scorers: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.redacted = 0

    def add(self, group: ExampleGroup) -> None:
        self.windows[group.split].append(group.window_id)
        self.agents |= {member.agent_id for member in group.members}
        self.scorers.add(f"{group.group.scorer} {group.group.scorer_version}")
        examples = [example for member in group.members for example in member.examples]
        self.calls[group.split] += len(examples)
        self.redacted += sum(example.redacted for example in examples)


async def export_dataset(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    settings: Settings,
    place: Place,
    selection: Selection,
    *,
    form: Form,
    by_scenario: bool = False,
) -> Exported:
    """Writes a dataset below a place and returns where; the card goes last.

    Raises:
        DatasetError: No scored window is selected.
        PlaceError: The place does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="babylon-export-") as scratch:
        folder, tally = Path(scratch), _Tally()
        writer = open_files(folder, form, by_scenario=by_scenario)
        async for group in read_groups(rl, store, settings, selection):
            writer.add(group)
            tally.add(group)
        writer.close()
        if not tally.agents:
            raise DatasetError(
                f"no scored window from {selection.first} to {selection.last} has anything to export",
                "See `babylon windows list`.",
            )
        hashes = _hashes(folder)
        digest = hashlib.sha256(msgspec.json.encode(hashes)).hexdigest()
        name = f"{form}-{folder_of(selection.first)}-{folder_of(selection.last)}-{digest[:12]}"
        card = folder / CARD
        card.write_text(render_card(form, selection, tally, hashes))
        for file in [*hashes, CARD]:
            place.put(f"{name}/{file}", folder / file)
    window_ids = [window for split in SPLITS for window in tally.windows[split]]
    agents = sorted(agent_hash(agent) for agent in tally.agents)
    await rl.execute(_RECORD, place.at(name), form, window_ids, agents, tally.calls.total())
    return Exported(
        place.at(name),
        [*hashes, CARD],
        {split: len(found) for split, found in tally.windows.items() if found},
        dict(tally.calls),
        dict(sorted(selection.left_out.items())),
    )


def render_card(form: Form, selection: Selection, tally: _Tally, hashes: dict[str, str]) -> str:
    """The dataset's card, with the header that Hugging Face's `datasets` reads."""
    lines = ["---", "pretty_name: Babylon trading agents", "license: other", "configs:"]
    lines += ["- config_name: default", "  data_files:"]
    for split in SPLITS:
        own = [name for name in hashes if name.split("/")[0].split(".")[0] == split]
        if own:
            pattern = own[0] if "/" not in own[0] else f"{split}/*.jsonl"
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    lines += ["---", "", "# Babylon trading agents", ""]
    lines += _paragraphs(form, selection, tally)
    lines += ["", "| split | windows | first | last | LLM calls |", "|---|---|---|---|---|"]
    for split, found in tally.windows.items():
        if found:
            lines.append(f"| {split} | {len(found)} | {found[0]} | {found[-1]} | {tally.calls[split]} |")
    if selection.left_out:
        lines += ["", "Left out: " + ", ".join(f"{n} {why}" for why, n in sorted(selection.left_out.items()))]
    lines += ["", "| file | SHA-256 |", "|---|---|"]
    lines += [f"| {name} | {sha256} |" for name, sha256 in hashes.items()]
    return "\n".join(lines) + "\n"


def _paragraphs(form: Form, selection: Selection, tally: _Tally) -> Sequence[str]:
    shares = "/".join(f"{share:g}" for share in selection.shares)
    hours = selection.embargo.total_seconds() / 3600
    return [
        f"What {len(tally.agents)} agents of the game Babylon asked their language models and were answered, "
        f"from {selection.first} to {selection.last} (hours in UTC), written by babylon_rl "
        f"{babylon_rl.__version__} in the form `{form}`.",
        "",
        "All agents of a window faced the same market: a window is one group, and `advantage` is a reward "
        f"minus the mean of the others. Rewards are by {', '.join(sorted(tally.scorers))}.",
        "",
        f"Split by time, {shares} of the windows, with an embargo of {hours:g} h before each later split, "
        "because an order's value is read from later prices. Never shuffle windows between the splits.",
        "",
        f"Private: prompts of players. Secrets, e-mail addresses and direct messages were taken out of "
        f"{tally.redacted} calls, whose tokens are therefore missing; a scan found no hidden answer in what "
        "is left. If an agent is forgotten (`babylon forget`), this copy has to be deleted by hand.",
    ]


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name below the folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
