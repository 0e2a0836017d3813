"""Datasets: scored groups as examples, one per LLM call, without leaks, secrets or direct messages.

Examples are split by the time of their windows, never at random: neighbouring hours share prices and
news, so a random split would test on what was trained. Between two splits lies an embargo: a window whose
orders are valued in prices of the next split belongs to neither.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta

import asyncpg
import msgspec

from babylon_rl import windows
from babylon_rl.errors import BabylonError
from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.policy.chat import Message
from babylon_rl.records.forgotten import Forgotten, forgotten_agents
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import ArtifactStore
from babylon_rl.records.trajectory import decode_record
from babylon_rl.scoring.groups import Member, ScoredGroup, from_records
from babylon_rl.scoring.judge.redaction import Redactor, known_secrets, private_texts
from babylon_rl.settings import Settings
from babylon_rl.training.leaks import scan

SPLITS = ("train", "validation", "test")
EMBARGOED = "embargo"
"""Where a window goes that lies too close before a split."""

_WINDOWS = """
SELECT state.window_id, state.group_uri, state.snapshot_uri FROM rl.window_state AS state
 WHERE state.window_id BETWEEN $1 AND $2 AND state.group_status = 'scored' AND state.group_uri IS NOT NULL
   AND NOT ($3 AND EXISTS (SELECT FROM rl.trained_days AS trained
                            WHERE trained.day::text = left(state.window_id, 10) AND trained.version IS NOT
                            NULL))
 ORDER BY state.window_id
"""


class DatasetError(BabylonError):
    """There is nothing to export, or it cannot be exported as asked."""


class Example(msgspec.Struct, frozen=True):
    """One LLM call of an agent, with what its window was worth."""

    messages: list[Message]
    """What the model saw, redacted."""
    response: str
    """What it said, redacted."""
    call: LlmCall
    """As recorded: tokens and sampling parameters, which are not text."""
    redacted: bool
    """Whether something was taken out: the recorded tokens still spell it, so they must not leave either."""


class ExampleMember(msgspec.Struct, frozen=True):
    """One agent's part of a group."""

    agent_id: str
    scenario_id: str
    member: Member
    examples: list[Example]


class ExampleGroup(msgspec.Struct, frozen=True):
    """A window's group with its examples."""

    window_id: str
    split: str
    group: ScoredGroup
    members: list[ExampleMember]


class Selection(msgspec.Struct, kw_only=True):
    """Which windows become a dataset, and what was left out.

    Attributes:
        first: The first window.
        last: The last window, included.
        scenario: Only members of this scenario; by default all.
        untrained: Leave out days that were trained here.
        shares: Parts of the windows for training, validation and test, in time order; they add up to 1.
        embargo: How long after its end a window's orders are valued.
    """

    first: str
    last: str
    scenario: str | None = None
    untrained: bool = False
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    embargo: timedelta = timedelta(hours=1)
    left_out: Counter[str] = msgspec.field(default_factory=Counter)
    """Calls, members and windows that are not in the dataset, by reason; filled while it is read."""


async def read_groups(
    rl: asyncpg.Connection, store: ArtifactStore, settings: Settings, selection: Selection
) -> AsyncIterator[ExampleGroup]:
    """Yields the groups of a selection in time order.

    Raises:
        DatasetError: The shares do not add up to 1.
        ArtifactError: A group's file is missing or damaged.
    """
    rows = await rl.fetch(_WINDOWS, selection.first, selection.last, selection.untrained)
    splits = split_by_time([row["window_id"] for row in rows], selection.shares, selection.embargo)
    forgotten = await forgotten_agents(rl)
    for row in rows:
        split = splits[row["window_id"]]
        if split == EMBARGOED:
            selection.left_out["windows in the embargo"] += 1
            continue
        group = from_records(store.get(row["group_uri"]))
        scenarios: dict[str, str] = {}
        private: list[str] = []
        for line in store.lines(row["snapshot_uri"]) if row["snapshot_uri"] else ():
            trajectory = decode_record(line)
            scenarios[trajectory.trajectory_id] = trajectory.scenario_id or trajectory.window_id
            private += private_texts(trajectory.steps)
        reader = _GroupReader(selection, Redactor(known_secrets(settings), private), forgotten, scenarios)
        members = await reader.members(rl, group)
        if members:
            yield ExampleGroup(group.window_id, split, group, members)


def split_by_time(window_ids: Iterable[str], shares: Sequence[float], embargo: timedelta) -> dict[str, str]:
    """Gives each window one of `SPLITS`, in time order, or `EMBARGOED`.

    Args:
        window_ids: Distinct or not, in any order. shares: Of the windows, for each split; they add up to
        1. embargo: A window belongs to a split only if its end and this lie before the next split's first
        window.

    Raises:
        DatasetError: The shares do not add up to 1.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise DatasetError(f"{shares} are not three shares that add up to 1", "Give for example 0.8,0.1,0.1.")
    ordered = sorted(set(window_ids))
    held_out = [round(len(ordered) * share) for share in shares[1:]]
    sizes = [len(ordered) - sum(held_out), *held_out]
    parts, start = [], 0
    for size in sizes:
        parts.append(ordered[start : start + size])
        start += size
    found: dict[str, str] = {}
    for index, (split, part) in enumerate(zip(SPLITS, parts, strict=True)):
        following = next((later[0] for later in parts[index + 1 :] if later), None)
        border = windows.parse_window(following) if following else None
        for window_id in part:
            late = border is not None and windows.window_range(window_id)[1] + embargo > border
            found[window_id] = EMBARGOED if late else split
    return found


class _GroupReader:
    def __init__(
        self, selection: Selection, redactor: Redactor, forgotten: Forgotten, scenarios: dict[str, str]
    ) -> None:
        self._selection, self._redactor = selection, redactor
        self._forgotten, self._scenarios = forgotten, scenarios

    async def members(self, rl: asyncpg.Connection, group: ScoredGroup) -> list[ExampleMember]:
        outcomes = await load_outcomes(rl, group.window_id)
        found = []
        for member in group.members:
            named = {self._scenarios.get(i, group.window_id) for i in member.trajectory_ids}
            scenario = named.pop() if len(named) == 1 else group.window_id
            if member.agent_id in self._forgotten:
                self._selection.left_out["forgotten agents"] += 1
                continue
            if self._selection.scenario not in (None, scenario):
                self._selection.left_out["members of other scenarios"] += 1
                continue
            examples = []
            for call in member.calls:
                messages = [{"role": m["role"], "content": _text(m["content"])} for m in call.chat_messages()]
                said = [*messages, {"role": "assistant", "content": call.response}]
                if not messages or not call.response:
                    self._selection.left_out["calls without a prompt or an answer"] += 1
                elif scan(group.window_id, member.agent_id, [said], outcomes):
                    self._selection.left_out["calls with a leak"] += 1
                else:
                    examples.append(self._example(messages, call))
            if examples:
                found.append(ExampleMember(member.agent_id, scenario, member, examples))
            else:
                self._selection.left_out["members without calls"] += 1
        return found

    def _example(self, messages: list[Message], call: LlmCall) -> Example:
        clean = [m | {"content": self._redactor.text(m["content"])} for m in messages]
        response = self._redactor.text(call.response)
        return Example(clean, response, call, clean != messages or response != call.response)


def _text(content: object) -> str:
    """The content of a message; parts of several kinds as JSON."""
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()
