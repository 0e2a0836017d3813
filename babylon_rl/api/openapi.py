"""The admin API as OpenAPI 3.1: what it reads, and every way in which it answers."""

from typing import Any

from babylon_rl import __version__
from babylon_rl.api.openapi_schemas import (
    AI_MODELS,
    DASHBOARD,
    DEPLOYED,
    ERROR,
    JOB,
    MODELS,
    READINESS,
    STATUS,
    TRAINING_DATA,
    obj,
)

_TRAINING = "/api/admin/training"
_TEXT: dict[str, Any] = {"type": "string"}
_VERSION = {"type": "string", "minLength": 1, "maxLength": 64}
_REASON = {"type": "string", "maxLength": 500}
_REFUSALS = {
    400: "The request is at fault; `error` names the field.",
    401: "The token is missing or wrong.",
    404: "There is no such thing.",
    409: "It cannot be done in the present state; `error` says why.",
    413: "The body is too large.",
    429: "Too many wrong tokens.",
    502: "Dagster refused.",
    503: "The database or Dagster is away, or no token is configured.",
}
_JOB_PARAMETER = {"name": "job", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def describe() -> dict[str, Any]:
    """The document that `/openapi.json` serves."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "babylon_rl admin API",
            "version": __version__,
            "description": "Training, models and releases. Paths and keys are those of the seed documents.",
        },
        "components": {
            "securitySchemes": {
                "admin": {"type": "http", "scheme": "bearer", "description": "ADMIN_TOKEN"},
                "cron": {"type": "http", "scheme": "bearer", "description": "CRON_SECRET"},
            }
        },
        "paths": {
            f"{_TRAINING}/status": {"get": _operation("trainingStatus", {200: STATUS})},
            f"{_TRAINING}/dashboard": {"get": _operation("trainingDashboard", {200: DASHBOARD})},
            f"{_TRAINING}/trigger": {
                "get": _operation("trainingReadiness", {200: READINESS}),
                "post": _operation(
                    "triggerTraining",
                    {202: JOB},
                    (400, 409, 413, 502),
                    {
                        "force": {"type": "boolean", "default": False},
                        "batchSize": {"type": ["integer", "null"], "minimum": 1, "maximum": 1_000_000},
                        "day": {"type": ["string", "null"], "pattern": r"^\d{4}-\d{2}-\d{2}$"},
                    },
                ),
            },
            f"{_TRAINING}/jobs/{{job}}": {
                "get": _operation("trainingJob", {200: JOB}, (404,), parameters=[_JOB_PARAMETER])
            },
            f"{_TRAINING}/jobs/{{job}}/cancel": {
                "post": _operation(
                    "cancelTraining",
                    {202: JOB},
                    (400, 404, 409, 413, 502),
                    {"reason": _REASON},
                    parameters=[_JOB_PARAMETER],
                )
            },
            f"{_TRAINING}/models": {"get": _operation("listModels", {200: MODELS})},
            f"{_TRAINING}/deploy": {
                "post": _operation(
                    "deployModel",
                    {200: DEPLOYED},
                    (400, 404, 409, 413),
                    {
                        "modelVersion": _VERSION,
                        "strategy": {
                            "enum": ["immediate", "gradual", "test", "replace", "blue-green", "canary"],
                            "default": "gradual",
                        },
                        "rolloutPercentage": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 100,
                            "default": 10,
                        },
                        "schedule": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
                        "testAgentIds": {
                            "type": "array",
                            "maxItems": 1000,
                            "items": {"type": "string", "minLength": 1, "maxLength": 128},
                        },
                        "force": {"type": "boolean", "default": False},
                        "reason": _REASON,
                    },
                    required=("modelVersion",),
                )
            },
            f"{_TRAINING}/promote": {
                "post": _operation("promoteModel", {200: DEPLOYED}, (400, 409, 413), {"reason": _REASON})
            },
            f"{_TRAINING}/rollback": {
                "post": _operation(
                    "rollbackModel",
                    {200: DEPLOYED},
                    (400, 404, 409, 413),
                    {"targetVersion": {**_VERSION, "type": ["string", "null"]}, "reason": _REASON},
                )
            },
            f"{_TRAINING}/upload-model": {"post": _upload()},
            "/api/admin/training-data": {"get": _operation("trainingData", {200: TRAINING_DATA})},
            "/api/admin/ai-models": {
                "get": _operation("aiModels", {200: AI_MODELS}),
                "put": _operation(
                    "setAiModels",
                    {200: AI_MODELS},
                    (400, 413),
                    {
                        "wandbModel": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
                        "wandbEnabled": {"type": "boolean"},
                    },
                ),
            },
            "/api/cron/training-check": {
                "get": _operation(
                    "trainingCheck",
                    {
                        200: obj(
                            success={"const": True},
                            duration=_TEXT,
                            timestamp=_TEXT,
                            scoring={"type": "object"},
                            readiness=READINESS,
                            status={"type": "object"},
                        )
                    },
                    (502,),
                    security="cron",
                )
            },
            "/train": {
                "post": _operation(
                    "trainBatch",
                    {
                        200: obj(status=_TEXT, batchId=_TEXT, message=_TEXT),
                        202: obj(status={"const": "started"}, batchId=_TEXT, message=_TEXT),
                    },
                    (400, 404, 409, 413, 502),
                    {
                        "batchId": {"type": "string", "minLength": 1, "maxLength": 200},
                        "source": {"type": ["string", "null"]},
                    },
                    required=("batchId",),
                    extra=True,
                )
            },
            "/health": {
                "get": {
                    "operationId": "workerHealth",
                    "responses": {
                        str(status): _json(
                            "Whether the database answers.",
                            obj(status=_TEXT, database=_TEXT, wandb=_TEXT, timestamp=_TEXT),
                        )
                        for status in (200, 503)
                    },
                }
            },
        },
    }


def _operation(
    name: str,
    answers: dict[int, dict[str, Any]],
    refusals: tuple[int, ...] = (),
    body: dict[str, Any] | None = None,
    *,
    required: tuple[str, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
    security: str = "admin",
    extra: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "security": [{security: []}],
        "responses": {
            **{str(status): _json("Done.", schema) for status, schema in answers.items()},
            **{str(status): _json(_REFUSALS[status], ERROR) for status in (401, 429, 503, *refusals)},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        schema = {"type": "object", "properties": body, "additionalProperties": extra}
        if required:
            schema["required"] = list(required)
        operation["requestBody"] = {
            "required": bool(required),
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _upload() -> dict[str, Any]:
    answer = obj(success={"const": True}, url=_TEXT, version=_TEXT, size={"type": "integer"})
    operation = _operation("uploadModel", {200: answer}, (400, 404, 409, 413))
    schema = {
        "type": "object",
        "required": ["model", "version"],
        "properties": {
            "model": {
                "type": "string",
                "format": "binary",
                "description": "Zip of a flat checkpoint directory.",
            },
            "version": _VERSION,
            "metadata": {"type": "string", "description": "A JSON object."},
        },
    }
    operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return operation


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
