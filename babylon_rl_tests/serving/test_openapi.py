"""schemathesis against the running gateway: no 500, and no answer that the OpenAPI document does not list."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.serving.chat import Limits
from babylon_rl.serving.engine_upstream import EngineUpstream
from babylon_rl.serving.openapi import describe
from babylon_rl.serving.routing import Serving
from babylon_rl.serving.upstream import Target
from babylon_rl_tests.serving.running import BASE, Gateway


@pytest.fixture(scope="module")
def gateway(base_engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("spool")
    limits = Limits(body_bytes=1 << 16, client_seconds=5)
    target = Target(BASE, EngineUpstream(base_engine), f"babylon-agent-{BASE}")
    state = Serving(BASE, {BASE: target}, BASE, frozenset({"babylon-tiny"}))
    with Gateway(state, spool=folder, limits=limits) as started:
        yield started


OPERATIONS = [(path, method) for path, item in describe()["paths"].items() for method in item]


@pytest.mark.long
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_answer_is_a_surprise(gateway: Gateway, path: str, method: str) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks

    schema = schemathesis.openapi.from_dict(describe())
    modes = [schemathesis.GenerationMode.POSITIVE]
    if method == "post":  # the others take nothing that could be wrong
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:
        strategy = schema[path][method.upper()].as_strategy(generation_mode=mode)

        @given(case=strategy)
        @settings(
            max_examples=200,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            phases=[Phase.generate],
        )
        def run(case: schemathesis.Case) -> None:
            case.call_and_validate(
                base_url=gateway.url,
                checks=[
                    checks.not_a_server_error,
                    checks.status_code_conformance,
                    checks.content_type_conformance,
                    checks.response_schema_conformance,
                ],
            )

        run()
