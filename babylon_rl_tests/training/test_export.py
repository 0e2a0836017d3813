"""Exports: every form read back by what it is for, split by time, without what must not leave."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.records.forgotten import agent_hash
from babylon_rl.records.places import open_place
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import from_records, to_records
from babylon_rl.settings import Settings
from babylon_rl.training.dataset import EMBARGOED, DatasetError, Selection, split_by_time
from babylon_rl.training.dataset_files import Form, file_name, read_art_groups
from babylon_rl.training.export import Exported, export_dataset
from babylon_rl.windows import parse_window, window_range, windows_between, windows_of_day
from babylon_rl_tests.kept_windows import AGENTS, keep_window

pytestmark = pytest.mark.anyio

# The last two windows are two hours after the others, so only one window falls into the embargo.
WINDOWS = [f"2026-10-02T{hour:02d}:00" for hour in (3, 4, 5, 6, 9, 10)]
HALF = (0.5, 0.25, 0.25)


class Data:
    """Six scored windows, and exports of them."""

    def __init__(self, connection: asyncpg.Connection, tmp_path: Path) -> None:
        self.connection = connection
        self.settings = Settings(
            _env_file=None, babylon_home=tmp_path / "home", wandb_api_key="key-of-ours-123456"
        )
        self.store = ArtifactStore(self.settings.home / "artifacts")
        self.root = self.settings.home / "exports"

    async def export(self, form: Form, *, by_scenario: bool = False, **selection) -> Exported:
        place = open_place(str(self.root), self.settings)
        options: dict[str, Any] = {"shares": HALF} | selection
        chosen = Selection(first=WINDOWS[0], last=WINDOWS[-1], **options)
        return await export_dataset(
            *(self.connection, self.store, self.settings, place, chosen), form=form, by_scenario=by_scenario
        )

    def lines(self, exported: Exported, name: str) -> list[dict]:
        path = self.root / exported.url.rsplit("/", 1)[1] / name
        return [json.loads(line) for line in path.read_text().splitlines()]

    async def change_group(self, window_id: str, change) -> None:
        uri = await self.connection.fetchval(
            "SELECT group_uri FROM rl.window_state WHERE window_id = $1", window_id
        )
        group = from_records(self.store.get(str(uri)))
        change(group)
        artifact = self.store.put("groups", window_id, to_records(group))
        await self.connection.execute(
            "UPDATE rl.window_state SET group_uri = $2 WHERE window_id = $1", window_id, artifact.uri
        )


@pytest.fixture
async def data(connection: asyncpg.Connection, tmp_path: Path) -> Data:
    made = Data(connection, tmp_path)
    for window_id in WINDOWS:
        await keep_window(connection, made.store.root, window_id)
    return made


async def test_openai_lines_hold_messages_and_nothing_else(data: Data) -> None:
    exported = await data.export("openai")
    assert exported.files == ["test.jsonl", "train.jsonl", "validation.jsonl", "README.md"]
    # The second window's orders are valued in the third one, which is the first of the validation.
    assert exported.windows == {"train": 1, "validation": 2, "test": 2}
    assert exported.left_out["windows in the embargo"] == 1
    lines = data.lines(exported, "train.jsonl")
    assert len(lines) == exported.calls["train"] == 8  # four agents, two calls each
    for line in lines:
        assert list(line) == ["messages"]
        assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant"]


async def test_art_reads_its_form(data: Data) -> None:
    exported = await data.export("art", shares=(1.0, 0.0, 0.0))
    groups = read_art_groups(data.root / exported.url.rsplit("/", 1)[1] / "train.jsonl")
    assert [group.metadata["window_id"] for group in groups] == WINDOWS
    for group in groups:
        assert [t.metadata["agent_id"] for t in group.trajectories] == list(AGENTS)
        assert len({t.reward for t in group.trajectories}) > 1
        for trajectory in group.trajectories:
            choice: Any = trajectory.messages_and_choices[-1]
            assert choice.logprobs.content[0].token == "token_id:4"
            assert trajectory.messages()[-1]["role"] == "assistant"
            assert len(trajectory.additional_histories) == 1


async def test_groups_hold_rewards_that_are_comparable(data: Data) -> None:
    exported = await data.export("groups")
    (group,) = data.lines(exported, "train.jsonl")
    assert group["window_id"] == WINDOWS[0] and group["scorer"].startswith("pnl")
    assert [member["agent_id"] for member in group["members"]] == list(AGENTS)
    assert sum(member["advantage"] for member in group["members"]) == pytest.approx(0, abs=1e-9)
    assert group["members"][0]["conversations"][0]["messages"][0]["role"] == "system"


async def test_parquet_has_a_row_per_call_and_a_card(data: Data) -> None:
    import pandas as pd

    exported = await data.export("parquet")
    folder = data.root / exported.url.rsplit("/", 1)[1]
    frame: Any = pd.read_parquet(folder / "test.parquet")
    assert len(frame) == exported.calls["test"] == 16
    assert set(frame["window_id"]) == set(WINDOWS[4:]) and set(frame["agent_id"]) == set(AGENTS)
    assert list(frame["token_ids"][0]) == [4, 5] and frame["logprobs"][0][0] == pytest.approx(-0.5)
    assert frame["messages"][0][0]["role"] == "system"
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    files = {c["split"]: c["path"] for c in yaml.safe_load(header)["configs"][0]["data_files"]}
    assert files == {split: f"{split}.parquet" for split in ("train", "validation", "test")}
    assert "4 agents" in text and "| test | 2 |" in text and "embargo of 1 h" in text
    assert (folder / "README.md").stat().st_mode & 0o777 == 0o600
    with pytest.raises(DatasetError, match="scenario_id"):
        await data.export("parquet", by_scenario=True)


async def test_by_scenario_and_of_one_scenario(data: Data) -> None:
    exported = await data.export("openai", by_scenario=True)
    assert [name for name in exported.files if name.startswith("test/")] == [
        "test/2026-10-02T09=3A00.jsonl",
        "test/2026-10-02T10=3A00.jsonl",
    ]
    assert len(data.lines(exported, "test/2026-10-02T09=3A00.jsonl")) == 8
    one = await data.export("groups", scenario=WINDOWS[4], shares=(1.0, 0.0, 0.0))
    assert [group["window_id"] for group in data.lines(one, "train.jsonl")] == [WINDOWS[4]]
    with pytest.raises(DatasetError, match="windows list"):
        await data.export("groups", scenario="nothing")


async def test_what_must_not_leave_is_taken_out_or_left_out(data: Data) -> None:
    def spoil(group) -> None:
        secret, leak, empty, mail = (group.members[index].calls[0] for index in range(4))
        secret.user_prompt = "my key is key-of-ours-123456 and sk-abcdefghijklmnopqrstuvwx"
        leak.user_prompt = "GROUND TRUTH (agent did not know): it rose"
        empty.response = ""
        mail.response = "write to trader@example.com"

    await data.change_group(WINDOWS[0], spoil)
    for form in ("openai", "art", "groups"):
        exported = await data.export(form)
        text = json.dumps(data.lines(exported, "train.jsonl"))
        for hidden in ("key-of-ours", "sk-abcdef", "ROUND TRUTH", "trader@example.com"):
            assert hidden not in text
        assert exported.left_out["calls with a leak"] == 1
        assert exported.left_out["calls without a prompt or an answer"] == 1
        assert exported.calls["train"] == 6
    exported = await data.export("art")
    histories = [
        history
        for trajectory in data.lines(exported, "train.jsonl")[0]["trajectories"]
        for history in (
            trajectory["messages_and_choices"],
            *[more["messages_and_choices"] for more in trajectory["additional_histories"]],
        )
    ]
    # The tokens of a redacted call still spell what was taken out.
    assert sum(history[-1]["logprobs"] is None for history in histories) == 2


async def test_trained_days_and_forgotten_agents_can_be_left_out(data: Data) -> None:
    await data.connection.execute(
        "INSERT INTO rl.forgotten_agents (agent_sha256, game_rows) VALUES ($1, false)", agent_hash(AGENTS[1])
    )
    exported = await data.export("groups")
    (group,) = data.lines(exported, "train.jsonl")
    assert [member["agent_id"] for member in group["members"]] == [AGENTS[0], *AGENTS[2:]]
    row = await data.connection.fetchrow("SELECT * FROM rl.exports")
    assert row and row["url"] == exported.url and row["calls"] == 30 and len(row["window_ids"]) == 5
    assert agent_hash(AGENTS[0]) in row["agents"] and agent_hash(AGENTS[1]) not in row["agents"]
    await data.connection.execute(
        "INSERT INTO rl.trained_days (day, batch_sha256, version) VALUES ('2026-10-02', 'b', 'v0.0.1')"
    )
    with pytest.raises(DatasetError):
        await data.export("groups", untrained=True)


async def test_the_same_content_has_the_same_address(data: Data) -> None:
    assert (await data.export("groups")).url == (await data.export("groups")).url


@given(
    hours=st.sets(st.integers(0, 23), max_size=24),
    shares=st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5)]),
    embargo=st.sampled_from([0, 1, 24]),
)
async def test_splits_are_in_time_order_and_apart(
    hours: set[int], shares: tuple[float, float, float], embargo: int
) -> None:
    window_ids = [windows_of_day("2026-10-02")[hour] for hour in hours]
    splits = split_by_time(window_ids, shares, timedelta(hours=embargo))
    assert splits.keys() == set(window_ids)
    order = ("train", "validation", "test")
    for first, later in ((0, 1), (0, 2), (1, 2)):
        for before in (w for w, split in splits.items() if split == order[first]):
            for after in (w for w, split in splits.items() if split == order[later]):
                assert window_range(before)[1] + timedelta(hours=embargo) <= parse_window(after)
    if embargo == 0:
        assert EMBARGOED not in splits.values()


def test_shares_that_are_none_are_refused() -> None:
    for shares in ((0.5, 0.5), (0.5, 0.6, 0.1), (1.2, -0.1, -0.1)):
        with pytest.raises(DatasetError, match="shares"):
            split_by_time(
                windows_between(parse_window(WINDOWS[0]), parse_window(WINDOWS[3])), shares, timedelta()
            )


def test_file_names_of_scenarios_are_portable_and_different() -> None:
    scenarios = ["a:b", "a_b", "a=3Ab", "../../etc", ".", "", "é", "x" * 300, "x" * 301, "a b", "CON"]
    names = [file_name(scenario) for scenario in scenarios]
    assert len(set(names)) == len(names)
    assert all(
        name
        and set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=")
        and len(name) <= 100
        for name in names
    )
