"""The official JavaScript client under Node, unchanged."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from babylon_rl_tests.serving.doubles import TEXT, UpstreamDouble
from babylon_rl_tests.serving.running import ACTIVE, Gateway, serving, upstream
from babylon_rl_tests.skipping import require_tool, skip

PACKAGE = "openai@7.55.0"
"""Also in `.ci/run`."""
KEY = "key-for-everybody-0123456789"


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in it."""
    require_tool("node")
    npm = require_tool("npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        skip(f"npm did not install {PACKAGE} in time")
    if done.returncode != 0:
        skip(f"npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.long
def test_the_javascript_client(node_folder: Path, tmp_path: Path) -> None:
    script = node_folder / "client.mjs"
    script.write_text((Path(__file__).parent / "client.mjs").read_text())
    with (
        UpstreamDouble() as double,
        Gateway(serving(upstream(double.url)), keys=KEY, spool=tmp_path / "spool", per_minute=60) as gateway,
    ):
        environment = os.environ | {"GATEWAY_URL": f"{gateway.url}/v1", "GATEWAY_KEY": KEY}
        done = subprocess.run(
            ["node", str(script)],
            cwd=node_folder,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        agents = {call.agent_id for call in gateway.kept()}
    assert seen["content"] == seen["streamed"] == seen["retried"] == TEXT
    assert (seen["tokens"], seen["usage"], seen["streamedUsage"]) == (3, 6, 3)
    assert seen["version"] == ACTIVE and seen["requestId"] and seen["aborted"]
    assert seen["tool"] == {"name": "order", "arguments": '{"size":2}'}
    assert seen["models"][0] == "babylon-agent"
    assert seen["refusals"] == {
        "key": ["AuthenticationError", 401, "invalid_api_key"],
        "model": ["NotFoundError", 404, "model_not_found"],
        "body": ["BadRequestError", 400, "invalid_request_error"],
    }
    assert agents == {"agent-js"}
