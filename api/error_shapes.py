"""The body of an error: one shape for each version of the API."""

from __future__ import annotations

from typing import Any

from errors import PlatformError

# OpenAI's words for kinds of errors; of the rest the request is at fault.
KINDS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def is_openais(path: str) -> bool:
    """Whether OpenAI's shape is spoken at this address."""
    return path == "/api/v2" or path.startswith("/api/v2/")


def own_error(sentence: str, code: str, request_id: str, field: str | None = None) -> dict[str, Any]:
    """The body of an error everywhere else."""
    body = {"error": sentence, "code": code, "request_id": request_id}
    return body if field is None else body | {"field": field}


def openai_error(status: int, code: str, sentence: str, field: str | None = None) -> dict[str, Any]:
    """The body under /api/v2; the request's id stands in its header only."""
    kind = "server_error" if status >= 500 else KINDS.get(status, "invalid_request_error")
    return {"error": {"message": sentence, "type": kind, "param": field, "code": code}}


def failure_json(failure: PlatformError, request_id: str) -> dict[str, Any]:
    """A failure of ours in our own shape."""
    return own_error(str(failure), failure.code, request_id, failure.field)


def openai_failure_json(failure: PlatformError) -> dict[str, Any]:
    """The same in OpenAI's."""
    return openai_error(failure.status, failure.code, str(failure), failure.field)
