"""What can go wrong between a task and its result. Nothing is lost by it: the run can be repeated."""

from babylon_rl.errors import BabylonError


class FanoutError(BabylonError):
    """The cluster cannot be used, or was lost on the way."""


class WrongCodeError(FanoutError):
    """A node of the cluster lacks babylon_rl, or has another version of it or of what results depend on."""


class TaskError(FanoutError):
    """A task found an error whose class cannot travel; the line is the worker's own."""
