"""The named points of a training, in order. A process may be killed at any of them and run again.

`reached` tells listeners where a training is; the tests kill it there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """Points between which something durable may happen."""

    BACKEND_CHOSEN = "backend chosen"
    BATCH_LOADED = "batch loaded"
    UNIT_CLAIMED = "unit claimed"
    TRACKING_OPENED = "tracking opened"
    CHUNKS_RECORDED = "chunks recorded"

    # serverless
    MODEL_REGISTERED = "model registered at the service"
    STEP_READ = "step read from the service"
    SUBMITTING = "chunk about to be submitted"
    SUBMITTED = "submission answered, job not yet noted"
    JOB_NOTED = "job noted"
    JOB_STARTED = "job started"
    JOB_ENDED = "job ended"
    STEP_CONFIRMED = "step confirmed by the service"

    # embedded and local
    CHUNK_STARTED = "chunk started"
    MODEL_LOADED = "model loaded"
    WEIGHTS_TRAINED = "weights trained, nothing saved"
    FILES_WRITTEN = "files written, checkpoint not yet in place"
    CHECKPOINT_SAVED = "checkpoint in place"

    GRADIENT_STEP = "gradient step"
    CHUNK_RECORDED = "chunk recorded as done"
    COMPLETION_ASKED = "completion asked"
    UPLOAD_STARTED = "upload started"
    UPLOADED = "checkpoint uploaded"
    PUBLISHING = "publishing"
    REGISTERED = "model registered, not committed"
    PUBLISHED = "published"
    TRACKING_CLOSED = "tracking closed"
    BATCH_PROJECTED = "batch shown to the game"
    PROJECTED = "everything shown to the game"


_REMOTE_ONLY = frozenset(
    {
        Stage.MODEL_REGISTERED,
        Stage.STEP_READ,
        Stage.SUBMITTING,
        Stage.SUBMITTED,
        Stage.JOB_NOTED,
        Stage.JOB_STARTED,
        Stage.JOB_ENDED,
        Stage.STEP_CONFIRMED,
    }
)
_HERE_ONLY = frozenset(
    {
        Stage.CHUNK_STARTED,
        Stage.MODEL_LOADED,
        Stage.WEIGHTS_TRAINED,
        Stage.FILES_WRITTEN,
        Stage.CHECKPOINT_SAVED,
        Stage.UPLOAD_STARTED,
        Stage.UPLOADED,
    }
)

EMBEDDED_STAGES = tuple(stage for stage in Stage if stage not in _REMOTE_ONLY)
SERVERLESS_STAGES = tuple(stage for stage in Stage if stage not in _HERE_ONLY)
IN_DOUBT_STAGES = frozenset({Stage.SUBMITTING, Stage.SUBMITTED})
"""Where a serverless training that dies may or may not have been submitted."""

Listener = Callable[[Stage], None]
_listeners: list[Listener] = []


def reached(stage: Stage) -> None:
    """Tell the listeners; what they raise ends the training."""
    log.debug("training: %s", stage)
    for listener in tuple(_listeners):
        listener(stage)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a function called at every stage of this process's trainings."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
