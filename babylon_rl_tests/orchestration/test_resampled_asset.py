"""`training_batch` under GROUPING=resample with a paid server: refused by the budget, shown in the UI."""

import os

import dagster as dg
import pytest

from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.server import PolicyServer
from babylon_rl.settings import get_settings
from babylon_rl_tests.deployment.resampled import Counted
from babylon_rl_tests.deployment.scored_days import DAY, TrainingDay, dsn, scored_day, training_day

__all__ = ["dsn", "scored_day", "training_day"]

GATEWAY = ("GATEWAY_UPSTREAM_URL", "GATEWAY_UPSTREAM_API_KEY")


def materialize(**environment: str) -> dg.ExecuteInProcessResult:
    os.environ.update(environment)
    get_settings.cache_clear()
    resources = {
        "postgres": PostgresResource(),
        "art": ArtResource(),
        "wandb": WandbResource(),
        "store": ArtifactStoreResource(),
    }
    wanted = {"ops": {"training_batch": {"config": {"force": True, "skip_readiness": True}}}}
    with dg.instance_for_test() as instance:
        return dg.materialize(
            [training_batch],
            instance=instance,
            resources=resources,
            partition_key=DAY,
            run_config=wanted,
            raise_on_error=False,
        )


@pytest.mark.long
@pytest.mark.parametrize("training_day", ["resample"], indirect=True)
def test_the_budget_refuses_and_the_bill_is_shown(
    training_day: TrainingDay, base_engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Counted(base_engine)
    for name in (
        "GATEWAY_UPSTREAM_URL",
        "GATEWAY_UPSTREAM_API_KEY",
        "RESAMPLE_DAILY_BUDGET_USD",
        "WANDB_MODE",
    ):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
    with PolicyServer(policy) as server:
        paid = {
            **dict(zip(GATEWAY, (server.base_url, server.api_key), strict=True)),
            "WANDB_MODE": "none",
        }
        refused = materialize(**paid, RESAMPLE_DAILY_BUDGET_USD="0.05")
        [failure] = [event for event in refused.all_events if event.is_step_failure]
        message = str(failure.step_failure_data.error)
        assert "AnswerBudgetError" in message or "exceed the budget" in message
        assert not [event for event in refused.all_events if event.is_step_up_for_retry] and policy.asked == 0
        done = materialize(**paid, RESAMPLE_DAILY_BUDGET_USD="5")
    assert done.success and policy.asked == 24 * 4
    [event] = done.get_asset_materialization_events()
    shown = event.materialization.metadata
    assert shown["cost/usd"].value == pytest.approx(24 * 4 * 0.001) and shown["prompts/count"].value == 24
    assert shown["signal/paid_answers"].value == 24 * 4 and "| spread |" in str(shown["prompts"].value)
    assert "svg" in str(shown["rewards within prompts"].value)
