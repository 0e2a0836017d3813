"""The artifact store: same content same file, whole or not at all, damage found and named."""

import subprocess
import sys

import msgspec
import pytest

from babylon_rl.records.store import ArtifactError, ArtifactStore

RECORDS = [{"b": 1.5, "a": "x"}, {"n": None, "text": "π \u0000", "nested": {"z": [1, 2], "y": True}}]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "artifacts")


def test_round_trip_by_address_and_by_hash(store):
    artifact = store.put("trajectories", "2026-10-01T00:00", RECORDS)
    assert artifact.count == 2
    assert artifact.uri == f"trajectories/2026-10-01T00_00/{artifact.sha256}.jsonl.zst"
    assert artifact.bytes == (store.root / artifact.uri).stat().st_size
    assert store.get(artifact.uri) == RECORDS
    assert store.get(artifact.sha256) == RECORDS


def test_no_records_are_content_too(store):
    artifact = store.put("groups", "empty", [])
    assert artifact.count == 0
    assert store.get(artifact.uri) == []


def test_hash_ignores_key_order_and_sees_record_order(store):
    first = store.put("k", "n", [{"a": 1, "b": 2}, {"c": 3}])
    assert store.put("k", "n", [{"b": 2, "a": 1}, {"c": 3}]) == first
    assert store.put("k", "n", [{"c": 3}, {"a": 1, "b": 2}]).sha256 != first.sha256


def test_hash_is_the_same_in_another_process(store):
    code = (
        "import sys; from babylon_rl.records.store import ArtifactStore\n"
        "print(ArtifactStore(sys.argv[1]).put('k', 'n', [{'b': 0.1 + 0.2, 'a': 'é'}]).sha256)"
    )
    args = [sys.executable, "-c", code, str(store.root / "other")]
    other = subprocess.run(args, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert other.stdout.strip() == store.put("k", "n", [{"a": "é", "b": 0.1 + 0.2}]).sha256


def test_a_stored_file_is_read_only_and_not_rewritten(store):
    artifact = store.put("k", "n", RECORDS)
    path = store.path(artifact.uri)
    before = path.stat()
    assert before.st_mode & 0o222 == 0
    store.put("k", "n", RECORDS)
    assert path.stat().st_ino == before.st_ino


def test_nothing_is_left_behind_when_a_record_cannot_be_written(store):
    with pytest.raises(TypeError):
        store.put("k", "n", [{"fine": 1}, {"bad": object()}])
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "swapped"])
def test_damage_is_found_named_and_healed_by_storing_again(store, damage):
    artifact = store.put("k", "n", RECORDS)
    path = store.path(artifact.uri)
    content = path.read_bytes()
    path.chmod(0o644)
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.write_bytes(store.path(store.put("k", "n", [{"other": 1}]).uri).read_bytes())
    with pytest.raises(ArtifactError) as caught:
        store.get(artifact.uri)
    assert str(path) in str(caught.value)
    assert "again" in caught.value.remedy
    assert store.put("k", "n", RECORDS) == artifact
    assert store.get(artifact.uri) == RECORDS


@pytest.mark.parametrize("address", ["k/n/" + "0" * 64 + ".jsonl.zst", "0" * 64])
def test_a_missing_file_is_named_with_a_remedy(store, address):
    with pytest.raises(ArtifactError, match=address[-74:]) as caught:
        store.get(address)
    assert caught.value.remedy


@pytest.mark.parametrize("address", ["../../etc/passwd", "/etc/passwd", "k/n/file", "k/../../" + "0" * 64])
def test_addresses_outside_the_store_are_refused(store, address):
    with pytest.raises(ArtifactError, match="not an address"):
        store.get(address)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_are_no_file_names_are_refused(store, name):
    with pytest.raises(ArtifactError, match="no name"):
        store.put("k", name, [])


def test_a_file_that_is_written_bit_by_bit_is_the_file_that_is_put_at_once(tmp_path):
    store, records = ArtifactStore(tmp_path), [{"number": n} for n in range(50)]
    with store.writer("kind", "name") as writer:
        for record in records:
            writer.add(record)
        streamed = writer.publish()
    assert streamed == store.put("kind", "name", records)
    assert [msgspec.json.decode(line) for line in store.lines(streamed.uri)] == records


def test_a_file_that_is_not_published_leaves_nothing(tmp_path):
    store = ArtifactStore(tmp_path)
    with store.writer("kind", "name") as writer:
        writer.add({"a": 1})
    with pytest.raises(RuntimeError), store.writer("kind", "name") as writer:
        writer.add({"a": 1})
        raise RuntimeError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
