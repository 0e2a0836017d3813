"""schemathesis against the running admin API: no 500, and no answer that its OpenAPI does not list."""

from collections.abc import Iterator
from typing import Any

import pytest

from babylon_rl.api.openapi import describe
from babylon_rl.settings import Settings
from babylon_rl_tests.api.conftest import CRON, TOKEN, Admin, admin_settings
from babylon_rl_tests.api.dagster_double import DagsterDouble
from babylon_rl_tests.api.recorded_day import record_day

OPERATIONS = [(path, method) for path, item in describe()["paths"].items() for method in item]
EXAMPLES = 40


@pytest.fixture
def admin(settings: Settings, dsn: str) -> Iterator[Admin]:
    record_day(dsn, windows=3)
    with DagsterDouble() as dagster:
        changes: dict[str, Any] = {"dagster_url": dagster.url, "admin_upload_bytes": 1 << 16}
        with Admin(admin_settings(settings, **changes)) as started:
            yield started


@pytest.mark.long
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_answer_is_a_surprise(admin: Admin, path: str, method: str) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks

    schema = schemathesis.openapi.from_dict(describe())
    token = CRON if path.startswith("/api/cron") else TOKEN
    modes = [schemathesis.GenerationMode.POSITIVE]
    if method in ("post", "put"):  # the others take nothing that could be wrong
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:
        strategy = schema[path][method.upper()].as_strategy(generation_mode=mode)

        @given(case=strategy)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            phases=[Phase.generate],
        )
        def run(case: schemathesis.Case) -> None:
            case.call_and_validate(
                base_url=admin.url,
                headers={"authorization": f"Bearer {token}"},
                checks=[
                    checks.not_a_server_error,
                    checks.status_code_conformance,
                    checks.content_type_conformance,
                    checks.response_schema_conformance,
                ],
            )

        run()
