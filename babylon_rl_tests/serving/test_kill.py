"""kill -9 under load: every acknowledged call is in PostgreSQL afterwards, once."""

import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from babylon_rl.deployment.registry import ensure_base
from babylon_rl.settings import Settings
from babylon_rl_tests.serving.doubles import UpstreamDouble, answer
from babylon_rl_tests.serving.program import ASK, Program, gateway, in_database, stored, wait_for_stored


@pytest.fixture
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as started:
        yield started


class Load:
    """Callers that ask without pause, whole and streamed, until the gateway is gone."""

    def __init__(self, program: Program, callers: int = 8) -> None:
        self.acknowledged: list[str] = []
        self.enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(program, bool(number % 2))) for number in range(callers)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, program: Program, stream: bool) -> None:
        client = program.client(timeout=20)
        while True:
            try:
                if stream:
                    pieces = list(
                        client.chat.completions.create(model="babylon-agent", messages=ASK, stream=True)
                    )
                    if not pieces or pieces[-1].choices[0].finish_reason is None:
                        return
                    response_id = pieces[-1].id
                else:
                    response_id = client.chat.completions.create(model="babylon-agent", messages=ASK).id
            except (openai.OpenAIError, OSError, ValueError) as error:
                if not isinstance(error, openai.APIError):
                    raise
                return
            except Exception:  # httpx's own, where a stream ends without its last chunk
                return
            self.acknowledged.append(response_id)
            if len(self.acknowledged) >= 400:
                self.enough.set()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.mark.long
@pytest.mark.parametrize("level", ["process", "power"])
def test_no_acknowledged_call_is_lost_or_stored_twice(
    settings: Settings, double: UpstreamDouble, level: str, tmp_path: Path
) -> None:
    double.behave = answer(piece_delay=0.001)
    in_database(settings, lambda db: ensure_base(db.rl, base_model="tiny-base"))
    environment = {
        "GATEWAY_UPSTREAM_URL": double.url,
        "GATEWAY_CAPTURE": level,
        "GATEWAY_RETRIES": "0",
    }
    acknowledged: list[str] = []
    for _ in range(3):
        with gateway(settings, tmp_path / "log.txt", **environment) as program:
            load = Load(program)
            assert load.enough.wait(60)
            program.kill()
            load.wait()
            acknowledged += load.acknowledged
    with gateway(settings, tmp_path / "log.txt", **environment) as program:
        program.ask()
        wait_for_stored(settings, len(acknowledged) + 1, seconds=30)
        program.stop()
    rows = stored(settings, "response_id, version, capture_level, untrainable")
    ids = [row[0] for row in rows]
    assert len(ids) == len(set(ids)) and set(acknowledged) <= set(ids)
    assert {row[1:] for row in rows} == {("v0.0.0", level, "agent_not_verified")}
    assert len(double.requests) >= len(ids)


@pytest.mark.long
def test_a_database_that_is_away_delays_and_a_full_spool_refuses(
    settings: Settings, double: UpstreamDouble, tmp_path: Path
) -> None:
    in_database(settings, lambda db: ensure_base(db.rl, base_model="tiny-base"))
    environment = {"GATEWAY_UPSTREAM_URL": double.url, "GATEWAY_SPOOL_BYTES": "65536"}

    def lock(db):  # noqa: ANN001, ANN202 - what a long migration does to the table
        return db.rl.execute("ALTER TABLE rl.llm_calls RENAME TO llm_calls_away")

    with gateway(settings, tmp_path / "log.txt", **environment) as program:
        in_database(settings, lock)
        answered = []
        with pytest.raises(openai.InternalServerError, match="spool is full"):
            for _ in range(1000):
                answered.append(program.ask())
        assert 20 < len(answered) < 500
        in_database(settings, lambda db: db.rl.execute("ALTER TABLE rl.llm_calls_away RENAME TO llm_calls"))
        wait_for_stored(settings, len(answered), seconds=30)
        patient = program.client().with_options(max_retries=5)  # as the official client does it
        assert patient.chat.completions.create(model="babylon-agent", messages=ASK).choices
