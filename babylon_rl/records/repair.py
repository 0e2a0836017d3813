"""The tolerant reader of `stepsJson`: brings what recorders wrote into the documented shape, or says why not.

Known deviations: numbers in strings, literal NaN or null where JavaScript had NaN, other names for a key,
missing or null parts, lone surrogates, keys nobody documented. Nothing is guessed beyond that: a row that
stays unreadable is reported with a reason code, for the quarantine.
"""

import json
import math
import re
import types
import typing
from typing import Any

from babylon_rl.errors import BabylonError

ALIASES = {
    "environment": {"balance": "agentBalance", "pnl": "agentPnL", "agentPnl": "agentPnL"},
    "action": {"type": "actionType", "params": "parameters"},
    "call": {},
    "access": {"provider": "providerName", "name": "providerName"},
    "step": {"state": "environmentState", "providers": "providerAccesses", "calls": "llmCalls"},
}
NOT_NUMBERS = frozenset({"", "nan", "inf", "infinity", "null", "undefined"})
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SNAKE = re.compile(r"_([a-z])")
_NESTED = frozenset({"environmentState", "action", "llmCalls", "providerAccesses"})

Fields = dict[str, dict[str, Any]]
"""For each part of a step, the wire name of every field and its type."""


class UnreadableRowError(BabylonError):
    """A recorded row that no reader understands.

    Args:
        reason: A short code such as `invalid_json`, the same for all rows with this defect.
        detail: Where in the row it is and what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(
            f"unreadable row ({reason}): {detail}", "Repair the row; it is read again by itself."
        )


def repair_steps(text: str, fields: Fields, extra: str) -> list[dict[str, Any]]:
    """Returns the steps of `text` as plain dicts with every required key; unknown keys are under `extra`.

    Raises:
        UnreadableRowError: The text has no reading as a list of steps.
    """
    try:
        data = json.loads(text, parse_constant=lambda _: None, strict=False)
    except (ValueError, RecursionError) as error:
        raise UnreadableRowError("invalid_json", str(error)[:200]) from error
    if data is None:
        raise UnreadableRowError("null_steps", "stepsJson is null")
    if not isinstance(data, list):
        raise UnreadableRowError("not_a_list", f"stepsJson is {_kind(data)}, not an array of steps")
    if _SURROGATE.search(text):
        data = _without_lone_surrogates(data)
    reader = _Reader(fields, extra)
    return [reader.step(step, index) for index, step in enumerate(data)]


class _Reader:
    def __init__(self, fields: Fields, extra: str) -> None:
        self.fields = fields
        self.extra = extra

    def step(self, data: Any, index: int) -> dict[str, Any]:
        where = f"step {index}"
        numbered = isinstance(data, dict) and (data.get("stepNumber"), data.get("step_number")) != (
            None,
            None,
        )
        out = self.part("step", data, where)
        if not numbered:
            out["stepNumber"] = index
        out["environmentState"] = self.part("environment", out.get("environmentState") or {}, where)
        out["action"] = self.action(out.get("action") or {}, where)
        for key, part in (("llmCalls", "call"), ("providerAccesses", "access")):
            items = out.get(key) or []
            if not isinstance(items, list):
                plural = "calls" if part == "call" else "accesses"
                raise UnreadableRowError(f"{plural}_not_a_list", f"{where}: {key} is {_kind(items)}")
            out[key] = [self.part(part, item, f"{where}, {key}[{i}]") for i, item in enumerate(items)]
        return out

    def action(self, data: Any, where: str) -> dict[str, Any]:
        known_success = isinstance(data, dict) and data.get("success") is not None
        out = self.part("action", data, where)
        out["actionType"] = out["actionType"] or "pending"
        if not known_success:
            out["success"] = out["actionType"] != "pending" and out.get("error") is None
        return out

    def part(self, name: str, data: Any, where: str) -> dict[str, Any]:
        """One object with its aliases resolved, its values coerced, and its unknown keys set apart."""
        if not isinstance(data, dict):
            raise UnreadableRowError(f"{name}_not_an_object", f"{where}: {name} is {_kind(data)}")
        fields, aliases = self.fields[name], ALIASES[name]
        out: dict[str, Any] = {}
        unknown = dict(data.get(self.extra) or {})
        for key, value in data.items():
            field = key if key in fields else aliases.get(key) or _camel(key)
            if field not in fields:
                if key != self.extra:
                    unknown[key] = value
            elif key == field or field not in data:
                out[field] = value if field in _NESTED else coerce(value, fields[field], f"{where}: {key}")
        for field, kind in fields.items():
            if field not in out and field not in _NESTED:
                out[field] = coerce(None, kind, f"{where}: {field}")
        if unknown:
            out[self.extra] = unknown
        return out


def coerce(value: Any, kind: Any, where: str) -> Any:
    """`value` as the type `kind` of a field; null becomes the emptiest value that the field allows.

    Raises:
        UnreadableRowError: The value has no reading as that type.
    """
    wanted = set(typing.get_args(kind)) if isinstance(kind, types.UnionType) else {kind}
    nullable = types.NoneType in wanted
    wanted.discard(types.NoneType)
    if kind is Any or (value is None and nullable):
        return value
    if float in wanted or int in wanted:
        number = _number(value, where)
        if number is None and not nullable:
            return 0
        return _whole(number, where) if float not in wanted and number is not None else number
    target = next(iter(wanted))
    if target is bool:
        return value is True or (isinstance(value, str) and value.strip().lower() == "true") or value == 1
    if target is str:
        return _text(value)
    origin = typing.get_origin(target)
    if value is None:
        return [] if origin is list else {}
    if not isinstance(value, origin or target):
        raise UnreadableRowError("wrong_type", f"{where} is {_kind(value)}")
    return value


def _number(value: Any, where: str) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip().lower().removeprefix("+").removeprefix("-")
        if text in NOT_NUMBERS:
            return None
        try:
            value = float(value)
        except ValueError:
            raise UnreadableRowError("bad_number", f"{where} is {value[:40]!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnreadableRowError("bad_number", f"{where} is {_kind(value)}")
    return value if isinstance(value, int) or math.isfinite(value) else None


def _whole(number: int | float, where: str) -> int:
    if number != int(number):
        raise UnreadableRowError("bad_number", f"{where} is {number}, not a whole number")
    return int(number)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _camel(key: str) -> str:
    return _SNAKE.sub(lambda match: match.group(1).upper(), key)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _without_lone_surrogates(data: Any) -> Any:
    """U+FFFD in place of half a character, as every UTF-8 encoder of the web writes it."""
    if isinstance(data, str):
        return data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(data, list):
        return [_without_lone_surrogates(item) for item in data]
    if isinstance(data, dict):
        return {_without_lone_surrogates(k): _without_lone_surrogates(v) for k, v in data.items()}
    return data
