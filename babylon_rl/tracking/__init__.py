"""W&B behind one small interface: online, offline (the default) or none.

    with open_run(settings, name="2026-10-01", job_type="trained_checkpoint", group=run_id) as run:
        run.log({"loss": 0.7}, step=1)
        artifact = run.log_artifact("checkpoint", "model", path=folder, aliases=["v0.1.0"])
        artifact.digest                   # W&B's content digest, known offline too

Telemetry never fails its caller: what W&B refuses is logged as a warning, kept in a local JSONL file, and
marks the run as `degraded`.
"""

from babylon_rl.tracking.interface import LoggedArtifact, NullRun, Run
from babylon_rl.tracking.open import open_run, prepare_environment, run_id

__all__ = ["LoggedArtifact", "NullRun", "Run", "open_run", "prepare_environment", "run_id"]
