"""The assets, one module each; their graph is the pipeline."""

from babylon_rl.orchestration.assets.checkpoint_benchmark import checkpoint_benchmark
from babylon_rl.orchestration.assets.deployed_model import deployed_model
from babylon_rl.orchestration.assets.market_outcomes import market_outcomes
from babylon_rl.orchestration.assets.recorded_rows import recorded_rows
from babylon_rl.orchestration.assets.scored_groups import scored_groups
from babylon_rl.orchestration.assets.trained_checkpoint import trained_checkpoint
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.assets.trajectories import trajectories

ALL = [
    recorded_rows,
    trajectories,
    market_outcomes,
    scored_groups,
    training_batch,
    trained_checkpoint,
    checkpoint_benchmark,
    deployed_model,
]
