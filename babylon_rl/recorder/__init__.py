"""TrajectoryRecorder: start, step, end; durable when acknowledged."""

from babylon_rl.recorder.recorder import TrajectoryRecorder
from babylon_rl.recorder.state import Ending

__all__ = ["Ending", "TrajectoryRecorder"]
