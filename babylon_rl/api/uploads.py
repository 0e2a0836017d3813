"""`/api/admin/training/upload-model`: a form with `model` (a zip), `version`, and `metadata` (JSON)."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from babylon_rl.api.errors import AdminError
from babylon_rl.deployment.uploads import UploadError, UploadTooLargeError, take_upload
from babylon_rl.settings import Settings

OVERHEAD_BYTES = 1 << 20
"""What a form may have beside its file."""
METADATA_BYTES = 64 << 10


@asynccontextmanager
async def _form(request: Request, most: int) -> AsyncIterator[dict[str, Any]]:
    """The form's fields; its file is on disk, and removed afterwards.

    Raises:
        AdminError: 413 as soon as more than `most` bytes arrive, 400 for what is no form.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise AdminError(400, "The body is no multipart/form-data", "Send model, version and metadata.")
    too_large = AdminError(
        413, f"The upload has more than {most} bytes", "ADMIN_UPLOAD_BYTES sets the limit."
    )
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > most:
        raise too_large
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise too_large
        return message

    limited = Request(request.scope, receive)
    try:
        form = await limited.form(max_files=1, max_fields=8, max_part_size=METADATA_BYTES)
    except HTTPException as problem:
        raise AdminError(400, f"The form cannot be read: {problem.detail}") from None
    except (ValueError, LookupError) as problem:  # an odd boundary or character set
        raise AdminError(400, f"The form cannot be read: {type(problem).__name__}") from None
    try:
        yield dict(form)
    finally:
        await form.close()


async def receive_model(request: Request, rl: asyncpg.Connection, settings: Settings) -> dict[str, Any]:
    """Takes an upload and returns the answer.

    Raises:
        AdminError: 400 and 413 for what is wrong with the form or the checkpoint.
        DeploymentError: 409 where the version is taken.
    """
    async with _form(request, settings.admin_upload_bytes + OVERHEAD_BYTES) as form:
        model, version = form.get("model"), form.get("version")
        if not isinstance(model, UploadFile):
            raise AdminError(400, "model: the packed checkpoint is missing")
        if not isinstance(version, str) or not version.strip():
            raise AdminError(400, "version: it is missing", "Such as v1.2.3.")
        metadata = _metadata(form.get("metadata", "{}"))
        try:
            record = await take_upload(rl, settings, model.file, version, metadata)
        except UploadTooLargeError as problem:
            raise AdminError(413, problem.problem, problem.remedy) from None
        except UploadError as problem:
            raise AdminError(400, problem.problem, problem.remedy) from None
        return {
            "success": True,
            "url": record.storage_path,
            "version": record.version,
            "size": model.size or 0,
        }


def _metadata(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) and text else {}
        clean = json.dumps(value, allow_nan=False, ensure_ascii=False)
        clean.encode()
    except (ValueError, RecursionError):
        raise AdminError(400, "metadata: it is not JSON") from None
    if not isinstance(value, dict):
        raise AdminError(400, "metadata: it is no JSON object")
    if "\\u0000" in clean or "\0" in clean:
        raise AdminError(400, "metadata: it holds a NUL character")
    return value
