"""A vLLM-like upstream that answers at once with log-probabilities and token ids; as cheap as Python allows.

python mock_upstream.py PORT TOKENS
"""

import asyncio
import json
import sys
from typing import Any, cast

WORDS = (" buy", " BTC", " now", ",", " because", " the", " news", " is", " good")


def answer(model: str, tokens: int) -> bytes:
    """The body; log-probabilities depend on the model's name, as different weights' would."""
    shift = sum(model.encode()) % 97 / 1000
    words = [WORDS[number % len(WORDS)] for number in range(tokens)]
    logprobs = [
        {
            "token": word,
            "logprob": -0.1234567 * (number % 7) - shift,
            "bytes": list(word.encode()),
            "top_logprobs": [],
        }
        for number, word in enumerate(words)
    ]
    body: dict[str, Any] = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": 1790000000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(words), "tool_calls": []},
                "logprobs": {"content": logprobs},
                "finish_reason": "stop",
                "token_ids": [1000 + number for number in range(tokens)],
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": tokens, "total_tokens": 300 + tokens},
        "prompt_token_ids": list(range(300)),
    }
    return json.dumps(body, separators=(",", ":")).encode()


class Upstream(asyncio.Protocol):
    """One connection."""

    answers: dict[bytes, bytes] = {}
    tokens = 48

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        lowered = self._data[:end].lower()
        start = lowered.find(b"content-length:")
        length = int(lowered[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._data) < end + 4 + length:
            return
        body, self._data = self._data[end + 4 :], b""
        self._transport.write(self._reply(body))

    def _reply(self, body: bytes) -> bytes:
        start = body.rfind(b'"model":"')
        model = body[start + 9 :].split(b'"', 1)[0] if start >= 0 else b"mock"
        if model not in self.answers:
            content = answer(model.decode(), self.tokens)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self.answers[model] = head % len(content) + content
        return self.answers[model]


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    Upstream.tokens = int(sys.argv[2])
    uvloop.run(main(int(sys.argv[1])))
