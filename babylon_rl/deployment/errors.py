"""What can go wrong between a trained checkpoint and a served model."""

from babylon_rl.errors import BabylonError


class DeploymentError(BabylonError):
    """Base of the errors of this room."""


class InvalidVersionError(DeploymentError):
    """Text that is not vMAJOR.MINOR.PATCH."""


class UnknownVersionError(DeploymentError):
    """No registered model has this version; the remedy lists near ones."""


class VersionTakenError(DeploymentError):
    """The version that was chosen for a checkpoint belongs to another one."""


class WrongStatusError(DeploymentError):
    """The model's status does not allow what was asked of it."""


class WrongVerdictError(DeploymentError):
    """The gate has not promoted the model."""


class BaseModelMismatchError(DeploymentError):
    """The registry's lineage grows on another base model."""


class ReusedSeedsError(DeploymentError):
    """Held-out markets that already judged another model were to judge this one."""


class NothingToRollBackError(DeploymentError):
    """No earlier deployment to go back to."""


class ProjectionConflictError(DeploymentError):
    """The game's table holds a row under our name that we did not write."""


class RolloutError(DeploymentError):
    """A rollout that cannot be started or changed as asked."""


class RolloutRunningError(RolloutError):
    """Another rollout runs; there is one candidate at a time."""


class NoRolloutError(RolloutError):
    """No rollout runs, or the one that was meant has ended: somebody else was faster."""


class StrategyError(RolloutError):
    """A strategy that does not exist, or whose parts do not fit together."""
