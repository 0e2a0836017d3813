"""What can go wrong between us and W&B Training, sorted by what is known afterwards."""

from babylon_rl.training.errors import TrainingError


class ServiceError(TrainingError):
    """The training service did not do what it was asked."""


class RefusedError(ServiceError):
    """The service answered that it did not accept a request; nothing happened there."""

    def __init__(self, status: int, message: str, remedy: str) -> None:
        self.status = status
        super().__init__(f"W&B Training refused the request ({status}): {message}", remedy)


class UnreachableServiceError(ServiceError):
    """The request never left this machine."""


class LostAnswerError(ServiceError):
    """The request may have been accepted; its answer was lost or made no sense."""


class ServiceDownError(ServiceError):
    """Reading from the service failed until the deadline; nothing was lost, the job goes on."""


class JobFailedError(ServiceError):
    """The service reported that the job failed; no step was trained."""

    def __init__(self, job: str, message: str) -> None:
        super().__init__(
            f"W&B Training's job {job} failed: {message}",
            "Look at the job there. Training the day again submits the chunk once more.",
        )


class JobDeadlineError(ServiceError):
    """A job did not end in time; it is not submitted again, but followed by the next run."""

    def __init__(self, job: str, minutes: float) -> None:
        super().__init__(
            f"W&B Training's job {job} had not ended after {minutes:g} minutes",
            "It goes on there. Train the day again to follow the same job, or raise "
            "TRAINING_DEADLINE_MINUTES.",
        )


class WrongStepError(ServiceError):
    """The service would train from another checkpoint than the registry's parent."""
