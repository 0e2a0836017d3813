"""Settings: defaults, precedence, refusals by name, secrets, and `.env.example` in both directions."""

import os
import re
from pathlib import Path

import pytest

from babylon_rl.settings import (
    GROUPS,
    Settings,
    SettingsError,
    field_extra,
    get_settings,
    is_secret,
    project_folder,
    render_example,
)

EXAMPLE = Path(__file__).parents[1] / ".env.example"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of ours and no `.env`; the working directory is a folder of its own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    return tmp_path


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    return str(caught.value)


def test_defaults_where_the_seeds_disagree() -> None:
    settings = Settings()
    assert settings.min_agents_per_window == 3
    assert settings.wandb_project == "babylon-rl-training"
    assert (settings.training_min_trajectories, settings.training_min_groups) == (100, 10)
    assert settings.base_model_for("local") == "Qwen/Qwen2.5-0.5B-Instruct"
    assert settings.base_model_for("serverless") == "OpenPipe/Qwen3-14B-Instruct"
    assert settings.tracking_mode == "offline"
    assert settings.warnings() == []


def test_two_variables_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hush@db/babylon")
    monkeypatch.setenv("TRAIN_RL_LOCAL", "true")
    settings = get_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://me:hush@db/babylon"
    assert settings.train_rl_local is True
    assert get_settings() is settings


def test_example_file_and_settings_agree_in_both_directions() -> None:
    text = EXAMPLE.read_text()
    named = re.findall(r"^#([A-Z][A-Z0-9_]*)=", text, flags=re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)
    assert text == render_example(), "run `python -m babylon_rl.settings > .env.example`"


def test_example_file_uncommented_is_valid_and_changes_nothing(clean_environment: Path) -> None:
    uncommented = re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    (clean_environment / ".env").write_text(uncommented)
    assert Settings().model_dump() == Settings(_env_file=None).model_dump()


def test_every_field_is_documented_and_belongs_to_one_topic() -> None:
    grouped = [name for group in GROUPS for name in group.__annotations__]
    assert sorted(grouped) == sorted(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_environment_beats_file_and_an_empty_variable_hides_it(
    monkeypatch: pytest.MonkeyPatch, clean_environment: Path
) -> None:
    (clean_environment / ".env").write_text(
        "WANDB_PROJECT=from-file\nWANDB_API_KEY=key-in-file\nMIN_AGENTS_PER_WINDOW=5\nOTHER_TOOL=x\n"
    )
    monkeypatch.setenv("WANDB_PROJECT", "from-environment")
    monkeypatch.setenv("WANDB_API_KEY", "")
    settings = Settings()
    assert settings.wandb_project == "from-environment"
    assert settings.min_agents_per_window == 5
    assert settings.wandb_api_key is None
    assert settings.tracking_mode == "offline"


def test_paths_start_at_the_project_folder(monkeypatch: pytest.MonkeyPatch, clean_environment: Path) -> None:
    (clean_environment / "workspace.yaml").touch()
    (clean_environment / ".env").write_text("MIN_AGENTS_PER_WINDOW=7\n")
    (clean_environment / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(clean_environment / "deep" / "er")
    assert project_folder() == clean_environment
    assert Settings().home == clean_environment / ".babylon"
    assert Settings().min_agents_per_window == 7
    monkeypatch.setenv("BABYLON_HOME", "/srv/babylon")
    assert Settings().home == Path("/srv/babylon")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RL_ROLLOUT_PERCENTAGE", "101"),
        ("RL_ROLLOUT_PERCENTAGE", "-1"),
        ("TRAINING_BACKEND", "gpu"),
        ("TRAIN_RL_LOCAL", "maybe"),
        ("MIN_AGENTS_PER_WINDOW", "1"),
        ("HEURISTIC_WEIGHTS", "0.5,0.3,0.3"),
        ("HEURISTIC_WEIGHTS", "0.5,0.5"),
        ("FIRST_PARTITION", "2026-10-01"),
        ("WINDOW_ID", "2026-10-01T10:30"),
        ("WINDOW_DURATION_HOURS", "4"),
        ("RL_MODEL_VERSION", "1.2"),
        ("WANDB_PROJECT", "a/b"),
        ("WANDB_MODE", "dryrun"),
        ("LEARNING_RATE", "0"),
        ("GAMMA", "1.5"),
        ("BATCH_SIZE", "0"),
        ("KL_PENALTY", "-0.1"),
        ("GATE_ALPHA", "1"),
        ("PORT", "70000"),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    message = refusal(monkeypatch, **{name: value})
    assert name in message
    assert "\n" not in message


def test_all_faults_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, RL_ROLLOUT_PERCENTAGE="150", SCORER="best")
    assert "RL_ROLLOUT_PERCENTAGE='150'" in message
    assert "SCORER='best'" in message


@pytest.mark.parametrize("backend", ["embedded", "local"])
def test_forbidden_local_training_contradicts_a_local_backend(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    message = refusal(monkeypatch, TRAIN_RL_LOCAL="false", TRAINING_BACKEND=backend)
    assert "TRAIN_RL_LOCAL" in message
    assert "TRAINING_BACKEND" in message


@pytest.mark.parametrize("need", [{"TRAINING_BACKEND": "serverless"}, {"WANDB_MODE": "online"}])
def test_what_needs_wandb_needs_key_and_entity(monkeypatch: pytest.MonkeyPatch, need: dict[str, str]) -> None:
    assert "WANDB_API_KEY is not set" in refusal(monkeypatch, **need)
    assert "WANDB_ENTITY is not set" in refusal(monkeypatch, WANDB_API_KEY="hush-hush", **need)
    monkeypatch.setenv("WANDB_ENTITY", "my-team")
    assert Settings().require_wandb("test") == ("hush-hush", "my-team")


@pytest.mark.parametrize(
    "name", ["GATEWAY_PUBLIC_URL", "ADMIN_PUBLIC_URL", "DAGSTER_PUBLIC_URL", "SOURCE_URL"]
)
@pytest.mark.parametrize(
    "address",
    ["ops.example.org", "https://", "https://ops:70000", "https://me:hush@ops.org", "https://a.org/?k=1"],
)
def test_an_address_that_pages_show_is_one_and_holds_no_login(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    message = refusal(monkeypatch, **{name: address})
    assert name in message and "hush" not in message


def test_pages_are_on_this_machine_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert settings.gateway_address == "http://127.0.0.1:8000"
    assert settings.dashboard_page == "http://127.0.0.1:3001/admin/training"
    assert settings.dagster_page == settings.dagster_url
    monkeypatch.setenv("DAGSTER_PUBLIC_URL", "https://dagster.example.org/")
    assert Settings().dagster_page == "https://dagster.example.org"


@pytest.mark.parametrize("name", ["BABYLON_HOMME", "babylon_env_", "BABYLON_DATABASE_URL"])
def test_unknown_variables_of_ours_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name in refusal(monkeypatch, **{name: "x"})


def test_unknown_variables_in_the_file_are_refused(
    monkeypatch: pytest.MonkeyPatch, clean_environment: Path
) -> None:
    (clean_environment / ".env").write_text("BABYLON_HOEM=/srv\n")
    message = refusal(monkeypatch)
    assert "BABYLON_HOEM" in message
    assert "Did you mean BABYLON_HOME?" in message


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [name.upper() for name, field in Settings.model_fields.items() if is_secret(field)]
    assert {"DATABASE_URL", "WANDB_API_KEY", "OPENAI_API_KEY", "CRON_SECRET"} <= set(secrets)
    for name in secrets:
        scheme = "https" if name.endswith("WEBHOOK_URL") else "postgresql"
        monkeypatch.setenv(name, f"{scheme}://me:hush-hush@db/babylon")
    settings = Settings()
    assert "hush-hush" not in f"{settings!r} {settings} {settings.model_dump()} {settings.warnings()}"
    message = refusal(monkeypatch, DATABASE_URL="mysql://me:hush-hush@db/babylon", SCORER="x")
    assert "hush-hush" not in message
    assert "DATABASE_URL" in message


def test_a_refusal_keeps_no_secret_in_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_DATABASE_URL", "mysql://me:hush-hush@db/babylon")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("environment", "production", "enabled"),
    [
        ({}, False, True),
        ({"BABYLON_ENV": "production"}, True, False),
        ({"NODE_ENV": "production"}, True, False),
        ({"NODE_ENV": "production", "BABYLON_ENV": "staging"}, False, True),
        ({"NODE_ENV": "production", "USE_RL_MODEL": "true"}, True, True),
        ({"USE_RL_MODEL": "false"}, False, False),
    ],
)
def test_trained_models_are_off_in_production_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], production: bool, enabled: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (Settings().is_production, Settings().rl_model_enabled) == (production, enabled)


@pytest.mark.parametrize(
    ("mode", "key", "resolved"),
    [
        ("auto", "", "offline"),
        ("auto", "key", "online"),
        ("offline", "key", "offline"),
        ("none", "key", "none"),
        ("disabled", "", "none"),
    ],
)
def test_tracking_mode(monkeypatch: pytest.MonkeyPatch, mode: str, key: str, resolved: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert Settings().tracking_mode == resolved


def test_warnings_say_what_has_no_effect_and_what_is_unusual(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENPIPE_API_KEY": "key",
        "GAMMA": "0.99",
        "GROQ_API_KEY": "of the game",
        "LEARNING_RATE": "0.01",
        "BABYLON_ENV": "production",
        "USE_RL_MODEL": "true",
        "RL_FALLBACK_TO_BASE": "false",
    }.items():
        monkeypatch.setenv(name, value)
    found = " ".join(Settings().warnings())
    for name in ("OPENPIPE_API_KEY", "GAMMA", "LEARNING_RATE", "RL_FALLBACK_TO_BASE"):
        assert name in found
    assert "GROQ_API_KEY" not in found


def test_fields_without_effect_say_so() -> None:
    without = {name for name, field in Settings.model_fields.items() if field_extra(field)}
    assert without == set(GROUPS[-1].__annotations__)
    assert all("no effect" in str(Settings.model_fields[name].description).lower() for name in without)


def test_window_ids_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_PARTITION", "2025-01-15T10:00:00.000Z")
    assert Settings().first_partition == "2025-01-15T10:00"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_environment_is_left_alone(clean_environment: Path) -> None:
    (clean_environment / ".env").write_text("WANDB_API_KEY=key-in-file\n")
    assert Settings().wandb_api_key is not None
    assert "WANDB_API_KEY" not in os.environ
