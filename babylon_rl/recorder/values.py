"""Checking and writing single values: moments, numbers, records, text, JSON."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from babylon_rl.recorder.errors import InvalidRecordingError
from babylon_rl.records.steps import (
    EXTRA,
    Action,
    EnvironmentState,
    LlmCall,
    ProviderAccess,
    Step,
    encode_steps,
)
from babylon_rl.windows import NaiveTimeError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_Record = TypeVar("_Record", EnvironmentState, ProviderAccess, LlmCall, Action)


def milliseconds(moment: datetime, what: str) -> int:
    """Milliseconds since 1970 in UTC, cut and not rounded: rounding up could move a row into the next window.

    Raises:
        NaiveTimeError: `moment` has no time zone; `what` names it.
    """
    if moment.utcoffset() is None:
        raise NaiveTimeError(f"{what} {moment!r} has no time zone", "Use datetime.now(UTC).")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def finite(value: float | None, what: str) -> float | None:
    """`value`, unless it is NaN or infinite, which would make every average over its column NaN."""
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise InvalidRecordingError(
            f"{what} is {value!r}, not a number", "Leave it out where it is not known."
        )
    return value


def as_record(kind: type[_Record], value: _Record | Mapping[str, Any]) -> _Record:
    """`value` as a record; a mapping may use the names of Python or of the wire, unknown keys are kept.

    Raises:
        InvalidRecordingError: A field is missing or of another type.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise InvalidRecordingError(
            f"{type(value).__name__} was given for a {kind.__name__}", "Give the record or a mapping."
        )
    names = {
        name: known.encode_name
        for known in msgspec.structs.fields(kind)
        for name in (known.name, known.encode_name)
    }
    wire: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, item in value.items():
        (wire if key in names else extra)[names.get(key, key)] = item
    try:
        return msgspec.convert(wire | ({EXTRA: extra} if extra else {}), kind)
    except msgspec.ValidationError as problem:
        raise InvalidRecordingError(f"{kind.__name__}: {problem}", "See babylon_rl.records.steps.") from None


def check_call(call: LlmCall) -> LlmCall:
    """`call`, unless it lacks what `llm_call_logs` requires."""
    if call.temperature is None or call.max_tokens is None:
        raise InvalidRecordingError(
            f"The LLM call of {call.model!r} lacks temperature or maxTokens",
            "Record the sampling parameters with every call.",
        )
    return call


def column_text(text: str | None) -> Any:
    """Text that a column takes: no NUL and no half surrogate pair, which JavaScript strings may hold."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return _whole(text.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def to_json(value: Any, what: str) -> str:
    """`value` as JSON; NaN becomes null, as in JavaScript, and half a surrogate pair U+FFFD.

    Raises:
        InvalidRecordingError: `what` holds something that JSON has no form for.
    """
    return _encoded(lambda item: msgspec.json.encode(item).decode(), value, what)


def step_json(step: Step) -> str:
    """One step as it stands in `stepsJson`; errors as in `to_json`."""
    if not _has_extra(step):
        try:
            return msgspec.json.encode(step).decode()
        except (TypeError, ValueError, RecursionError):
            pass  # half a surrogate pair, or something without a form in JSON: see which

    def encode(item: Any) -> str:
        return encode_steps([msgspec.convert(item, Step)])[1:-1]

    return _encoded(encode, step, f"Step {step.step_number}")


def _has_extra(step: Step) -> bool:
    """Whether some part has keys that no field stands for, which the plain encoding would misplace."""
    if step.extra or step.environment_state.extra or step.action.extra:
        return True
    for call in step.llm_calls:
        if call.extra:
            return True
    return any(access.extra for access in step.provider_accesses)


def _encoded(encode: Callable[[Any], str], value: Any, what: str) -> str:
    try:
        try:
            return encode(value)
        except UnicodeEncodeError:
            return encode(_whole(msgspec.to_builtins(value)))
    except (TypeError, ValueError, RecursionError) as problem:
        raise InvalidRecordingError(
            f"{what} cannot be written as JSON: {problem}", "Use plain values."
        ) from None


def _whole(value: Any) -> Any:
    """`value` with every half surrogate pair replaced: neither UTF-8 nor PostgreSQL can hold one."""
    if isinstance(value, str):
        return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value
