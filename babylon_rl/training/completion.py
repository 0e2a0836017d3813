"""One question to a freshly trained checkpoint, through ART's own client: does it answer at all?"""

import asyncio
import logging
import time
from dataclasses import dataclass

from babylon_rl.policy.chat import Message
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.trainer import Trainer

log = logging.getLogger(__name__)

TIMEOUT = 120.0
"""Seconds; a service may have to load the checkpoint first."""


@dataclass(frozen=True)
class Completion:
    """What came back.

    Attributes:
        answer: The checkpoint's words; None where it gave none.
        problem: Why there is no answer; empty where there is one.
        seconds: Wall time.
        step: ART's step that was asked.
    """

    answer: str | None
    problem: str
    seconds: float
    step: int


async def ask(trainer: Trainer, messages: list[Message], step: int) -> Completion:
    """Ask the newest checkpoint; a failure is reported and never raised, for the checkpoint is saved."""
    started = time.monotonic()
    answer, problem = None, ""
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = await trainer.complete(messages)
    except Exception as failure:  # whatever an inference service can do wrong
        problem = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    if problem:
        log.warning("the checkpoint of step %d is saved, but gave no answer: %s", step, problem)
    reached(Stage.COMPLETION_ASKED)
    return Completion(answer, problem, time.monotonic() - started, step)
