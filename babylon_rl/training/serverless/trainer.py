"""Training a unit at W&B: submit each chunk once, follow its job, and know when nobody can know.

    pending -> submitting -> submitted -> done
                   |             `-> failed (the job said so; a later run submits again)
                   `-> adopted, if the next step appears and its counts are ours
                   `-> else the unit is in doubt, and an operator decides (`babylon train resolve`)

The row is written before the POST and the job's id before it is polled. A chunk that may have been submitted
is never submitted again by itself.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from babylon_rl.policy.chat import Message
from babylon_rl.training.chunk_ledger import ChunkLedger, ChunkRecord
from babylon_rl.training.chunks import Chunk
from babylon_rl.training.conversion import to_art_groups
from babylon_rl.training.gradient import Progress
from babylon_rl.training.options import BackendName, ServerlessTrainConfig
from babylon_rl.training.serverless.errors import (
    JobDeadlineError,
    JobFailedError,
    LostAnswerError,
    RefusedError,
    ServiceError,
    WrongStepError,
)
from babylon_rl.training.serverless.jobs import Counts, JobReport, matches, read_report
from babylon_rl.training.serverless.service import Checkpoint, TrainingService
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.trainer import Check, TrainedChunk, complete_through

if TYPE_CHECKING:
    import art


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        poll: Between two looks at a job.
        deadline: For a job's end and for every read on the way.
        grace: For a step to appear after a submission whose answer was lost.
    """

    poll: float
    deadline: float
    grace: float


class ServerlessTrainer:
    """Trains one unit at W&B Training; see `training.trainer.Trainer`.

    Args:
        service: The model's connection.
        parent_step: Step of the parent checkpoint; training starts there or not at all.
        rewind: Steps after the parent's that may be deleted, because the registry rejected them.
    """

    backend: BackendName = "serverless"

    def __init__(
        self,
        service: TrainingService,
        config: ServerlessTrainConfig,
        patience: Patience,
        *,
        parent_step: int,
        rewind: frozenset[int] = frozenset(),
    ) -> None:
        self.service, self.config, self.patience = service, config, patience
        self._expected, self._rewind = parent_step, rewind
        self._registered = False

    @property
    def model(self) -> "art.TrainableModel":
        return self.service.model

    async def train(
        self, chunk: Chunk, ledger: ChunkLedger, on_step: Progress | None, check: Check
    ) -> TrainedChunk:
        """Train a chunk, or go on with what an earlier attempt left of it; see `Trainer.train`.

        Raises:
            RefusedError: The service did not accept it.
            UnitInDoubtError: It may have been accepted, and nothing proves it.
            JobFailedError: The job failed.
            JobDeadlineError: The job did not end in time; the next run follows it.
            WrongStepError: The service stands at another checkpoint than the parent.
        """
        await self._register()
        row = ledger.rows[chunk.index]
        if row.status == "done":
            return self._known(chunk, row)
        if row.status == "submitted":
            return await self._follow(chunk, ledger, row, on_step, check)
        if row.status == "submitting":
            return await self._adopt(chunk, ledger, row, "an earlier process died while submitting", check)
        return await self._submit(chunk, ledger, row, on_step, check)

    async def complete(self, messages: list[Message]) -> str:
        """Ask the newest step through the service's own inference and ART's client for it."""
        await self._register()
        name = self.model.get_inference_name(step=self._expected)
        return await complete_through(self.model.openai_client(), name, messages)

    async def close(self) -> None:
        """Close the connections; jobs go on."""
        await self.service.close()

    def _until(self, seconds: float) -> float:
        return time.monotonic() + seconds

    async def _register(self) -> None:
        if not self._registered:
            await self.service.register(self._until(self.patience.deadline))
            self._registered = True
            reached(Stage.MODEL_REGISTERED)

    async def _submit(
        self, chunk: Chunk, ledger: ChunkLedger, row: ChunkRecord, on_step: Progress | None, check: Check
    ) -> TrainedChunk:
        before = await self._stand_at_parent(ledger, row)
        check()
        row = await ledger.write(chunk.index, "submitting", step_before=before)
        reached(Stage.SUBMITTING)
        try:
            job = await self.service.submit(to_art_groups(chunk.episodes), self.config)
        except LostAnswerError as lost:
            return await self._adopt(chunk, ledger, row, lost.problem, check)
        except ServiceError as refusal:  # refused or never sent: surely nothing happened
            await ledger.write(chunk.index, "pending", error=str(refusal))
            raise
        reached(Stage.SUBMITTED)
        row = await ledger.note_job(chunk.index, job)
        reached(Stage.JOB_NOTED)
        return await self._follow(chunk, ledger, row, on_step, check)

    async def _stand_at_parent(self, ledger: ChunkLedger, row: ChunkRecord) -> int:
        """The service's step, which must be that of the parent, or of the chunk before."""
        newest = await self.service.latest(self._until(self.patience.deadline))
        reached(Stage.STEP_READ)
        if newest.step == self._expected:
            return newest.step
        if row.status == "failed":
            what = f"the job of a failed attempt left step {newest.step} where {self._expected} was expected"
            raise await ledger.doubt(row.chunk, what)
        until = self._until(self.patience.deadline)
        newer = [step for step in await self.service.steps(until) if step > self._expected]
        if newer and set(newer) <= self._rewind:
            await self.service.delete_checkpoints(newer, until)
            if (await self.service.latest(until)).step == self._expected:
                return self._expected
        raise WrongStepError(
            f"W&B Training's model {self.model.name} is at step {newest.step}, but the parent is its step "
            f"{self._expected}: the service only trains from its newest checkpoint",
            "If the newer steps were rejected, TRAINING_REWIND=true deletes them; else set MODEL_NAME to a "
            "new name to start from the base model.",
        )

    async def _adopt(
        self, chunk: Chunk, ledger: ChunkLedger, row: ChunkRecord, why: str, check: Check
    ) -> TrainedChunk:
        """Take over the step that a lost submission made, if it shows up and its counts are ours."""
        before = row.step_before if row.step_before is not None else self._expected
        until = self._until(self.patience.grace)
        while True:
            check()
            newest = await self.service.latest(self._until(self.patience.deadline))
            if newest.step > before:
                break
            if time.monotonic() >= until:
                what = f"{why}, and no new step appeared within {self.patience.grace:g} s"
                raise await ledger.doubt(chunk.index, what)
            await asyncio.sleep(self.patience.poll)
        proof = matches(newest.metrics, Counts.of(chunk))
        if newest.step == before + 1 and proof.matching:
            return await self._record(chunk, ledger, newest, JobReport(metrics=newest.metrics))
        what = f"{why}; step {newest.step} appeared after step {before}, and {proof.finding}"
        raise await ledger.doubt(chunk.index, what)

    async def _follow(
        self, chunk: Chunk, ledger: ChunkLedger, row: ChunkRecord, on_step: Progress | None, check: Check
    ) -> TrainedChunk:
        """Poll a job's events to its end; they are read from the start, so a restart loses nothing."""
        job, until = str(row.external_job_id), self._until(self.patience.deadline)
        told, started = 0, False
        while True:
            check()
            try:
                report = read_report(await self.service.events(job, until))
            except RefusedError as gone:
                if gone.status != 404:
                    raise
                why = f"the service no longer knows job {job}"
                return await self._adopt(chunk, ledger, row, why, check)
            if report.sequences and not started:
                started = True
                reached(Stage.JOB_STARTED)
            for sample in report.samples[told:]:
                told += 1
                if on_step:
                    on_step(told, max(report.sequences, told), dict(sample))
                reached(Stage.GRADIENT_STEP)
            if report.failure is not None:
                await ledger.write(chunk.index, "failed", error=report.failure)
                raise JobFailedError(job, report.failure)
            if report.ended:
                reached(Stage.JOB_ENDED)
                return await self._confirm(chunk, ledger, row, report, until)
            if time.monotonic() >= until:
                raise JobDeadlineError(job, self.patience.deadline / 60)
            await asyncio.sleep(self.patience.poll)

    async def _confirm(
        self, chunk: Chunk, ledger: ChunkLedger, row: ChunkRecord, report: JobReport, until: float
    ) -> TrainedChunk:
        """Wait for the step that an ended job made."""
        before = row.step_before if row.step_before is not None else self._expected
        while (newest := await self.service.latest(until)).step <= before:
            if time.monotonic() >= until:
                raise JobDeadlineError(str(row.external_job_id), self.patience.deadline / 60)
            await asyncio.sleep(self.patience.poll)
        if newest.step != before + 1:
            what = (
                f"its job ended, but step {newest.step} follows step {before}: somebody else trains the model"
            )
            raise await ledger.doubt(chunk.index, what)
        reached(Stage.STEP_CONFIRMED)
        return await self._record(chunk, ledger, newest, report)

    async def _record(
        self, chunk: Chunk, ledger: ChunkLedger, newest: Checkpoint, report: JobReport
    ) -> TrainedChunk:
        metrics = {**Counts.of(chunk).metrics(), **report.mean()}
        stored = {"metrics": metrics, "samples": [dict(sample) for sample in report.samples], "id": newest.id}
        row = await ledger.write(
            chunk.index, "done", step_after=newest.step, checkpoint=self._address(newest.step), metrics=stored
        )
        return self._known(chunk, row)

    def _known(self, chunk: Chunk, row: ChunkRecord) -> TrainedChunk:
        """A chunk that is done, from its row."""
        assert row.step_after is not None
        self._expected = row.step_after
        stored: Mapping[str, Any] = row.metrics or {}
        checkpoint = row.checkpoint or self._address(row.step_after)  # an operator only says the step
        identity = f"{checkpoint} {stored.get('id', '')}".encode()
        return TrainedChunk(
            step=row.step_after,
            checkpoint=checkpoint,
            metrics=dict(stored.get("metrics", {})),
            samples=list(stored.get("samples", [])),
            files={checkpoint: hashlib.sha256(identity).hexdigest()},
            extra={"wandb_run_id": self.model.run_id, "wandb_artifact_id": checkpoint},
        )

    def _address(self, step: int) -> str:
        return f"wandb-artifact:///{self.model.entity}/{self.model.project}/{self.model.name}:step{step}"
