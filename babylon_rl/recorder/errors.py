"""What a caller of the recorder can do wrong, each naming the trajectory and the remedy."""

from babylon_rl.errors import BabylonError


class RecorderError(BabylonError):
    """Base of the recorder's errors. A trajectory whose end failed stays open, so its end may be repeated."""


class UnknownTrajectoryError(RecorderError):
    """The id was not returned by `start_trajectory` of this recorder."""


class UnknownAgentError(RecorderError):
    """The agent has no row in the game's "User" table."""


class StepNotOpenError(RecorderError):
    """Something was logged outside of `start_step` and `complete_step`."""


class StepAlreadyOpenError(RecorderError):
    """`start_step` was called twice without `complete_step`."""


class InvalidRecordingError(RecorderError):
    """A value that no row can hold or that would poison later sums, named by its field."""


class TrajectoryIdTakenError(RecorderError):
    """Another recorder has stored another trajectory under the same id."""


class NotStoredError(RecorderError):
    """The database could not be reached or refused the rows; nothing of them was stored."""
