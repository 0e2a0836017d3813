"""The gateway as a program of its own: it follows deployments, keeps every call, and stops cleanly."""

import asyncio
import re
import socket
import subprocess
import threading
from pathlib import Path

import openai
import pytest

from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.errors import UnknownVersionError
from babylon_rl.policy.errors import CheckpointError, PortInUseError
from babylon_rl.serving.errors import GatewaySetupError
from babylon_rl.serving.gateway import run_gateway
from babylon_rl.settings import Settings
from babylon_rl_tests.serving.program import (
    ASK,
    PROGRAM,
    Program,
    gateway,
    in_database,
    stored,
    wait_for_stored,
)
from babylon_rl_tests.serving.versions import copied, deployed, spoil, trained


def register_base(settings: Settings) -> None:
    in_database(settings, lambda db: ensure_base(db.rl, settings))


def deploy(settings: Settings, path: Path) -> None:
    in_database(settings, lambda db: deployed(db.rl, path))


def test_it_follows_deployments_survives_a_corrupt_one_and_stops_cleanly(
    settings: Settings, home_with_base: Path, base_checkpoint: Path, tmp_path: Path
) -> None:
    register_base(settings)
    log = tmp_path / "log.txt"
    with gateway(settings, log) as program:
        assert program.ask() == "v0.0.0", "the base model, before anything is deployed"
        with Questions(program) as questions:
            deploy(settings, trained(base_checkpoint, tmp_path / "1", 1))
            program.wait_until_answered_by("v0.0.1")
            spoil(corrupt := copied(base_checkpoint, tmp_path / "2"))
            deploy(settings, corrupt)
            deploy(settings, copied(base_checkpoint, tmp_path / "3"))
            program_log_says(log, "the canary of v0.0.3 failed")
            assert program.ask() == "v0.0.1", "what works goes on"
            deploy(settings, trained(base_checkpoint, tmp_path / "4", 2))
            program.wait_until_answered_by("v0.0.4")
        assert questions.failures == [] and questions.asked > 20, "no request was dropped"
        status = program.stop()
        assert status in (0, -15, 128 + 15)
    assert "Traceback" not in log.read_text(), log.read_text()
    rows = stored(settings, "response_id, version, untrainable")
    assert {row[0] for row in rows} >= set(questions.answered), "every answer is kept"
    assert {row[1] for row in rows} == {"v0.0.0", "v0.0.1", "v0.0.4"}
    port = int(re.findall(r":(\d+)/", program.address)[0])
    socket.create_server(("127.0.0.1", port)).close()


class Questions:
    """Asks from a thread, whole and streamed in turns, for as long as it is open."""

    def __init__(self, program: Program) -> None:
        self._program, self._end = program, threading.Event()
        self.asked, self.failures, self.answered = 0, [], []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        client = self._program.client()
        while not self._end.wait(0.02):
            self.asked += 1
            try:
                if self.asked % 2:
                    self.answered.append(
                        client.chat.completions.create(model="babylon-agent", messages=ASK).id
                    )
                else:
                    pieces = list(
                        client.chat.completions.create(model="babylon-agent", messages=ASK, stream=True)
                    )
                    self.answered.append(pieces[-1].id)
            except openai.OpenAIError as error:
                self.failures.append(error)

    def __enter__(self) -> "Questions":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def program_log_says(log: Path, words: str, seconds: float = 60.0) -> None:
    import time

    limit = time.monotonic() + seconds
    while words not in log.read_text():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.1)


def test_a_call_is_in_postgresql_within_a_second_with_all_that_training_needs(
    settings: Settings, home_with_base: Path, tmp_path: Path
) -> None:
    register_base(settings)
    key = "key-of-agent-7-0123456789"
    with gateway(settings, tmp_path / "log.txt", GATEWAY_API_KEYS=f"agent-7={key}") as program:
        client = program.client(key=key)
        whole = client.chat.completions.create(
            model="babylon-agent", messages=ASK, seed=5, temperature=0.7, max_tokens=9, user="u\x00"
        )
        [(response_id,)] = wait_for_stored(settings, 1, seconds=2.0)
        assert response_id == whole.id
        again = client.chat.completions.create(
            model="babylon-agent", messages=ASK, seed=5, temperature=0.7, max_tokens=9, stream=True
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in again if piece.choices)
        wait_for_stored(settings, 2, seconds=2.0)
        assert text == whole.choices[0].message.content, "the same seed"
    columns = (
        "agent_id, version, token_ids, logprobs, logprobs_of, temperature, seed, finish_reason, untrainable"
    )
    one, other = stored(settings, columns)
    assert one[0] == "agent-7" and one[1] == "v0.0.0" and one[4:7] == ("sampled", 0.7, 5)
    assert one == other and len(one[2]) == len(one[3]) > 0
    assert one[8] is None or one[7] == "length"
    prompts = stored(settings, "prompt_token_ids, messages, parameters, content_sha256, chat_template_hash")
    assert (
        prompts[0][0] == prompts[1][0] and "AURUM crash" in prompts[0][1] and prompts[0][3:] == prompts[1][3:]
    )
    assert "u\\u0000" in prompts[0][2]


def test_an_occupied_port_is_said_before_anything_else(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"Port {port} on 127\.0\.0\.1 is in use"):
            asyncio.run(run_gateway(settings, port=port))


def test_an_open_address_needs_keys(settings: Settings) -> None:
    with pytest.raises(GatewaySetupError, match="Set GATEWAY_API_KEYS"):
        asyncio.run(run_gateway(settings, host="0.0.0.0", port=0))


def test_without_a_model_it_does_not_start(
    settings: Settings,
    home_with_base: Path,
    base_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnknownVersionError, match=r"there is no model v0\.0\.0"):
        asyncio.run(run_gateway(settings, port=0))
    register_base(settings)
    spoil(corrupt := copied(base_checkpoint, tmp_path / "1"))
    deploy(settings, corrupt)
    alone = settings.model_copy(update={"rl_fallback_to_base": False})
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        asyncio.run(run_gateway(alone, port=0))


@pytest.mark.long
def test_an_occupied_port_is_one_line_and_a_failure(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = [*PROGRAM, "--port", str(other.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert "is in use" in line and "choose another port" in line
