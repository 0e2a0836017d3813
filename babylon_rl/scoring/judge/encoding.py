"""JSON that can hold no structure but its own, and how many tokens a text has at most."""

import json
import math
import re
from typing import Any

# What can be taken for structure: angle brackets, quotes and brackets of other scripts, what normalises to or
# looks like them, & because it begins an entity, and letters that are drawn as nothing. What is not printable
# (controls, bidirectional marks, zero-width and tag characters, surrogates) is escaped as well.
_UNSAFE = re.compile(
    r"[<>&\u226e\u226f\ufe60\ufe64\ufe65\ufe68\uff02\uff06\uff1c\uff1e\uff3b-\uff3d\uff5b\uff5d"
    r"\u00ab\u00bb\u02c2\u02c3\u1433\u1438\u2039\u203a\u2329\u232a\u276e\u276f\u27e6-\u27eb\u29fc\u29fd\u3008-\u300b"
    r"\ufe37\ufe38\ufe3d-\ufe40\ufe47\ufe48\ufe5b\ufe5c\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"
    r"\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)

# One match is at most one token of OpenAI's tokenizers, as a rule: JSON with many numbers and short words has
# half as many characters per token as prose.
_PIECES = re.compile(
    r" ?[A-Z]?[a-z]{1,8}|[A-Z]{1,3}|[0-9]{1,3}|[^\x00-\x7f]|\s{1,4}|[^A-Za-z0-9\s\x80-\U0010ffff]{1,3}"
)
_WIDE = re.compile(r"[\U00010000-\U0010ffff]")
_MARGIN = 1.05


def encode(value: Any) -> str:
    """Returns JSON that holds no character that could be taken for structure or is not visible."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = _UNSAFE.sub(lambda match: _escaped(match.group()), text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def estimate_tokens(value: Any) -> int:
    """Returns an upper estimate of the tokens of a text, or of the JSON of anything else as it is sent.

    Measured against the tokenizers of gpt-4 and gpt-4o: up to 15 % above them for prompts and views.
    """
    text = value if isinstance(value, str) else encode(value)
    count = len(_PIECES.findall(text))
    if not text.isascii():
        count += 2 * len(_WIDE.findall(text))
    return math.ceil(count * _MARGIN)


def _escaped(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF:  # JSON escapes beyond the first plane are surrogate pairs
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"
