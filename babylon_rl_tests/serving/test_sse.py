"""Server-sent events, however they are cut on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.serving.sse import MAX_EVENT_BYTES, EventReader, EventTooLargeError

STREAM = (
    b": comment\n\ndata: one\n\nevent: x\nid: 7\ndata:two\n\ndata: a\r\ndata: b\r\n\r\n"
    b"data: \xf0\x9f\x9a\x80\n\ndata\n\nretry: 3\n\ndata: [DONE]\n\n"
)
EVENTS = [b"one", b"two", b"a\nb", "\U0001f680".encode(), b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    reader, found = EventReader(), []
    for start, end in zip(edges := [0, *sorted(cuts), len(STREAM)], edges[1:], strict=False):
        found += reader.feed(STREAM[start:end])
    assert found + reader.end() == EVENTS


def test_a_last_event_without_its_blank_line() -> None:
    reader = EventReader()
    assert reader.feed(b"data: x\n\ndata: y") == [b"x"]
    assert reader.end() == [b"y"]


def test_an_event_without_an_end_is_given_up() -> None:
    reader = EventReader()
    with pytest.raises(EventTooLargeError):
        for _ in range(2 * MAX_EVENT_BYTES // 65536):
            reader.feed(b"data: " + b"x" * 65536)
    lines = EventReader()
    with pytest.raises(EventTooLargeError):
        for _ in range(2 * MAX_EVENT_BYTES // 65536):
            lines.feed(b"data: " + b"x" * 65536 + b"\n")
