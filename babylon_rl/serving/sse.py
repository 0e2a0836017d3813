"""Server-sent events, read as they arrive (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

MAX_EVENT_BYTES = 4 << 20


class EventTooLargeError(ValueError):
    """An event is larger than any answer should be."""


class EventReader:
    """Cuts a byte stream into the data of its events; comments and other fields are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that ends in this chunk.

        Raises:
            EventTooLargeError: an event does not end.
        """
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        events: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def end(self) -> list[bytes]:
        """What the stream ended in the middle of; servers that leave out the last blank line exist."""
        return self.feed(b"\n\n") if self._rest or self._data else []
