"""What was said in a call, as a hash: the key under which two records of one call find each other."""

import hashlib
from typing import Any

import msgspec


def content_sha256(messages: list[Any], response: str) -> str:
    """Hash of what was said: roles and texts of the messages, and the answer's text.

    Finds the call of a recorded step that kept no response id.
    """
    said = [[field_of(message, "role"), text_of(field_of(message, "content"))] for message in messages]
    return hashlib.sha256(msgspec.json.encode([said, response])).hexdigest()


def field_of(record: Any, name: str) -> Any:
    """A field of a JSON object; None where it has none, or is no object."""
    return record.get(name) if isinstance(record, dict) else None


def text_of(content: Any) -> str:
    """The text of a message's content, which OpenAI's format also allows to be a list of parts."""
    if isinstance(content, list):
        return "".join(text_of(field_of(part, "text")) for part in content)
    return content if isinstance(content, str) else ""
