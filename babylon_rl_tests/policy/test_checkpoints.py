"""Checkpoints on disk: whole or refused, with the file's name."""

import json
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.checkpoints import (
    MANIFEST,
    _sha256,
    load_checkpoint,
    read_manifest,
    save_checkpoint,
    verify_checkpoint,
)
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError

WEIGHTS = "model.safetensors"


@pytest.fixture
def checkpoint(base_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(base_checkpoint, tmp_path / "checkpoint"))


def vouch(checkpoint: Path) -> None:
    """Makes the manifest agree with the files, as somebody who built a foreign checkpoint could."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    files = [file for file in checkpoint.iterdir() if file.name != MANIFEST]
    manifest["files"] = {file.name: _sha256(file) for file in files}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(checkpoint: Path) -> str:
    """The one line that refuses a checkpoint."""
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(checkpoint)
    text = str(refusal.value)
    assert str(checkpoint) in text and "\n" not in text and refusal.value.remedy
    return text


def test_round_trip(base_checkpoint: Path, base_engine: EmbeddedEngine, tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint(base_checkpoint)
    path = tmp_path / "deep" / "copy"
    manifest = save_checkpoint(path, model, tokenizer, {"parent": "v0.0.0", "day": None})
    assert manifest["parent"] == "v0.0.0" and read_manifest(path) == manifest
    original = read_manifest(base_checkpoint)["files"]
    for name in (WEIGHTS, "config.json", "tokenizer.json", "chat_template.jinja"):
        assert manifest["files"][name] == original[name], "the same weights, the same bytes"
    # tokenizer_config.json notes that it came from a folder, but not from which one.
    elsewhere = shutil.copytree(base_checkpoint, tmp_path / "elsewhere")
    assert save_checkpoint(tmp_path / "c", *load_checkpoint(elsewhere), {})["files"] == manifest["files"]
    assert verify_checkpoint(path) == manifest
    again = EmbeddedEngine.load(path, "v0.0.1")
    request = ChatRequest([{"role": "user", "content": "AURUM crash"}], seed=4)
    [one], [other] = base_engine.sample([request]), again.sample([request])
    assert (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)
    assert not again.model.training


def test_saving_the_same_twice_is_fine_and_something_else_is_refused(
    base_checkpoint: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_checkpoint(base_checkpoint)
    first = save_checkpoint(tmp_path / "c", model, tokenizer, {"parent": "v0.0.0"})
    assert save_checkpoint(tmp_path / "c", model, tokenizer, {"parent": "v0.0.7"}) == first
    next(model.parameters()).data += 1e-3
    with pytest.raises(CheckpointError, match="exists already with other contents"):
        save_checkpoint(tmp_path / "c", model, tokenizer, {"parent": "v0.0.0"})
    assert verify_checkpoint(tmp_path / "c") == first
    assert [file.name for file in tmp_path.iterdir()] == ["c"], "no scratch folder is left"


def test_a_full_disk_leaves_nothing_half_written(base_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint(base_checkpoint)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(Exception, match="(?i)too large|I/O|write"):
            save_checkpoint(tmp_path / "c", model, tokenizer, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    save_checkpoint(tmp_path / "c", model, tokenizer, {})
    assert verify_checkpoint(tmp_path / "c")


@pytest.mark.long
def test_a_killed_writer_leaves_whole_checkpoints_only(base_checkpoint: Path, tmp_path: Path) -> None:
    program = f"""
import itertools, sys
from pathlib import Path
from babylon_rl.policy.checkpoints import load_checkpoint, save_checkpoint
model, tokenizer = load_checkpoint(Path({str(base_checkpoint)!r}))
print("ready", flush=True)
for number in itertools.count():
    next(model.parameters()).data += 1e-3
    save_checkpoint(Path({str(tmp_path)!r}) / f"c{{number}}", model, tokenizer, {{}})
"""
    for delay in (0.05, 0.11, 0.17):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            time.sleep(delay)
            writer.kill()
        assert writer.returncode == -signal.SIGKILL
        for checkpoint in tmp_path.glob("c*"):
            verify_checkpoint(checkpoint)


def flip_a_bit(checkpoint: Path) -> None:
    content = bytearray((checkpoint / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (checkpoint / WEIGHTS).write_bytes(content)


def truncate(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).write_bytes((checkpoint / WEIGHTS).read_bytes()[:-100])


def add_unlisted(checkpoint: Path) -> None:
    (checkpoint / "modeling_llama.py").write_text("raise SystemExit('remote code was run')")


def add_folder(checkpoint: Path) -> None:
    (checkpoint / "experts").mkdir()


def list_outsider(checkpoint: Path) -> None:
    outside = checkpoint.parent / "outside.json"
    outside.write_text("{}")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"]["../outside.json"] = _sha256(outside)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (flip_a_bit, f"{WEIGHTS} does not match its checksum"),
        (truncate, f"{WEIGHTS} does not match its checksum"),
        (lambda c: change(c / "config.json", rope_theta=1.0), "config.json does not match its checksum"),
        (
            lambda c: change(c / "tokenizer_config.json", x=1),
            "tokenizer_config.json does not match its checksum",
        ),
        (lambda c: (c / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda c: (c / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda c: (c / MANIFEST).unlink(), f"{MANIFEST} is missing"),
        (lambda c: (c / MANIFEST).write_text('{"files": '), f"{MANIFEST} is not JSON"),
        (lambda c: (c / MANIFEST).write_text("[]"), f"{MANIFEST} lists no files"),
        (lambda c: (c / MANIFEST).write_text("{}"), f"{MANIFEST} lists no files"),
        (lambda c: (c / MANIFEST).write_bytes(b"\xff\xfe"), f"{MANIFEST} is not JSON"),
        (add_unlisted, "modeling_llama.py is not listed"),
        (add_folder, "experts is not listed"),
        (list_outsider, "../outside.json is missing"),
        (shutil.rmtree, "there is no such directory"),
    ],
)
def test_what_the_manifest_does_not_vouch_for_is_refused(
    checkpoint: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(checkpoint)
    assert reason in refused(checkpoint)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "state.pickle"])
def test_no_pickle_is_read_even_when_the_manifest_lists_it(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "sprung"), "w"))  # type: ignore[return-value]

    (checkpoint / name).write_bytes(pickle.dumps(Trap()))
    (checkpoint / WEIGHTS).unlink()
    vouch(checkpoint)
    assert name in refused(checkpoint) and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        {"architectures": ["LlamaForCausalLM", "Foreign"]},
        {"architectures": []},
        {"architectures": None},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": 7},
    ],
)
def test_foreign_architectures_are_refused(checkpoint: Path, values: dict[str, object]) -> None:
    change(checkpoint / "config.json", **values)
    vouch(checkpoint)
    text = refused(checkpoint)
    assert "config.json" in text and "LlamaForCausalLM, Qwen2ForCausalLM" in text


def test_code_of_its_own_is_refused(checkpoint: Path) -> None:
    change(checkpoint / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    vouch(checkpoint)
    assert "auto_map" in refused(checkpoint)


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_an_unreadable_configuration_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    vouch(checkpoint)
    assert "config.json" in refused(checkpoint)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
def test_a_file_that_was_never_listed_is_missed(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    vouch(checkpoint)
    refused(checkpoint)


@pytest.mark.parametrize("spoil", [truncate, lambda c: (c / WEIGHTS).write_bytes(b"")])
def test_weights_that_are_no_safetensors_are_refused(
    checkpoint: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(checkpoint)
    vouch(checkpoint)
    refused(checkpoint)


def test_a_broken_tokenizer_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    vouch(checkpoint)
    refused(checkpoint)


@pytest.mark.parametrize(
    "values", [{"hidden_size": 32}, {"vocab_size": 12}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}]
)
def test_tensors_that_do_not_fit_the_configuration_are_refused(
    checkpoint: Path, values: dict[str, object]
) -> None:
    change(checkpoint / "config.json", **values)
    vouch(checkpoint)
    refused(checkpoint)
