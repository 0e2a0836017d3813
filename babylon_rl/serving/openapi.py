"""The gateway's API as OpenAPI 3.1: what it reads of a request, and every way in which it answers."""

from typing import Any

from babylon_rl import __version__

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_CHAT = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "model": {"type": "string", "default": "babylon-agent"},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"type": "string", "minLength": 1, "maxLength": 32},
                    "content": {"type": ["string", "array", "null"], "items": {"type": "object"}},
                },
            },
        },
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 2147483647},
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 2147483647},
        "seed": {"type": ["integer", "null"]},
        "n": {"enum": [1, None]},
        "stop": {
            "anyOf": [
                {"type": ["string", "null"]},
                {"type": "array", "maxItems": 8, "items": {"type": "string"}},
            ]
        },
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
        "logprobs": {"type": ["boolean", "null"]},
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        "tools": {"type": "array", "items": {"type": "object"}},
        "return_token_ids": {"type": ["boolean", "null"], "description": "vLLM's extension."},
    },
}
_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": ["object", "null"]},
    },
}
_REFUSALS = {
    "400": "The request is at fault; `param` names the field.",
    "401": "The API key is missing or wrong.",
    "403": "The key belongs to another agent.",
    "404": "There is no such model here.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "Too many requests; `Retry-After` says when to come back.",
    "502": "The model's server failed, and so did the fallback.",
    "503": "Not now: no room to keep the call, no model, or too many requests. See `Retry-After`.",
    "504": "The model's server took too long.",
}


def describe() -> dict[str, Any]:
    """The document that `/openapi.json` shows."""
    refusals = {status: _json(text, _ERROR) for status, text in _REFUSALS.items()}
    answer = _json("The answer, whole or as server-sent events.", _COMPLETION)
    answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    locked = {status: refusals[status] for status in ("401", "403", "400")}
    model = {"type": "object", "required": ["id", "object", "created", "owned_by"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "babylon gateway", "version": __version__},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v1/chat/completions": {
                "post": {
                    "operationId": "createChatCompletion",
                    "security": [{"key": []}, {}],
                    "parameters": [
                        {
                            "name": "x-agent-id",
                            "in": "header",
                            "required": False,
                            "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                        }
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": _CHAT}},
                    },
                    "responses": {"200": answer, **refusals},
                }
            },
            "/v1/models": {
                "get": {
                    "operationId": "listModels",
                    "security": [{"key": []}, {}],
                    "responses": {"200": _json("The models.", {"type": "object"}), **locked},
                }
            },
            "/v1/models/{model}": {
                "get": {
                    "operationId": "retrieveModel",
                    "security": [{"key": []}, {}],
                    "parameters": [
                        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
                    ],
                    "responses": {
                        "200": _json("The model.", model),
                        **locked,
                        "404": refusals["404"],
                    },
                }
            },
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "responses": {"200": _json("The process runs.", {"type": "object"})},
                }
            },
            "/readyz": {
                "get": {
                    "operationId": "ready",
                    "responses": {
                        "200": _json("It can answer.", {"type": "object"}),
                        "503": _json("It cannot, and why.", {"type": "object"}),
                    },
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "security": [{"key": []}, {}],
                    "responses": {
                        "200": {
                            "description": "Prometheus.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **locked,
                    },
                }
            },
        },
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
