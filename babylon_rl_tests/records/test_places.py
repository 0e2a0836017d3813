"""Places: which addresses are allowed, and files that are whole and private, locally and in S3."""

from pathlib import Path

import pytest

from babylon_rl.records.places import PlaceError, canonical, open_place
from babylon_rl.settings import Settings
from babylon_rl_tests.object_store import bucket, s3_server

__all__ = ["bucket", "s3_server"]


def settings_at(tmp_path: Path, *roots: str) -> Settings:
    return Settings(_env_file=None, babylon_home=tmp_path / "home", storage_roots=roots)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"recorded\n" * 1000)
    return path


@pytest.mark.parametrize(
    ("address", "canonical_form"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("file:///mnt/a/../b/", "file:///mnt/b"),
        ("/mnt/with space/", "file:///mnt/with%20space"),
    ],
)
def test_an_address_has_one_spelling(address: str, canonical_form: str) -> None:
    assert canonical(address) == canonical_form


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://host/path",
        "https://host/path",
        "memory://x",
        "ftp://host/x",
        "simplecache::s3://bucket/x",
        "s3://",
        "s3:///path",
        "s3://bucket/../other",
        "s3://bucket/a/./b",
        "s3://bucket/%2e%2e/other",
        "s3://bucket/a b",
        "s3://key:secret-of-mine@bucket/x",
        "s3://bucket/x?versionId=secret-of-mine",
        "s3://bucket/x#secret-of-mine",
        "file://elsewhere/path",
        "/mnt/a\n/b",
    ],
)
def test_what_is_no_place_is_refused_without_showing_secrets(address: str) -> None:
    with pytest.raises(PlaceError) as problem:
        canonical(address)
    assert "secret-of-mine" not in str(problem.value)


def test_only_allowed_roots_are_opened(tmp_path: Path) -> None:
    settings = settings_at(tmp_path, "s3://bucket/babylon", str(tmp_path / "backup"))
    home = settings.home
    for address in (
        "s3://bucket/babylon",
        "s3://bucket/babylon/2026",
        str(tmp_path / "backup" / "x"),
        str(home / "archives"),
        str(home / "exports" / "a"),
    ):
        assert open_place(address, settings).url == canonical(address)
    (home / "archives").mkdir(parents=True)
    (home / "archives" / "link").symlink_to(tmp_path)
    for address in (
        "s3://bucket/babylon-of-others",
        "s3://bucket",
        "s3://other/babylon",
        str(home),
        str(home / "postgres"),
        str(home / "archives" / ".." / "models"),
        str(home / "archives" / "link" / "source"),
        str(tmp_path),
    ):
        with pytest.raises(PlaceError, match="STORAGE_ROOTS"):
            open_place(address, settings)


def test_local_files_are_whole_and_private(tmp_path: Path, source: Path) -> None:
    settings = settings_at(tmp_path)
    place = open_place(str(settings.home / "archives"), settings)
    place.put("window/a/file", source)
    place.put("window/a/file", source)
    stored = settings.home / "archives" / "window" / "a" / "file"
    assert stored.read_bytes() == source.read_bytes() == place.read("window/a/file")
    assert stored.stat().st_mode & 0o777 == 0o600 and stored.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in stored.parent.iterdir()] == ["file"]
    round_trip(place, tmp_path)
    for name in ("../x", "a/../../x", "a//b", "/etc/passwd", "a/%2e%2e", ""):
        with pytest.raises(PlaceError, match="not allowed as a path"):
            place.put(name, source)


def test_s3_keeps_the_same_files(tmp_path: Path, source: Path, bucket: str) -> None:
    settings = settings_at(tmp_path, bucket)
    place = open_place(f"{bucket}/archives", settings)
    place.put("window/a/file", source)
    assert place.read("window/a/file") == source.read_bytes()
    import boto3

    name = bucket.removeprefix("s3://")
    grants = boto3.client("s3").get_object_acl(Bucket=name, Key="archives/window/a/file")["Grants"]
    assert [grant["Grantee"]["Type"] for grant in grants] == ["CanonicalUser"]  # nobody but the owner
    round_trip(place, tmp_path)
    with pytest.raises(PlaceError, match="cannot be written"):
        open_place("s3://no-such-bucket", settings_at(tmp_path, "s3://no-such-bucket")).put("a", source)


def round_trip(place, tmp_path: Path) -> None:
    target = tmp_path / "fetched"
    place.get("window/a/file", target)
    assert target.stat().st_size == 9000
    assert place.exists("window/a/file") and not place.exists("window/b")
    assert place.names("window") == ["a"] and place.names("nothing") == []
    with pytest.raises(PlaceError, match="not at"):
        place.read("window/a/other")
    place.delete("window/a")
    place.delete("window/a")
    assert place.names("window") == []


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="pip install gcsfs"):
        open_place("gs://bucket/x", settings_at(tmp_path, "gs://bucket"))
