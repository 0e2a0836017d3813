"""What can go wrong with the lease on a unit of training."""

from datetime import datetime

from babylon_rl.training.errors import TrainingError


class UnitBusyError(TrainingError):
    """Somebody else trains this unit now; `owner` and `until` say who and how long their lease lasts."""

    def __init__(self, unit_key: str, owner: str, until: datetime) -> None:
        self.unit_key, self.owner, self.until = unit_key, owner, until
        super().__init__(
            f"training unit {unit_key[:12]} is being trained by {owner} until at least {until:%H:%M:%S} UTC",
            "Wait for it; if that process is gone, try again after that time.",
        )


class LostLeaseError(TrainingError):
    """The unit was taken over, finished or resolved by somebody else; nothing was published."""

    def __init__(self, unit_key: str, epoch: int, now: str) -> None:
        self.unit_key, self.epoch = unit_key, epoch
        super().__init__(
            f"the lease on training unit {unit_key[:12]} (epoch {epoch}) is lost: {now}",
            "Nothing was published. Materialize the day again to get the version that was.",
        )


class UnitInDoubtError(TrainingError):
    """A submission's answer was lost, so it is not known whether the unit was trained."""

    def __init__(self, unit_key: str, error: str) -> None:
        self.unit_key = unit_key
        super().__init__(
            f"training unit {unit_key[:12]} is in doubt: {error}",
            "Look the job up at the backend, then run `babylon train resolve`.",
        )


class UnknownUnitError(TrainingError):
    """No unit has this key."""
