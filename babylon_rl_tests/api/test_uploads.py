"""Uploaded checkpoints: what is whole comes in under its version, and nothing else gets past the door."""

import asyncio
import io
import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.registry import ensure_base, get
from babylon_rl.deployment.storage import local_path
from babylon_rl.policy.checkpoints import verify_checkpoint
from babylon_rl.settings import Settings
from babylon_rl_tests.api.conftest import Admin, admin_settings

PATH = "/api/admin/training/upload-model"
LIMIT = 4 << 20


@pytest.fixture
def uploads(settings: Settings, dsn: str, base_checkpoint: Path) -> Iterator[Admin]:
    """An admin server with a base model, and a small limit."""

    async def base() -> None:
        connection = await connect(dsn)
        await ensure_base(connection, base_model="babylon-tiny", storage_path=base_checkpoint.as_uri())
        await connection.close()

    asyncio.run(base())
    with Admin(admin_settings(settings, admin_upload_bytes=LIMIT)) as admin:
        yield admin


def pack(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def whole(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def send(admin: Admin, packed: bytes, version: str = "v1.2.3", metadata: str | None = None) -> httpx.Response:
    data = {"version": version, **({} if metadata is None else {"metadata": metadata})}
    return admin.ask("POST", PATH, files={"model": ("model.zip", packed, "application/zip")}, data=data)


def left_behind(admin: Admin) -> list[str]:
    folder = admin.settings.home / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_whole_checkpoint_comes_in(uploads: Admin, base_checkpoint: Path, dsn: str) -> None:
    packed = pack(whole(base_checkpoint))
    answer = send(uploads, packed, metadata='{"by": "an operator"}')
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body == {"success": True, "url": body["url"], "version": "v1.2.3", "size": len(packed)}
    assert body["url"].startswith("file://")

    async def read() -> Any:
        connection = await connect(dsn)
        try:
            return await get(connection, "v1.2.3")
        finally:
            await connection.close()

    model = asyncio.run(read())
    assert (model.status, model.branch, model.verdict) == ("ready", "upload", None)
    manifest = verify_checkpoint(local_path(model, uploads.settings))
    assert manifest["uploaded"] == {"by": "an operator"}
    listed = uploads.get("/api/admin/training/models").json()["models"][0]
    assert listed["version"] == "v1.2.3" and listed["size"] > 100_000
    again = send(uploads, packed)
    assert again.status_code == 409 and "v1.2.3 is registered already" in again.json()["error"]
    assert len(left_behind(uploads)) == 1
    refused = uploads.post("/api/admin/training/deploy", {"modelVersion": "v1.2.3", "strategy": "immediate"})
    assert refused.status_code == 409 and "gate has not promoted" in refused.json()["error"]


def test_without_a_manifest_one_is_written(uploads: Admin, base_checkpoint: Path) -> None:
    files = whole(base_checkpoint)
    del files["manifest.json"]
    assert send(uploads, pack(files)).status_code == 200


@pytest.mark.parametrize("version", ["latest", "1.2", "v1.2.3-rc1", "../v1.2.3", "v1.2.3/x", "\x00", " "])
def test_a_version_is_a_version(uploads: Admin, version: str) -> None:
    answer = send(uploads, pack({"a.json": b"{}"}), version)
    assert answer.status_code == 400 and left_behind(uploads) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/cron.d/evil.json",
        "a/../../evil.json",
        "..\\evil.json",
        "C:evil.json",
        "folder/model.safetensors",
        ".hidden.json",
        "a\nb.json",
        "run.sh",
        "modeling.py",
        "x" * 200 + ".json",
    ],
)
def test_names_that_lead_elsewhere(uploads: Admin, base_checkpoint: Path, name: str, tmp_path: Path) -> None:
    answer = send(uploads, pack({**whole(base_checkpoint), name: b"{}"}))
    assert answer.status_code == 400 and left_behind(uploads) == []
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", ["model.bin", "weights.PT", "optimizer.pkl", "a.ckpt"])
def test_pickles_are_refused_by_name(uploads: Admin, base_checkpoint: Path, name: str) -> None:
    answer = send(uploads, pack({**whole(base_checkpoint), name: b"\x80\x04."}))
    assert answer.status_code == 400 and "pickle" in answer.json()["error"] and left_behind(uploads) == []


def test_a_pickle_under_another_name(uploads: Admin, base_checkpoint: Path) -> None:
    files = whole(base_checkpoint)
    del files["manifest.json"]
    files["model.safetensors"] = (
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system"
    )
    answer = send(uploads, pack(files))
    assert answer.status_code == 400 and "no safetensors file" in answer.json()["error"]
    assert left_behind(uploads) == []


def test_a_link_in_the_zip(uploads: Admin) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        link = zipfile.ZipInfo("config.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    answer = send(uploads, packed.getvalue())
    assert answer.status_code == 400 and "link" in answer.json()["error"]


def test_a_zip_bomb_stops_at_the_limit(uploads: Admin) -> None:
    answer = send(uploads, pack({"model.safetensors": bytes(200 << 20)}))
    assert answer.status_code == 413 and left_behind(uploads) == []


def test_a_zip_that_lies_about_its_size(uploads: Admin) -> None:
    packed = bytearray(pack({"model.safetensors": bytes(LIMIT * 3)}))
    at = packed.index(b"PK\x01\x02")  # the directory's entry: uncompressed size
    packed[at + 24 : at + 28] = (10).to_bytes(4, "little")
    assert send(uploads, bytes(packed)).status_code in (400, 413) and left_behind(uploads) == []


def test_too_many_files(uploads: Admin) -> None:
    answer = send(uploads, pack({f"{number}.json": b"{}" for number in range(65)}))
    assert answer.status_code == 400 and "65 files" in answer.json()["error"]


def test_an_upload_that_is_too_large_is_cut_off(uploads: Admin) -> None:
    assert send(uploads, bytes(LIMIT * 2)).status_code == 413

    def endless() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="model"; filename="m"\r\n\r\n'
        for _ in range(12):
            yield bytes(1 << 20)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = uploads.ask("POST", PATH, content=endless(), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("packed", [b"", b"no zip", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_zip(uploads: Admin, packed: bytes) -> None:
    assert send(uploads, packed).status_code == 400 and left_behind(uploads) == []


def test_an_altered_file_does_not_match_its_manifest(uploads: Admin, base_checkpoint: Path) -> None:
    files = whole(base_checkpoint)
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    answer = send(uploads, pack({**files, "model.safetensors": bytes(weights)}))
    assert answer.status_code == 400 and "does not match its checksum" in answer.json()["error"]


def test_code_of_its_own_is_refused(uploads: Admin, base_checkpoint: Path) -> None:
    files = whole(base_checkpoint)
    del files["manifest.json"]
    files["config.json"] = json.dumps(
        {**json.loads(files["config.json"]), "auto_map": {"AutoModel": "x"}}
    ).encode()
    answer = send(uploads, pack(files))
    assert answer.status_code == 400 and "auto_map" in answer.json()["error"] and left_behind(uploads) == []


def test_forms_that_do_not_fit(uploads: Admin) -> None:
    file = {"model": ("m.zip", pack({"a.json": b"{}"}), "application/zip")}
    for answer, told in (
        (uploads.ask("POST", PATH, json={}), "multipart"),
        (uploads.ask("POST", PATH, files=file), "version"),
        (uploads.ask("POST", PATH, data={"version": "v1.0.0"}, files={"x": b""}), "model"),
        (uploads.ask("POST", PATH, files=file, data={"version": "v1.0.0", "metadata": "{"}), "metadata"),
        (uploads.ask("POST", PATH, files=file, data={"version": "v1.0.0", "metadata": "[]"}), "metadata"),
        (uploads.ask("POST", PATH, content=b"x", headers={"content-type": "multipart/form-data"}), "form"),
    ):
        assert answer.status_code == 400 and told in answer.json()["error"], answer.text
