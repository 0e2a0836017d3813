"""What the judge sees of an episode: state, decision and result of each step, and what the hour earned.

Prompts, token ids, logprobs and ids of agents stay at home: whole steps are six times as long. A view never
exceeds its token budget: long episodes lose first their words, then the runs of doing nothing, then steps in
the middle, and say so.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from babylon_rl.records.steps import EnvironmentState, Step
from babylon_rl.scoring.episodes import ORDER_ACTIONS, Episode, is_decision
from babylon_rl.scoring.judge.encoding import estimate_tokens
from babylon_rl.scoring.judge.redaction import (
    PRIVATE,
    SECRET,
    Redactor,
    is_private,
    is_secret_name,
    private_texts,
)
from babylon_rl.windows import window_range

VERSION = "1"
"""Part of every cache key: raise it when the same episode gets another view."""

_WORDS = (240, 120, 50, 0)
"""Characters of an agent's words, from roomy to tight."""
_SIGHT = 100
"""Characters of what it saw, where there is room."""
_READ = 600
"""Characters of a text that are looked at: redacted before it is clipped, so that no secret is cut in two."""
_LONGEST_VALUE, _LONGEST_NAME, _MOST_ENTRIES, _DEEPEST = 120, 40, 8, 3
_HOLDS = ("hold", "wait", "none", "noop")
_IDS = frozenset({"positionid", "orderid", "id", "postid", "commentid", "userid", "agentid", "transactionid"})


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


class EpisodeView(msgspec.Struct, frozen=True):
    """One episode as the judge sees it."""

    agent_id: str
    """For us; not part of `body`."""
    body: dict[str, Any]
    digest: str
    """SHA-256 of `body`; episodes with equal digests are judged once."""
    tokens: int
    """An upper estimate."""


def build_views(
    episodes: Sequence[Episode], *, secrets: Sequence[str] = (), max_tokens: int = 1200
) -> list[EpisodeView]:
    """Returns one view per episode, in the same order.

    Args:
        episodes: Of one window: what one agent received in private, another one may quote.
        secrets: Values to remove wherever they occur.
        max_tokens: Budget of each view.
    """
    private = [text for episode in episodes for text in private_texts(episode.steps)]
    redactor = Redactor(secrets, private)
    return [_view(episode, redactor, max_tokens) for episode in episodes]


def make_view(agent_id: str, body: dict[str, Any]) -> EpisodeView:
    """Returns a view with digest and size of its body."""
    return EpisodeView(agent_id, body, hashlib.sha256(_canonical(body)).hexdigest(), estimate_tokens(body))


def clean(value: Any, redactor: Redactor, depth: int = 0) -> Any:
    """Returns a JSON value that is redacted, short and shallow."""
    if isinstance(value, str):
        return clip(redactor.text(value[:_READ]), _LONGEST_VALUE)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return short_number(value)
    if depth == _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {
            clip(redactor.text(str(key)[:_READ]), _LONGEST_NAME): SECRET
            if is_secret_name(str(key))
            else clean(part, redactor, depth + 1)
            for key, part in list(value.items())[:_MOST_ENTRIES]
        }
    if isinstance(value, list | tuple):
        return [clean(part, redactor, depth + 1) for part in value[:_MOST_ENTRIES]]
    return clip(redactor.text(str(value)[:_READ]), _LONGEST_VALUE)


def clip(text: str, limit: int) -> str:
    """Returns at most `limit` characters, with a mark where something is missing."""
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


def short_number(number: float | None) -> float | int | str | None:
    """Returns a number with six significant digits; what is no finite number becomes None."""
    if number is None or not math.isfinite(number):
        return None
    rounded = float(f"{number:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _view(episode: Episode, redactor: Redactor, max_tokens: int) -> EpisodeView:
    start = window_range(episode.window_id)[0].timestamp() * 1000
    head = _head(episode)
    room = max_tokens - estimate_tokens(head)
    whole = [_step(step, redactor, start) for step in episode.steps]
    _drop_repeated_state(whole)
    bare = [estimate_tokens({k: v for k, v in step.items() if k != "said"}) for step in whole]
    steps, costs = _tightened(whole, bare, _WORDS[0])
    if sum(costs) <= room:
        roomy = _with_sight(steps, costs, episode.steps, redactor)
        steps, costs = roomy if sum(roomy[1]) <= room else (steps, costs)
    for words in _WORDS[1:]:
        if sum(costs) <= room:
            break
        steps, costs = _merge_holds(*_tightened(whole, bare, words))
    return make_view(episode.agent_id, head | {"steps": _fit(steps, costs, room)})


def _tightened(
    whole: Sequence[dict[str, Any]], bare: Sequence[int], words: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the steps with so many characters of the agent's words, and what each step costs."""
    steps, costs = [], []
    for step, cost in zip(whole, bare, strict=True):
        said = clip(step["said"], words) if words and "said" in step else None
        if said is not None:
            cost += estimate_tokens(said) + 5
        steps.append(
            {key: said if key == "said" else value for key, value in step.items() if key != "said" or said}
        )
        costs.append(cost)
    return steps, costs


def _with_sight(
    steps: Sequence[dict[str, Any]], costs: Sequence[int], recorded: Sequence[Step], redactor: Redactor
) -> tuple[list[dict[str, Any]], list[int]]:
    """Adds the begin of what the agent saw; a luxury of short episodes."""
    seen = [_saw(step, redactor) for step in recorded]
    return (
        [step | {"saw": saw} if saw else step for step, saw in zip(steps, seen, strict=True)],
        [cost + estimate_tokens(saw) + 5 if saw else cost for cost, saw in zip(costs, seen, strict=True)],
    )


def _head(episode: Episode) -> dict[str, Any]:
    return {
        "start_equity_usd": short_number(episode.start_equity),
        "profit_usd": short_number(episode.attributed_pnl),
        "profit_is": f"value of this hour's orders after {episode.horizon}, after fees"
        if episode.pnl_source == "orders"
        else "change of lifetime P&L",
        "orders": episode.trades,
        "won": episode.wins,
        "lost": episode.losses,
        "decisions": episode.actions,
        "invalid": episode.invalid_actions,
    }


def _step(step: Step, redactor: Redactor, start_ms: float) -> dict[str, Any]:
    action = step.action
    view: dict[str, Any] = {}
    if step.timestamp is not None and abs(step.timestamp - start_ms) < 86_400_000:
        view["min"] = round((step.timestamp - start_ms) / 60_000, 1)
    view["state"] = _state(step.environment_state)
    if is_decision(action):
        view["did"] = clip(redactor.text(action.action_type[:_READ]), _LONGEST_NAME)
    if is_private(action.action_type):
        return view | {"with": PRIVATE, "ok": action.success}
    if action.parameters:
        view["with"] = clean(_without_ids(action.parameters), redactor)
    if said := _said(step):
        view["said"] = clip(redactor.text(said[:_READ]), _WORDS[0])
    view["ok"] = action.success
    if action.error:
        view["error"] = clean(action.error, redactor)
    elif isinstance(action.result, dict) and (result := _without_ids(action.result)):
        view["got"] = clean(result, redactor)
    return view


def _state(state: EnvironmentState) -> dict[str, Any]:
    values = {
        "equity": state.equity,
        "balance": state.agent_balance,
        "lifetime_pnl": state.agent_pnl,
        "open": state.open_positions,
    }
    return {name: short_number(value) for name, value in values.items() if value is not None}


def _saw(step: Step, redactor: Redactor) -> str:
    """Begin of what the agent looked up, without mail from other players."""
    text = "; ".join(
        _begin_of_json(access.data)
        for access in step.provider_accesses
        if not is_private(access.provider_name)
    )
    return clip(redactor.text(text[:_READ]), _SIGHT)


def _begin_of_json(value: Any) -> str:
    """The first characters of a value's JSON; a writer may have recorded megabytes."""
    text = ""
    for part in _encoder.iterencode(value):
        text += part
        if len(text) >= _READ:
            break
    return text


def _said(step: Step) -> str:
    answered = next((call.response for call in reversed(step.llm_calls) if call.response), None)
    return answered or step.action.reasoning or step.reasoning or ""


def _without_ids(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.replace("_", "").lower() not in _IDS}


def _drop_repeated_state(steps: list[dict[str, Any]]) -> None:
    last: dict[str, Any] | None = None
    for step in steps:
        if step["state"] == last:
            del step["state"]
        else:
            last = step["state"]


def _is_hold(step: dict[str, Any]) -> bool:
    return str(step.get("did", "")).lower() in _HOLDS and "error" not in step


def _merge_holds(
    steps: Sequence[dict[str, Any]], costs: Sequence[int]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Joins holds that follow each other; the first one stays, with how many there were."""
    merged: list[dict[str, Any]] = []
    left: list[int] = []
    for step, cost in zip(steps, costs, strict=True):
        if merged and _is_hold(step) and _is_hold(merged[-1]):
            if "times" not in merged[-1]:
                left[-1] += 4
            merged[-1]["times"] = merged[-1].get("times", 1) + 1
        else:
            merged.append(dict(step))
            left.append(cost)
    return merged, left


def _fit(steps: list[dict[str, Any]], costs: Sequence[int], room: int) -> list[dict[str, Any]]:
    """Leaves steps out until the rest fits: first those without an order, then from the middle."""
    total = sum(costs)
    if total <= room:
        return steps
    centre = (len(steps) - 1) / 2
    expendable = sorted(range(len(steps)), key=lambda i: (_is_order(steps[i]), abs(i - centre)))
    gone: set[int] = set()
    note = 16  # tokens of the line that says how many are missing
    for i in expendable:
        if total + note <= room:
            break
        gone.add(i)
        total -= costs[i]
    kept = [step for i, step in enumerate(steps) if i not in gone]
    return [*kept, {"left_out": len(gone), "of_them_orders": sum(_is_order(steps[i]) for i in gone)}]


def _is_order(step: dict[str, Any]) -> bool:
    return str(step.get("did", "")).lower() in ORDER_ACTIONS


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode(errors="surrogatepass")
