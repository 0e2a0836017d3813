"""What holds without a cluster: no RAY_ADDRESS, no Ray, other code, errors that travel."""

import sys

import pytest

from babylon_rl.fanout import FanoutError, TaskError, open_workers
from babylon_rl.fanout.identity import LIBRARIES, PACKAGE, differences, make_probe
from babylon_rl.fanout.ray_workers import _travelling, open_ray
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.scoring.judge.errors import JudgeUnavailableError
from babylon_rl.settings import Settings


@pytest.mark.anyio
async def test_without_an_address_there_are_no_workers_and_ray_is_not_imported() -> None:
    before = "ray" in sys.modules
    async with open_workers(Settings(_env_file=None, ray_address=None)) as workers:
        assert workers is None
    assert ("ray" in sys.modules) == before


@pytest.mark.anyio
async def test_an_address_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import of a missing package meets
    with pytest.raises(FanoutError, match=r"Ray is not installed.*babylon_rl\[ray\]"):
        async with open_ray("127.0.0.1:6379"):
            pass


def test_an_identity_names_code_and_libraries() -> None:
    ours = make_probe()()
    assert set(ours) == {PACKAGE, "python", *LIBRARIES} and len(ours[PACKAGE]) == 12
    assert differences(ours, dict(ours)) is None


def test_what_differs_is_named() -> None:
    ours = {"python": "3.11", "numpy": "2.4.6", PACKAGE: "aaaa"}
    assert differences(ours, {"python": "3.11", "numpy": "2.4.6"}) == "has no babylon_rl"
    other = differences(ours, {"python": "3.11", "numpy": "2.4.5", PACKAGE: "bbbb"})
    assert other == "has numpy 2.4.5 instead of 2.4.6, babylon_rl bbbb instead of aaaa"


def test_an_error_travels_as_it_is_or_as_its_line(tmp_path) -> None:
    judge = JudgeUnavailableError("it sleeps", "Wake it.")
    assert _travelling(judge) is judge
    checkpoint = CheckpointError(tmp_path, "a file is missing")
    found = _travelling(checkpoint)
    assert isinstance(found, TaskError | CheckpointError) and str(found) == str(checkpoint)
