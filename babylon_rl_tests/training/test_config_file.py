"""The old configuration files: read as they were shipped, refused by name where they cannot be followed."""

from pathlib import Path

import pytest

from babylon_rl.settings import Settings
from babylon_rl.training.config_file import ConfigFileError, read_config
from babylon_rl.training.config_keys import FILES
from babylon_rl.training.options import embedded_config, local_config, serverless_config

# The values that the two files were shipped with, in their own words; comments left out.
TRAINING_CONFIG = """
environment:
  local: {enabled: true, data_collection_interval_minutes: 60, min_agents_per_window: 3,
          training_frequency_windows: 2, model_size: small, batch_size: 4, gradient_accumulation_steps: 2,
          max_concurrent_training: 1}
  coreweave: {enabled: false, data_collection_interval_minutes: 60, min_agents_per_window: 5,
              training_frequency_windows: 1, model_size: large, batch_size: 16,
              gradient_accumulation_steps: 4, max_concurrent_training: 2, gpu_type: A100, gpu_count: 4}
data_collection: {window_duration_hours: 1, trajectory_min_actions: 5, include_market_outcomes: true,
                  market_outcome_delay_minutes: 5}
ruler: {model: "openpipe:ruler-2025-01-15", temperature: 0.7, max_tokens: 1000, context_max_tokens: 4000,
        batch_size: 5, include_ground_truth: true}
grpo:
  learning_rate: 1e-6
  warmup_steps: 10
  max_grad_norm: 1.0
  kl_penalty: 0.05
  gamma: 0.99
  iterations_per_window: 10
  checkpoint_frequency: 5
deployment:
  local: {endpoint: "http://localhost:8000/v1/chat/completions", deployment_delay_seconds: 30,
          health_check_retries: 5}
  coreweave: {endpoint_template: "https://babylon-rl-{version}.coreweave.cloud/v1/chat/completions",
              deployment_strategy: blue-green, canary_percentage: 10, health_check_retries: 10,
              rollback_on_failure: true}
storage: {checkpoints_dir: ./checkpoints, logs_dir: ./logs, metrics_dir: ./metrics,
          coreweave_s3_bucket: babylon-rl-training}
monitoring: {enable_wandb: true, wandb_project: babylon-rl-continuous, log_frequency_steps: 10,
             save_trajectory_samples: true, alert_on_failure: true, alert_webhook: "${DISCORD_WEBHOOK_URL}"}
cron: {data_collection: "0 * * * *", ruler_scoring: "5 * * * *", training: "10 * * * *",
       deployment: "30 * * * *", cleanup: "0 3 * * *"}
"""
RL_PIPELINE = """
benchmark: {duration_minutes: 10080, tick_interval_seconds: 60, num_prediction_markets: 10,
            num_perpetual_markets: 5, num_agents: 8, seed: 12345, output_dir: ./benchmarks, idempotent: true}
baselines:
  models: [{name: qwen, model_id: qwen/qwen3-32b, display_name: Qwen 32B, output_file: baseline-qwen.json}]
  output_dir: ./benchmarks/baselines
  run_if_exists: false
agents:
  test_agent_count: 3
  autonomous_features: {trading: true, posting: true, commenting: true, dms: false, group_chats: false}
  create_if_missing: true
  agent_config: {virtual_balance: 10000, agent_points_balance: 1000, agent_model_tier: lite,
                 agent_system: "You are an autonomous trading agent."}
trajectory: {window_duration_hours: 1, min_actions_per_trajectory: 5, min_trajectories_per_window: 3,
             record_correctness: true, record_sentiment: true, record_perp_correctness: true,
             sampling_rate: 1.0, save_to_database: true, save_to_file: false}
training: {check_frequency_minutes: 60, min_trajectories_per_batch: 10, batch_size: 4, learning_rate: 1e-6,
           kl_penalty: 0.05, iterations_per_window: 10, warmup_steps: 10, max_grad_norm: 1.0, gamma: 0.99,
           checkpoint_frequency: 5, wandb_project: babylon-rl-continuous, wandb_entity: null}
deployment: {auto_deploy: true, verify_usage: true, benchmark_after_deploy: true,
             min_improvement_threshold: 0.0, update_database: true, mark_as_ready: true}
verification: {assert_model_usage: true, log_model_per_inference: true, compare_against_baselines: true,
               run_benchmark_after_training: true, assert_improvement: false}
pipeline: {idempotent: true, continue_on_error: false, log_level: info, save_intermediate_results: true}
"""
SHIPPED = {"training_config.yaml": TRAINING_CONFIG, "rl-pipeline.yaml": RL_PIPELINE}


def write(folder: Path, text: str, name: str = "training_config.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def settings_with(tmp_path: Path, **values: object) -> Settings:
    return Settings(_env_file=None, babylon_home=tmp_path, **values)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_are_accepted_by_every_backend(tmp_path: Path, name: str) -> None:
    file = read_config(write(tmp_path, SHIPPED[name], name))
    assert file.warnings == ()
    expected = {"learning_rate": 1e-6, "batch_size": 4, "kl_penalty": 0.05, "gamma": 0.99, "warmup_steps": 10}
    assert file.values.items() >= expected.items()
    assert set(expected) <= file.shipped
    for backend, config in (
        ("embedded", embedded_config),
        ("serverless", serverless_config),
        ("local", local_config),
    ):
        followed = file.for_backend(backend)  # type: ignore[arg-type]
        assert "gamma" not in followed.values
        assert any("GAMMA=0.99: a default that backend" in line for line in followed.notices)
        assert config(settings_with(tmp_path, **followed.values)).learning_rate == 1e-6


def test_the_embedded_backend_follows_what_the_file_says(tmp_path: Path) -> None:
    file = read_config(write(tmp_path, TRAINING_CONFIG)).for_backend("embedded")
    config = embedded_config(settings_with(tmp_path, **file.values))
    assert (config.batch_size, config.gradient_accumulation_steps, config.epochs) == (4, 2, 10)
    assert (config.warmup_steps, config.kl_penalty, config.max_grad_norm) == (10, 0.05, 1.0)
    assert file.values["min_actions_per_trajectory"] == 5 and file.values["window_delay_minutes"] == 5
    assert file.values["wandb_project"] == "babylon-rl-continuous"
    assert any("cron.cleanup: Dagster's schedules" in line for line in file.notices)


def test_a_default_that_a_backend_cannot_follow_is_dropped_and_a_wish_is_refused(tmp_path: Path) -> None:
    shipped = read_config(write(tmp_path, TRAINING_CONFIG)).for_backend("serverless")
    assert not {"batch_size", "kl_penalty", "warmup_steps"} & set(shipped.values)
    assert sum("cannot follow; dropped" in line for line in shipped.notices) == 7
    wish = read_config(write(tmp_path, "grpo: {kl_penalty: 0.1}")).for_backend("serverless")
    assert wish.values == {"kl_penalty": 0.1}
    with pytest.raises(Exception, match="serverless backend cannot follow KL_PENALTY=0.1"):
        serverless_config(settings_with(tmp_path, **wish.values))


def test_the_enabled_environment_counts(tmp_path: Path) -> None:
    other = TRAINING_CONFIG.replace("enabled: true,", "enabled: false,", 1)
    other = other.replace("coreweave: {enabled: false", "coreweave: {enabled: true")
    values = read_config(write(tmp_path, other)).values
    assert (values["batch_size"], values["gradient_accumulation_steps"]) == (16, 4)
    assert values["min_agents_per_window"] == 5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("grpo: {learning_rte: 1e-6}", r"unknown key grpo.learning_rte. Did you mean grpo.learning_rate"),
        ("grpo: {learning_rate: {base: 1}}", "unknown key grpo.learning_rate.base"),
        ("training: {optimizer: adam}", "unknown key training.optimizer"),
        ("environment: {mars: {batch_size: 1}}", "unknown key environment.mars.batch_size"),
    ],
)
def test_unknown_keys_are_refused_by_name(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(ConfigFileError, match=name):
        read_config(write(tmp_path, text))


# The rules of the game's ConfigValidator.
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("training: {batch_size: 0}", "training.batch_size must be more than 0"),
        ("training: {learning_rate: -1e-6}", "training.learning_rate must be more than 0"),
        ("training: {kl_penalty: -0.1}", "training.kl_penalty must be at least 0"),
        ("training: {iterations_per_window: 0}", "training.iterations_per_window must be more than 0"),
        ("training: {warmup_steps: -1}", "training.warmup_steps must be at least 0"),
        ("training: {max_grad_norm: 0}", "training.max_grad_norm must be more than 0"),
        ("training: {gamma: 1.1}", "training.gamma must be at most 1"),
        ("training: {gamma: -0.1}", "training.gamma must be at least 0"),
        ("training: {min_trajectories_per_batch: 0}", "min_trajectories_per_batch must be more than 0"),
        ("agents: {test_agent_count: 0}", "agents.test_agent_count must be more than 0"),
        ("training: {batch_size: many}", "training.batch_size must be a number, not 'many'"),
        ("training: {batch_size: true}", "training.batch_size must be a number, not True"),
        ("training: {batch_size: 2.5}", "training.batch_size must be a whole number"),
        ("trajectory: {window_duration_hours: 2}", "trajectory.window_duration_hours must be at most 1"),
    ],
)
def test_impossible_values_are_errors(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigFileError, match=complaint):
        read_config(write(tmp_path, text, "rl-pipeline.yaml"))


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    text = "training: {batch_size: 0, gamma: 7}\nagents: {test_agent_count: -1}"
    with pytest.raises(ConfigFileError) as refusal:
        read_config(write(tmp_path, text))
    assert all(name in str(refusal.value) for name in ("batch_size", "gamma", "test_agent_count"))


@pytest.mark.parametrize(
    "text",
    [
        "training: {batch_size: 65}",
        "training: {learning_rate: 2e-3}",
        "training: {learning_rate: 1e-9}",
        "training: {kl_penalty: 1.5}",
        "benchmark: {duration_minutes: 10081}",
        "agents: {test_agent_count: 11}",
    ],
)
def test_unusual_values_are_warned_of(tmp_path: Path, text: str) -> None:
    file = read_config(write(tmp_path, text, "rl-pipeline.yaml"))
    assert len(file.warnings) == 1 and "outside of the usual" in file.warnings[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("grpo: [", "is no YAML"),
        ("just words", "has no sections"),
        ("", "has no sections"),
        ("kitchen: {sink: 1}", "is neither training_config.yaml or rl-pipeline.yaml: no section kitchen"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigFileError, match=complaint):
        read_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"gone\.yaml cannot be read: No such file"):
        read_config(tmp_path / "gone.yaml")


def test_every_setting_that_a_key_becomes_exists() -> None:
    named = {key.setting for keys in FILES.values() for key in keys.values() if key.setting}
    assert named <= set(Settings.model_fields)
