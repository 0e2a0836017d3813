"""Serverless training: ART's real client and a server that speaks the protocol and fails at every call."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.training import units
from babylon_rl.training.chunk_ledger import ChangedChunksError, ChunkLedger, read_chunks
from babylon_rl.training.chunks import Chunk, cut
from babylon_rl.training.conversion import TrainableEpisode
from babylon_rl.training.options import CutRules, ServerlessTrainConfig
from babylon_rl.training.serverless.errors import (
    JobDeadlineError,
    JobFailedError,
    RefusedError,
    ServiceDownError,
    UnreachableServiceError,
    WrongStepError,
)
from babylon_rl.training.serverless.service import TrainingService
from babylon_rl.training.serverless.trainer import Patience, ServerlessTrainer
from babylon_rl.training.trainer import TrainedChunk
from babylon_rl.training.unit_errors import LostLeaseError, UnitInDoubtError
from babylon_rl.training.units import Lease, TrainingUnit
from babylon_rl_tests.played import play_day, trainable
from babylon_rl_tests.shared_database import dsn, file_dsn
from babylon_rl_tests.training_server import TrainingServer

pytestmark = pytest.mark.anyio

__all__ = ["dsn", "file_dsn"]

BASE = "OpenPipe/Qwen3-14B-Instruct"
UNIT = TrainingUnit("b" * 64, "v0.0.0", {"backend": "serverless"}, "serverless", date(2026, 10, 1), "because")
JOBS, CHECKPOINTS, MODELS = "/training-jobs", "/checkpoints", "/preview/models"
EVENTS = "/events"


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=3, agents=4, seed=2))


@pytest.fixture
def chunks(episodes: list[TrainableEpisode]) -> list[Chunk]:
    return cut(episodes, CutRules())


@pytest.fixture
def remote() -> Iterator[TrainingServer]:
    with TrainingServer() as running:
        yield running


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn, role="babylon_trainer")
    yield opened
    await opened.close()


class Attempt:
    """One process's attempt at the unit."""

    def __init__(self, rl: asyncpg.Connection, remote: TrainingServer, **options: Any) -> None:
        self.rl, self.remote, self.options = rl, remote, options
        self.progress: list[tuple[int, int]] = []

    async def run(
        self, chunks: list[Chunk], *, deadline: float = 5.0, grace: float = 0.2
    ) -> list[TrainedChunk]:
        lease = await units.claim(self.rl, UNIT, owner="test", ttl=timedelta(0))
        try:
            return await self.train(lease, chunks, Patience(0.01, deadline, grace))
        except BaseException as problem:
            if not isinstance(problem, asyncio.CancelledError):  # a killed process notes nothing
                await units.fail(self.rl, lease, str(problem))
            raise

    async def train(self, lease: Lease, chunks: list[Chunk], patience: Patience) -> list[TrainedChunk]:
        ledger = await ChunkLedger.open(self.rl, lease, chunks)
        trainer = self.trainer(patience)
        try:
            return [await trainer.train(chunk, ledger, self.note, lambda: None) for chunk in chunks]
        finally:
            await trainer.close()

    def trainer(self, patience: Patience) -> ServerlessTrainer:
        from babylon_rl.training.art_import import import_art

        model = import_art().TrainableModel(
            name="babylon-agent",
            project="tests",
            entity=self.options.pop("entity", None),
            base_model=self.options.pop("base_model", BASE),
            report_metrics=[],
        )
        key, url = self.options.pop("api_key", self.remote.api_key), self.options.pop("base_url", None)
        service = TrainingService(model, api_key=key, base_url=url or self.remote.base_url, pause=0.01)
        options = {"parent_step": 0, **self.options}
        return ServerlessTrainer(service, ServerlessTrainConfig(learning_rate=1e-5), patience, **options)

    def note(self, done: int, total: int, metrics: dict[str, float]) -> None:
        self.progress.append((done, total))


async def test_a_chunk_becomes_a_job_and_a_step(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    attempt = Attempt(rl, remote)
    [trained] = await attempt.run(chunks)
    [job] = remote.jobs.values()
    assert trained.step == remote.step == 1
    assert trained.checkpoint == "wandb-artifact:///default-entity/tests/babylon-agent:step1"
    assert trained.metrics["loss/train"] == pytest.approx((0.5 + 0.25) / 2)
    assert trained.metrics["data/step_num_trajectories"] == len(job.trajectories) == 12
    assert trained.metrics["data/step_trainer_tokens"] == job.tokens > 0
    assert [sample["loss/train"] for sample in trained.samples] == [0.5, 0.25]
    assert attempt.progress == [(1, 2), (2, 2)]
    assert trained.extra["wandb_run_id"].startswith("run-")
    config = job.body["experimental_config"]
    assert (config["learning_rate"], config["scale_rewards"], config["ppo"]) == (1e-5, False, False)
    [row] = await read_chunks(rl, UNIT.key)
    assert (row.status, row.step_before, row.step_after, row.attempt) == ("done", 0, 1, 1)
    assert row.external_job_id == job.id == (await units.find(rl, UNIT.key)).external_job_id
    assert (await units.find(rl, UNIT.key)).backend_reason == "because"


async def test_what_is_sent_is_the_recorded_tokens_and_no_outcome(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    await Attempt(rl, remote).run(chunks)
    [job] = remote.jobs.values()
    episode, sent = chunks[0].episodes[0], job.trajectories[0]
    assert sent["reward"] == episode.advantage
    [choice] = [m for m in sent["messages_and_choices"] if "finish_reason" in m]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [
        f"token_id:{token}" for token in episode.calls[0].token_ids
    ]
    assert [entry["logprob"] for entry in choice["logprobs"]["content"]] == list(episode.calls[0].logprobs)


async def test_chunks_are_trained_in_order_one_step_each(
    rl: asyncpg.Connection, remote: TrainingServer, episodes: list[TrainableEpisode]
) -> None:
    chunks = cut(episodes, CutRules(windows=1))
    assert len(chunks) == 3
    trained = await Attempt(rl, remote).run(chunks)
    assert [chunk.step for chunk in trained] == [1, 2, 3] and remote.step == 3
    sent = [job.body["trajectory_groups"][0]["metadata"]["window_id"] for job in remote.jobs.values()]
    assert sent == [chunk.episodes[0].window_id for chunk in chunks]
    again = await Attempt(rl, remote).run(chunks)
    assert [chunk.step for chunk in again] == [1, 2, 3] and len(remote.jobs) == 3


async def test_other_chunks_than_were_recorded_are_refused(
    rl: asyncpg.Connection, remote: TrainingServer, episodes: list[TrainableEpisode]
) -> None:
    await Attempt(rl, remote).run(cut(episodes, CutRules()))
    with pytest.raises(ChangedChunksError, match="was cut into other chunks before"):
        await Attempt(rl, remote).run(cut(episodes[:-1], CutRules()))


async def test_nothing_touches_wandb(
    rl: asyncpg.Connection,
    remote: TrainingServer,
    chunks: list[Chunk],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    """ART logs to W&B whenever the key is in the environment; our own loop never gives it the occasion."""
    with socket.create_server(("127.0.0.1", 0)) as spy:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{spy.getsockname()[1]}")
        await Attempt(rl, remote).run(chunks)
        spy.settimeout(0.2)
        with pytest.raises(TimeoutError):
            spy.accept()
    assert os.listdir(tmp_path) == []
    assert remote.authorizations == {"Bearer test-key"}, "the environment's key was not used"


MISBEHAVIOURS: list[dict[str, Any]] = [
    {"status": 408},
    {"status": 429, "headers": {"retry-after": "0.05"}},
    {"status": 500},
    {"status": 503, "times": 3},
    {"drop": True},
    {"cut": True, "process": True},
    {"body": "<html>gateway</html>"},
    {"body": "[1, 2]"},
    {"delay": 0.05},
]
READS = [("POST", MODELS), ("GET", CHECKPOINTS), ("GET", EVENTS)]


@pytest.mark.parametrize("what", MISBEHAVIOURS, ids=str)
@pytest.mark.parametrize(("method", "path"), READS)
@pytest.mark.parametrize("skip", [0, 1])
async def test_every_harmless_call_is_repeated_until_it_succeeds(
    rl: asyncpg.Connection,
    remote: TrainingServer,
    chunks: list[Chunk],
    method: str,
    path: str,
    what: dict[str, Any],
    skip: int,
) -> None:
    remote.fault(method, path, skip=skip, **what)
    [trained] = await Attempt(rl, remote).run(chunks)
    assert trained.step == remote.step == 1 and len(remote.jobs) == 1
    assert trained.metrics["loss/train"] == pytest.approx(0.375)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
async def test_a_refused_submission_did_not_happen(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], status: int
) -> None:
    remote.fault("POST", JOBS, status=status)
    with pytest.raises(RefusedError, match=rf"refused the request \({status}\)") as refusal:
        await Attempt(rl, remote).run(chunks)
    assert refusal.value.remedy and not remote.jobs
    [row] = await read_chunks(rl, UNIT.key)
    assert row.status == "pending" and row.error
    assert (await units.find(rl, UNIT.key)).status == "failed"
    [trained] = await Attempt(rl, remote).run(chunks)
    assert trained.step == 1 and len(remote.jobs) == 1


@pytest.mark.parametrize(("method", "path"), READS)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_told_at_once(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], method: str, path: str, status: int
) -> None:
    remote.fault(method, path, status=status, times=None)
    with pytest.raises(RefusedError, match=r"Check .*WANDB_API_KEY"):
        await Attempt(rl, remote).run(chunks, deadline=60)


async def test_a_service_that_is_not_there_was_not_asked(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServiceDownError, match="no usable answer until the deadline: .* cannot be reached"):
        await Attempt(rl, remote, base_url=nowhere).run(chunks, deadline=0.2)
    attempt = Attempt(rl, remote)
    lease = await units.claim(rl, UNIT, owner="test", ttl=timedelta(0))
    trainer = attempt.trainer(Patience(0.01, 5, 0.2))
    ledger = await ChunkLedger.open(rl, lease, chunks)
    await trainer._register()
    real = trainer.service.submit

    async def vanish(*arguments: Any) -> str:
        trainer.service._client.base_url = nowhere
        return await real(*arguments)

    monkeypatch.setattr(trainer.service, "submit", vanish)
    with pytest.raises(UnreachableServiceError, match="cannot be reached"):
        await trainer.train(chunks[0], ledger, None, lambda: None)
    assert (await read_chunks(rl, UNIT.key))[0].status == "pending"
    await trainer.close()


LOST: list[dict[str, Any]] = [
    {"drop": True},
    {"cut": True},
    {"status": 500},
    {"status": 408},
    {"status": 409},
    {"body": "[]"},
    {"body": "{}"},
    {"body": "junk"},
]


@pytest.mark.parametrize("what", LOST, ids=str)
async def test_a_lost_answer_is_adopted_when_the_step_has_our_counts(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], what: dict[str, Any]
) -> None:
    remote.fault("POST", JOBS, process=True, **what)
    [trained] = await Attempt(rl, remote).run(chunks, grace=5)
    assert trained.step == remote.step == 1 and len(remote.jobs) == 1
    assert trained.metrics["loss/train"] == 0.25, (
        "what the checkpoint says; the events belong to an unknown job"
    )
    [row] = await read_chunks(rl, UNIT.key)
    assert (row.status, row.external_job_id) == ("done", None)


@pytest.mark.parametrize("what", LOST, ids=str)
async def test_a_lost_answer_without_a_step_is_in_doubt_and_never_submitted_again(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], what: dict[str, Any]
) -> None:
    remote.fault("POST", JOBS, **what)
    with pytest.raises(UnitInDoubtError, match=r"no new step appeared within 0.2 s.*babylon train resolve"):
        await Attempt(rl, remote).run(chunks)
    assert (await units.find(rl, UNIT.key)).status == "in_doubt"
    [row] = await read_chunks(rl, UNIT.key)
    assert row.status == "submitting" and row.error and row.attempt == 1
    remote.heal()
    for _ in range(2):
        with pytest.raises(UnitInDoubtError):
            await Attempt(rl, remote).run(chunks)
    assert not remote.jobs


async def test_a_step_without_counts_is_not_adopted(rl: asyncpg.Connection, chunks: list[Chunk]) -> None:
    with TrainingServer(counts=False) as remote:
        remote.fault("POST", JOBS, process=True, drop=True)
        with pytest.raises(UnitInDoubtError, match="step 1 appeared .* carries no counts to compare"):
            await Attempt(rl, remote).run(chunks, grace=5)


@pytest.mark.parametrize(
    "metrics", [{"num_trajectories": 11.0}, {"num_trajectories": 12.0, "num_trainable_tokens": 1.0}]
)
async def test_somebody_elses_step_is_not_adopted(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], metrics: dict[str, float]
) -> None:
    remote.fault("POST", JOBS, drop=True)
    find_fault = remote.find_fault

    def train_elsewhere(method: str, path: str) -> Any:
        if JOBS in path:
            [model] = remote.checkpoints
            remote.advance(model, metrics)
        return find_fault(method, path)

    remote.find_fault = train_elsewhere  # type: ignore[method-assign]
    with pytest.raises(UnitInDoubtError, match="where the chunk has"):
        await Attempt(rl, remote).run(chunks, grace=5)


async def test_a_process_that_died_while_submitting_is_resolved_by_the_step(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = TrainingService.submit

    async def submit_and_die(*arguments: Any) -> str:
        await submit(*arguments)
        raise asyncio.CancelledError

    monkeypatch.setattr(TrainingService, "submit", submit_and_die)
    with pytest.raises(asyncio.CancelledError):
        await Attempt(rl, remote).run(chunks)
    assert (await read_chunks(rl, UNIT.key))[0].status == "submitting"
    [trained] = await Attempt(rl, remote).run(chunks, grace=5)
    assert trained.step == 1 and len(remote.jobs) == 1


async def test_a_noted_job_is_followed_from_its_start_by_the_next_process(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    first = Attempt(rl, remote)

    def die(done: int, *_: Any) -> None:
        raise asyncio.CancelledError

    first.note = die  # type: ignore[assignment,method-assign]
    with pytest.raises(asyncio.CancelledError):
        await first.run(chunks)
    [row] = await read_chunks(rl, UNIT.key)
    assert row.status == "submitted" and row.external_job_id in remote.jobs
    second = Attempt(rl, remote)
    [trained] = await second.run(chunks)
    assert second.progress == [(1, 2), (2, 2)] and len(remote.jobs) == 1
    assert trained.metrics["loss/train"] == pytest.approx(0.375)


async def test_a_job_that_never_answers_is_left_and_followed_again(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    remote.stuck = True
    for _ in range(2):
        with pytest.raises(JobDeadlineError, match="follow the same job, or raise TRAINING_DEADLINE_MINUTES"):
            await Attempt(rl, remote).run(chunks, deadline=0.2)
    remote.stuck = False
    [trained] = await Attempt(rl, remote).run(chunks)
    assert trained.step == 1 and len(remote.jobs) == 1


async def test_a_service_that_hangs_ends_at_the_deadline(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    remote.fault("GET", EVENTS, times=None, delay=5)
    with pytest.raises(ServiceDownError, match="Nothing was lost"):
        await Attempt(rl, remote).run(chunks, deadline=0.3)
    assert (await read_chunks(rl, UNIT.key))[0].status == "submitted"


async def test_a_failed_job_is_told_and_a_later_run_submits_again(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    remote.failing = "CUDA out of memory"
    with pytest.raises(JobFailedError, match="CUDA out of memory"):
        await Attempt(rl, remote).run(chunks)
    [row] = await read_chunks(rl, UNIT.key)
    assert (row.status, row.error) == ("failed", "CUDA out of memory") and remote.step == 0
    remote.failing = None
    [trained] = await Attempt(rl, remote).run(chunks)
    [row] = await read_chunks(rl, UNIT.key)
    assert trained.step == 1 and row.attempt == 2 and row.external_job_id == list(remote.jobs)[1]


async def test_a_failed_job_that_trained_after_all_is_in_doubt(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    remote.failing = "lost contact with the GPU"
    with pytest.raises(JobFailedError):
        await Attempt(rl, remote).run(chunks)
    [model] = remote.checkpoints
    remote.advance(model, {"num_trajectories": 12.0})
    with pytest.raises(UnitInDoubtError, match="a failed attempt left step 1 where 0 was expected"):
        await Attempt(rl, remote).run(chunks)
    assert len(remote.jobs) == 1


async def test_a_job_that_the_service_forgot_is_adopted_or_in_doubt(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    remote.fault("GET", EVENTS, status=404, times=None, skip=1)
    with pytest.raises(UnitInDoubtError, match="no longer knows job"):
        remote.stuck = True
        await Attempt(rl, remote).run(chunks)


async def test_events_that_make_no_sense_are_passed_over(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    def spoil(event: dict[str, Any]) -> None:
        if event["type"] == "gradient_step":
            event["data"] |= {"kl_div": None, "note": "text", "flag": True}
        if event["type"] == "training_started":
            event["data"] = {}

    remote.on_event = spoil
    [trained] = await Attempt(rl, remote).run(chunks)
    assert trained.metrics["loss/train"] == pytest.approx(0.375) and "loss/kl_div" not in trained.metrics


async def test_the_service_must_stand_at_the_parent(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    await Attempt(rl, remote).trainer(Patience(0.01, 5, 0.2))._register()
    [model] = remote.checkpoints
    remote.advance(model, {})
    with pytest.raises(
        WrongStepError, match=r"at step 1, but the parent is its step 0.*TRAINING_REWIND=true"
    ):
        await Attempt(rl, remote).run(chunks)
    assert not remote.jobs
    [trained] = await Attempt(rl, remote, rewind=frozenset({1})).run(chunks)
    assert trained.step == 1 and [c["step"] for c in remote.checkpoints[model]] == [0, 1]


async def test_unknown_checkpoints_are_never_deleted(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    await Attempt(rl, remote).trainer(Patience(0.01, 5, 0.2))._register()
    [model] = remote.checkpoints
    remote.advance(model, {})
    remote.advance(model, {})
    with pytest.raises(WrongStepError):
        await Attempt(rl, remote, rewind=frozenset({1})).run(chunks)
    assert not [request for request in remote.requests if request[0] == "DELETE"]


@pytest.mark.parametrize("conflict", [True, False])
async def test_another_base_model_under_this_name_is_refused(
    rl: asyncpg.Connection, chunks: list[Chunk], conflict: bool
) -> None:
    with TrainingServer(conflict=conflict) as remote:
        await Attempt(rl, remote).trainer(Patience(0.01, 5, 0.2))._register()
        with pytest.raises(RefusedError, match="MODEL_NAME to a new name"):
            await Attempt(rl, remote, base_model="Qwen/Qwen3-30B-A3B-Instruct-2507").run(chunks)


async def test_a_reward_that_is_no_number_is_refused_before_it_is_sent(
    rl: asyncpg.Connection, remote: TrainingServer, episodes: list[TrainableEpisode]
) -> None:
    from dataclasses import replace

    broken = [replace(episodes[0], advantage=float("nan")), *episodes[1:]]
    with pytest.raises(RefusedError, match="build the batch again"):
        await Attempt(rl, remote).run(cut(broken, CutRules()))
    assert not remote.jobs and (await read_chunks(rl, UNIT.key))[0].status == "pending"


async def test_a_process_that_lost_its_lease_writes_and_submits_nothing(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    stale = await units.claim(rl, UNIT, owner="stale", ttl=timedelta(0))
    ledger = await ChunkLedger.open(rl, stale, chunks)
    await units.claim(rl, UNIT, owner="fresh", ttl=timedelta(seconds=30))
    trainer = Attempt(rl, remote).trainer(Patience(0.01, 5, 0.2))
    with pytest.raises(LostLeaseError, match="fresh took it over"):
        await trainer.train(chunks[0], ledger, None, lambda: None)
    with pytest.raises(LostLeaseError):
        await ledger.doubt(0, "?")
    await trainer.close()
    assert not remote.jobs


async def test_the_newest_step_answers_through_arts_own_client(
    rl: asyncpg.Connection, remote: TrainingServer, chunks: list[Chunk]
) -> None:
    lease = await units.claim(rl, UNIT, owner="test", ttl=timedelta(0))
    ledger = await ChunkLedger.open(rl, lease, chunks)
    trainer = Attempt(rl, remote).trainer(Patience(0.01, 5, 0.2))
    await trainer.train(chunks[0], ledger, None, lambda: None)
    assert await trainer.complete([{"role": "user", "content": "?"}]) == "HOLD"
    await trainer.close()
