"""Runs of the real wandb library: offline, unreachable online, none, and what may never leak or fail."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babylon_rl.settings import Settings
from babylon_rl.tracking import LoggedArtifact, open_run, prepare_environment, run_id
from babylon_rl.tracking import open as opening


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes, at the end, what `prepare_environment` sets."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    for name in (
        "DIR",
        "DATA_DIR",
        "CACHE_DIR",
        "CONFIG_DIR",
        "MODE",
        "BASE_URL",
        "SILENT",
        "ERROR_REPORTING",
    ):
        monkeypatch.setenv(f"WANDB_{name}", "offline" if name == "MODE" else "")


def settings_in(folder: Path, **values: object) -> Settings:
    return Settings(_env_file=None, babylon_home=folder, **values)


def test_an_offline_run_is_written_to_the_home_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere))
    settings = settings_in(tmp_path / "home", wandb_mode="offline")
    with open_run(settings, "2026-10-01", "training", "group", config={"seed": 1}, tags=["embedded"]) as run:
        run.log({"loss": 2.0}, step=2)
        run.log({"loss": 1.0}, step=1)
        run.log({"note": 1.0})
        run.summary({"reward": 0.5})
        assert (run.mode, run.url, run.degraded) == ("offline", None, None)
    files = list((tmp_path / "home" / "wandb").rglob(f"offline-run-*/run-{run.id}.wandb"))
    assert len(files) == 1
    # wandb's own process writes the last of it, and may do so after `finish` returned.
    deadline = time.monotonic() + 30
    while files[0].stat().st_size <= 500 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files[0].stat().st_size > 500
    assert list(elsewhere.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_the_digest_of_an_artifact_follows_its_content(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "home", wandb_mode="offline")
    folder = tmp_path / "checkpoint"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_bytes(b"1")
    with open_run(settings, "a", "t") as run:
        data = run.log_artifact("scores", "dataset", metadata={"rows": 1})
        same = run.log_artifact("scores", "dataset", metadata={"rows": 1})
        other = run.log_artifact("scores", "dataset", metadata={"rows": 2})
        window = run.log_artifact(
            "a/b c", "model", path=folder, aliases=["2026-10-01T10:00", "candidate"], inputs=[data]
        )
        file = run.log_artifact("file", "model", path=folder / "sub" / "weights")
        (folder / "sub" / "weights2").write_bytes(b"2")
        changed = run.log_artifact("a/b c", "model", path=folder)
        assert run.degraded is None
    assert data.digest == same.digest
    digests = {data.digest, other.digest, window.digest, file.digest, changed.digest}
    assert len(digests) == 5
    assert None not in digests
    assert (window.name, window.aliases) == ("a-b-c", ("2026-10-01T10-00", "candidate"))


def test_a_retry_continues_under_the_same_id(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, wandb_mode="offline")
    ids = set()
    for _ in range(2):
        with open_run(settings, "a", "t", "g") as run:
            run.log({"x": 1.0}, step=1)
        assert run.degraded is None
        ids.add(run.id)
    assert ids == {run_id("a", "t", "g")}


def test_runs_are_independent_of_each_other(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, wandb_mode="offline")
    with open_run(settings, "a", "t") as first, open_run(settings, "b", "t") as second:
        assert first.id != second.id
        second.close()
        second.close()
        first.log({"x": 1.0}, step=1)
    assert (first.degraded, second.degraded) == (None, None)


def test_telemetry_that_fails_is_journaled_and_spares_its_caller(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, wandb_mode="offline")
    run = open_run(settings, "a", "t")
    run.log({"bad": object(), "good": 1.5}, step=1)
    missing = run.log_artifact("gone", "model", path=tmp_path / "gone")
    run.log({"fine": 2.0}, step=2)
    run.close()
    run.log({"late": 3.0}, step=3)
    assert missing == LoggedArtifact("gone", "model", None)
    assert run.degraded is not None
    assert "TypeError" in run.degraded
    lines = [json.loads(line) for line in (tmp_path / "wandb" / "journal" / f"{run.id}.jsonl").open()]
    assert [set(line) for line in lines] == [{"log"}, {"artifact"}, {"log"}]
    assert lines[0]["log"]["good"] == 1.5
    assert lines[2]["log"] == {"late": 3.0, "step": 3}


def test_an_unreachable_server_turns_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opening, "INIT_TIMEOUT", 1.0)
    with socket.socket() as taken:  # bound, never listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        settings = settings_in(
            tmp_path,
            wandb_mode="online",
            wandb_api_key="k" * 40,
            wandb_entity="me",
            wandb_base_url=f"http://127.0.0.1:{taken.getsockname()[1]}",
        )
        with open_run(settings, "a", "t") as run:
            run.log({"x": 1.0}, step=1)
            artifact = run.log_artifact("scores", "dataset", metadata={"rows": 1})
    assert run.mode == "offline"
    assert run.degraded is not None
    assert artifact.digest is not None
    assert "cannot be opened online" in caplog.text
    assert "k" * 40 not in caplog.text


def test_none_is_our_own_null_run(tmp_path: Path) -> None:
    before = dict(os.environ)
    for mode in ("none", "disabled"):
        with open_run(settings_in(tmp_path / "home", wandb_mode=mode), "a", "t") as run:
            run.log({"x": 1.0})
            run.summary({"x": 1.0})
            artifact = run.log_artifact("scores", "dataset", metadata={})
        assert (run.mode, run.degraded, artifact.digest) == ("none", None, None)
    assert not (tmp_path / "home").exists()
    assert dict(os.environ) == before


def test_an_exception_passes_through_and_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(settings_in(tmp_path, wandb_mode="offline"), "a", "t"):
        raise ZeroDivisionError


def test_ids_are_deterministic_and_accepted() -> None:
    assert run_id("2026-10-01T10:00", "t", "g") == run_id("2026-10-01T10:00", "t", "g")
    assert len({run_id("ab", "c"), run_id("a", "bc"), run_id("b", "c", "a"), run_id("ab", "c", "g")}) == 4
    assert len(run_id("x" * 200, "t")) <= 64
    assert run_id("a/b:c ü", "t").startswith("t-a-b-c-")


def test_our_words_for_the_mode_do_not_stop_the_library(tmp_path: Path) -> None:
    code = (
        "from babylon_rl.settings import Settings; from babylon_rl.tracking import open_run; import sys\n"
        "run = open_run(Settings(_env_file=None), 'a', 't'); run.close(); print(run.mode, run.degraded)\n"
    )
    environment = {"WANDB_MODE": "auto", "BABYLON_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "offline None", done.stderr


def test_nothing_heavy_is_imported_before_a_run_is_opened() -> None:
    code = "import babylon_rl.tracking, sys; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_environment_of_the_library(tmp_path: Path) -> None:
    prepare_environment(settings_in(tmp_path, wandb_mode="none"))
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["WANDB_DIR"] == str(tmp_path / "wandb")
    assert os.environ["WANDB_BASE_URL"] == "https://api.wandb.ai"
