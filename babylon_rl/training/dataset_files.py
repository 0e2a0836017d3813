"""The files of a dataset: OpenAI chat, ART, GRPO groups as JSON lines, or Parquet, and the card beside them.

| form | a line or row is | for |
|---|---|---|
| `openai` | `{"messages": […]}`, the last one the model's answer | OpenAI fine-tuning |
| `art` | an `art.TrajectoryGroup` as JSON: a window, a trajectory per agent, recorded tokens | ART |
| `groups` | a window: members with reward, advantage and conversations | any GRPO implementation |
| `parquet` | one LLM call with everything that is known about it, in columns | pandas, `datasets` |
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from babylon_rl.training.dataset import DatasetError, Example, ExampleGroup, ExampleMember

if TYPE_CHECKING:
    import art

Form = Literal["openai", "art", "groups", "parquet"]


class DatasetFiles(Protocol):
    """Where groups are written to; files appear below a folder."""

    def add(self, group: ExampleGroup) -> None: ...

    def close(self) -> None: ...


def open_files(folder: Path, form: Form, *, by_scenario: bool) -> DatasetFiles:
    """Returns the writer of a form.

    Args:
        by_scenario: One file per split and scenario, not per split.

    Raises:
        DatasetError: Parquet by scenario: there it is a column.
    """
    if form == "parquet":
        if by_scenario:
            raise DatasetError("Parquet is not split by scenario", "Use its column scenario_id.")
        return ParquetFiles(folder)
    return JsonLineFiles(folder, form, by_scenario=by_scenario)


class JsonLineFiles:
    """`<split>.jsonl`, or `<split>/<scenario>.jsonl`."""

    def __init__(self, folder: Path, form: Form, *, by_scenario: bool) -> None:
        self._folder, self._by_scenario = folder, by_scenario
        self._lines = {"openai": _openai_lines, "art": _art_lines, "groups": _group_lines}[form]

    def add(self, group: ExampleGroup) -> None:
        scenarios = sorted({member.scenario_id for member in group.members}) if self._by_scenario else [None]
        for scenario in scenarios:
            members = [m for m in group.members if scenario in (None, m.scenario_id)]
            path = self._folder / f"{group.split}.jsonl"
            if scenario is not None:
                path = self._folder / group.split / f"{file_name(scenario)}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                for line in self._lines(group, members):
                    file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        pass


class ParquetFiles:
    """`<split>.parquet`, one row per LLM call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def add(self, group: ExampleGroup) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema()
        rows = [row for member in group.members for row in _rows(group, member)]
        if group.split not in self._writers:
            path = self._folder / f"{group.split}.parquet"
            self._writers[group.split] = pq.ParquetWriter(path, schema, compression="zstd")
        self._writers[group.split].write_table(pa.Table.from_pylist(rows, schema=schema))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def read_art_groups(path: Path) -> "list[art.TrajectoryGroup]":
    """Reads a file of the form `art` into ART's own objects.

    ART's models alone leave an answer with its tokens a plain dict, which ART then does not train.
    """
    from openai.types.chat.chat_completion import Choice

    from babylon_rl.training.art_import import import_art

    art = import_art()

    def whole(history: list[dict[str, Any]]) -> list[Any]:
        return [Choice.model_validate(m) if "finish_reason" in m else m for m in history]

    groups = []
    for line in path.read_bytes().splitlines():
        record = msgspec.json.decode(line)
        trajectories = [
            art.Trajectory(
                messages_and_choices=whole(t["messages_and_choices"]),
                additional_histories=[
                    art.trajectories.History(messages_and_choices=whole(more["messages_and_choices"]))
                    for more in t["additional_histories"]
                ],
                reward=t["reward"],
                metadata=t["metadata"],
            )
            for t in record["trajectories"]
        ]
        groups.append(art.TrajectoryGroup(trajectories, metadata=record["metadata"]))
    return groups


def file_name(scenario: str) -> str:
    """A scenario's id as a portable file name; different ids have different names."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else f"={ord(c):X}" for c in scenario)
    return (
        name if 0 < len(name) <= 100 else f"{name[:60]}={hashlib.sha256(scenario.encode()).hexdigest()[:16]}"
    )


def _conversation(example: Example) -> list[dict[str, str]]:
    return [*example.messages, {"role": "assistant", "content": example.response}]


def _openai_lines(group: ExampleGroup, members: list[ExampleMember]) -> Iterator[dict[str, Any]]:
    # Nothing but messages: OpenAI's check of a file refuses keys that it does not know.
    for member in members:
        for example in member.examples:
            yield {"messages": _conversation(example)}


def _art_lines(group: ExampleGroup, members: list[ExampleMember]) -> Iterator[dict[str, Any]]:
    trajectories = []
    for item in members:
        histories = [[*example.messages, _choice(example)] for example in item.examples]
        trajectories.append(
            {
                "messages_and_choices": histories[0],
                "additional_histories": [{"messages_and_choices": history} for history in histories[1:]],
                "reward": item.member.reward,
                "metadata": {"agent_id": item.agent_id, "scenario_id": item.scenario_id},
            }
        )
    yield {"trajectories": trajectories, "metadata": {"window_id": group.window_id}}


def _choice(example: Example) -> dict[str, Any]:
    call = example.call
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "length" if call.finish_reason == "length" else "stop",
        "message": {"role": "assistant", "content": example.response},
        "logprobs": None,
    }
    if call.has_tokens and not example.redacted:
        content = [
            {"token": f"token_id:{token}", "logprob": logprob, "bytes": None, "top_logprobs": []}
            for token, logprob in zip(call.token_ids or (), call.logprobs or (), strict=True)
        ]
        choice["logprobs"] = {"content": content}
    return choice


def _group_lines(group: ExampleGroup, members: list[ExampleMember]) -> Iterator[dict[str, Any]]:
    yield {
        "window_id": group.window_id,
        "scorer": f"{group.group.scorer} {group.group.scorer_version}",
        "horizon": group.group.horizon,
        "reward_mean": group.group.reward_mean,
        "reward_std": group.group.reward_std,
        "members": [
            {
                "agent_id": item.agent_id,
                "scenario_id": item.scenario_id,
                "reward": item.member.reward,
                "advantage": item.member.advantage,
                "components": item.member.components,
                "conversations": [
                    {"messages": example.messages, "response": example.response} for example in item.examples
                ],
            }
            for item in members
        ],
    }


def _schema() -> Any:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("window_id", pa.string()),
            ("split", pa.string()),
            ("scenario_id", pa.string()),
            ("agent_id", pa.string()),
            ("call", pa.int32()),
            ("messages", pa.list_(message)),
            ("response", pa.string()),
            ("reward", pa.float64()),
            ("advantage", pa.float64()),
            ("attributed_pnl", pa.float64()),
            ("start_equity", pa.float64()),
            ("scorer", pa.string()),
            ("model", pa.string()),
            ("policy_version", pa.string()),
            ("temperature", pa.float64()),
            ("finish_reason", pa.string()),
            ("purpose", pa.string()),
            ("action_type", pa.string()),
            ("token_ids", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            ("redacted", pa.bool_()),
        ]
    )


def _rows(group: ExampleGroup, item: ExampleMember) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(item.examples):
        call = example.call
        tokens = call.has_tokens and not example.redacted
        yield {
            "window_id": group.window_id,
            "split": group.split,
            "scenario_id": item.scenario_id,
            "agent_id": item.agent_id,
            "call": number,
            "messages": example.messages,
            "response": example.response,
            "reward": item.member.reward,
            "advantage": item.member.advantage,
            "attributed_pnl": item.member.attributed_pnl,
            "start_equity": item.member.start_equity,
            "scorer": group.group.scorer,
            "model": call.model,
            "policy_version": call.policy_version,
            "temperature": None if call.temperature is None else float(call.temperature),
            "finish_reason": call.finish_reason,
            "purpose": call.purpose,
            "action_type": call.action_type,
            "token_ids": call.token_ids if tokens else None,
            "logprobs": call.logprobs if tokens else None,
            "redacted": example.redacted,
        }
