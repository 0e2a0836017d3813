"""Every key of the game's two configuration files: the setting it becomes, or why it has no effect.

The bounds are those of the game's ConfigValidator.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """One key of a file.

    Attributes:
        setting: The setting it becomes; None where it has no effect.
        default: The value that the file is shipped with.
        reason: Why it has no effect.
        above: Values up to this one are errors.
        at_least: Values below this one are errors.
        at_most: Values above this one are errors.
        usual: Values outside of this range are warned of.
    """

    setting: str | None = None
    default: object = None
    reason: str = ""
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    usual: tuple[float, float] | None = None

    def errors(self, name: str, value: object) -> list[str]:
        """What is impossible about a value."""
        if value is None or (self.above, self.at_least, self.at_most) == (None, None, None):
            return []
        if isinstance(value, bool) or not isinstance(value, int | float):
            return [f"{name} must be a number, not {value!r}"]
        found = []
        if self.above is not None and value <= self.above:
            found.append(f"{name} must be more than {self.above:g}, not {value:g}")
        if self.at_least is not None and value < self.at_least:
            found.append(f"{name} must be at least {self.at_least:g}, not {value:g}")
        if self.at_most is not None and value > self.at_most:
            found.append(f"{name} must be at most {self.at_most:g}, not {value:g}")
        if not found and isinstance(self.default, int) and not float(value).is_integer():
            found.append(f"{name} must be a whole number, not {value:g}")
        return found

    def warnings(self, name: str, value: object) -> list[str]:
        """What is unusual about a value."""
        if self.usual is None or isinstance(value, bool) or not isinstance(value, int | float):
            return []
        low, high = self.usual
        if low <= value <= high:
            return []
        return [f"{name} is {value:g}, outside of the usual {low:g} to {high:g}."]


def _none(reason: str, **bounds: object) -> Key:
    return Key(reason=reason, **bounds)  # type: ignore[arg-type]


_RATE = Key("learning_rate", 1e-6, above=0, usual=(1e-8, 1e-3))
_BATCH = Key("batch_size", 4, above=0, usual=(1, 64))
_ACCUMULATION = Key("gradient_accumulation_steps", 2, above=0)
_KL = Key("kl_penalty", 0.05, at_least=0, usual=(0, 1))
_PASSES = Key("iterations_per_window", 10, above=0)
_WARM_UP = Key("warmup_steps", 10, at_least=0)
_NORM = Key("max_grad_norm", 1.0, above=0)
_GAMMA = Key("gamma", 0.99, at_least=0, at_most=1)
_CHECKPOINTS = Key("checkpoint_frequency", 5, above=0)
_HOUR = Key(default=1, reason="windows are hours", at_least=1, at_most=1)
_HOURLY = "Dagster's sensor looks for new windows by itself"
_DAILY = "the daily schedule trains"
_JUDGE = "the judge has settings of its own (JUDGE_MODEL, …)"
_SERVED = "the gateway serves every deployment"
_OWNED = "`babylon deploy` and the gate decide"
_TRACKED = "every run is tracked as WANDB_MODE says"
_HOME = "everything is written below BABYLON_HOME"
_BENCHMARK = "the gate makes its own held-out markets"
_AGENTS = "`babylon simulate` and `babylon spawn` make agents"
_RECORDER = "the game's recorder decides it"
_RESUMED = "every step is idempotent and resumes"


def _environment(name: str, defaults: Mapping[str, object]) -> dict[str, Key]:
    keys = {
        "enabled": _none("chooses the environment whose values count"),
        "data_collection_interval_minutes": Key(
            default=60, reason="windows are hours", at_least=60, at_most=60
        ),
        "min_agents_per_window": Key("min_agents_per_window", defaults["agents"], at_least=2),
        "training_frequency_windows": _none(_DAILY),
        "model_size": _none("BASE_MODEL names the model"),
        "batch_size": Key("batch_size", defaults["batch"], above=0, usual=(1, 64)),
        "gradient_accumulation_steps": Key("gradient_accumulation_steps", defaults["accumulation"], above=0),
        "max_concurrent_training": _none("one training runs at a time (pool gpu_training)"),
        "gpu_type": _none("W&B Training chooses its GPUs"),
        "gpu_count": _none("W&B Training chooses its GPUs"),
    }
    return {f"environment.{name}.{key}": value for key, value in keys.items()}


TRAINING_CONFIG: dict[str, Key] = {
    **_environment("local", {"agents": 3, "batch": 4, "accumulation": 2}),
    **_environment("coreweave", {"agents": 5, "batch": 16, "accumulation": 4}),
    "data_collection.window_duration_hours": _HOUR,
    "data_collection.trajectory_min_actions": Key("min_actions_per_trajectory", 5, at_least=0),
    "data_collection.include_market_outcomes": _none("outcomes are always derived, for the judge alone"),
    "data_collection.market_outcome_delay_minutes": Key("window_delay_minutes", 5, at_least=0),
    **{
        f"ruler.{name}": _none(_JUDGE)
        for name in (
            *("model", "temperature", "max_tokens", "context_max_tokens", "batch_size"),
            "include_ground_truth",
        )
    },
    "grpo.learning_rate": _RATE,
    "grpo.warmup_steps": _WARM_UP,
    "grpo.max_grad_norm": _NORM,
    "grpo.kl_penalty": _KL,
    "grpo.gamma": _GAMMA,
    "grpo.iterations_per_window": _PASSES,
    "grpo.checkpoint_frequency": _CHECKPOINTS,
    "deployment.local.endpoint": _none(_SERVED),
    "deployment.local.deployment_delay_seconds": _none(_SERVED),
    "deployment.local.health_check_retries": _none(_SERVED),
    "deployment.coreweave.endpoint_template": _none(_SERVED),
    "deployment.coreweave.deployment_strategy": _none(_OWNED),
    "deployment.coreweave.canary_percentage": _none("RL_ROLLOUT_PERCENTAGE says it"),
    "deployment.coreweave.health_check_retries": _none(_SERVED),
    "deployment.coreweave.rollback_on_failure": _none("the gateway falls back and rolls back by itself"),
    "storage.checkpoints_dir": _none(_HOME),
    "storage.logs_dir": _none(_HOME),
    "storage.metrics_dir": _none(_HOME),
    "storage.coreweave_s3_bucket": _none("MODEL_STORAGE_URL names the place for checkpoints"),
    "monitoring.enable_wandb": _none(_TRACKED),
    "monitoring.wandb_project": Key("wandb_project", "babylon-rl-continuous"),
    "monitoring.log_frequency_steps": _none("every optimiser step is logged"),
    "monitoring.save_trajectory_samples": _none("the batch keeps every trained call"),
    "monitoring.alert_on_failure": _none("the failure sensor alerts"),
    "monitoring.alert_webhook": _none("DISCORD_WEBHOOK_URL in the environment names it"),
    **{
        f"cron.{name}": _none("Dagster's schedules and sensors decide when")
        for name in ("data_collection", "ruler_scoring", "training", "deployment", "cleanup")
    },
}

RL_PIPELINE: dict[str, Key] = {
    "benchmark.duration_minutes": Key(default=10080, reason=_BENCHMARK, usual=(0, 10080)),
    **{
        f"benchmark.{name}": _none(_BENCHMARK)
        for name in (
            *("tick_interval_seconds", "num_prediction_markets", "num_perpetual_markets"),
            *("seed", "output_dir", "idempotent"),
        )
    },
    "benchmark.num_agents": Key(default=8, reason=_BENCHMARK, usual=(0, 10)),
    "baselines.models": _none(_BENCHMARK),
    "baselines.output_dir": _none(_BENCHMARK),
    "baselines.run_if_exists": _none(_BENCHMARK),
    "agents.test_agent_count": Key(default=3, reason=_AGENTS, above=0, usual=(0, 10)),
    **{
        f"agents.autonomous_features.{name}": _none(_AGENTS)
        for name in ("trading", "posting", "commenting", "dms", "group_chats")
    },
    "agents.create_if_missing": _none(_AGENTS),
    **{
        f"agents.agent_config.{name}": _none(_AGENTS)
        for name in ("virtual_balance", "agent_points_balance", "agent_model_tier", "agent_system")
    },
    "trajectory.window_duration_hours": _HOUR,
    "trajectory.min_actions_per_trajectory": Key("min_actions_per_trajectory", 5, at_least=0),
    "trajectory.min_trajectories_per_window": Key("min_agents_per_window", 3, above=0),
    **{
        f"trajectory.{name}": _none(_RECORDER)
        for name in (
            *("record_correctness", "record_sentiment", "record_perp_correctness", "sampling_rate"),
            *("save_to_database", "save_to_file"),
        )
    },
    "training.check_frequency_minutes": _none(_HOURLY),
    "training.min_trajectories_per_batch": Key("training_min_trajectories", 10, above=0),
    "training.batch_size": _BATCH,
    "training.gradient_accumulation_steps": _ACCUMULATION,
    "training.learning_rate": _RATE,
    "training.kl_penalty": _KL,
    "training.iterations_per_window": _PASSES,
    "training.warmup_steps": _WARM_UP,
    "training.max_grad_norm": _NORM,
    "training.gamma": _GAMMA,
    "training.checkpoint_frequency": _CHECKPOINTS,
    "training.wandb_project": Key("wandb_project", "babylon-rl-continuous"),
    "training.wandb_entity": Key("wandb_entity"),
    "deployment.auto_deploy": _none(_OWNED),
    "deployment.verify_usage": _none(_SERVED),
    "deployment.benchmark_after_deploy": _none("every checkpoint is benchmarked before it may be deployed"),
    "deployment.min_improvement_threshold": Key("gate_threshold", 0.0),
    "deployment.update_database": _none("PROJECT_TO_GAME says it"),
    "deployment.mark_as_ready": _none("a checkpoint on disk is ready"),
    "verification.assert_model_usage": _none(_SERVED),
    "verification.log_model_per_inference": _none("every answer carries its policy version"),
    "verification.compare_against_baselines": _none(_BENCHMARK),
    "verification.run_benchmark_after_training": _none("every checkpoint is benchmarked"),
    "verification.assert_improvement": _none("the gate decides by GATE_THRESHOLD and GATE_ALPHA"),
    "pipeline.idempotent": _none(_RESUMED),
    "pipeline.continue_on_error": _none("`--mode continuous` goes on after a failed window"),
    "pipeline.log_level": _none("Dagster keeps the logs"),
    "pipeline.save_intermediate_results": _none(_RESUMED),
}

FILES: dict[str, Mapping[str, Key]] = {
    "training_config.yaml": TRAINING_CONFIG,
    "rl-pipeline.yaml": RL_PIPELINE,
}
