"""Every failure as an OpenAI error body: ours, Sanic's, and bugs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException
from sanic.handlers import ErrorHandler

from mistralrs_onnx.runtime.errors import RequestError

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499
RETRY_AFTER = {429: "1", 503: "5"}  # seconds
TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable_error"}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 417: "expectation_failed"}


def error_body(error: RequestError) -> dict[str, Any]:
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RequestError) -> HTTPResponse:
    headers = {"retry-after": RETRY_AFTER[error.status]} if error.status in RETRY_AFTER else {}
    body = orjson.dumps(error_body(error))
    return HTTPResponse(body, error.status, headers=headers, content_type="application/json")


def internal_error() -> RequestError:
    """What a client is told of a bug: nothing; the log has the rest."""
    return RequestError("Internal error: the server's log says more.", status=500, code="internal_error")


def request_error(request: Request, exception: BaseException) -> RequestError:
    """The exception in our words."""
    if isinstance(exception, RequestError):
        return exception
    if not isinstance(exception, SanicException):
        return internal_error()
    status = exception.status_code
    if status == 404:
        message = f"Unknown route {request.path}: see /v1/models, /v1/chat/completions and /v1/completions."
    elif status == 405:
        message = f"{request.path} does not take {request.method}."
    else:
        message = str(exception) or "The request could not be read."
    return RequestError(
        message, status=status, code=CODES.get(status, "bad_request" if status < 500 else "unavailable")
    )


class Errors(ErrorHandler):
    """Answers whatever a handler, the router or the HTTP parser raised."""

    def default(self, request: Request, exception: BaseException) -> HTTPResponse:
        if isinstance(exception, asyncio.CancelledError):  # the client left: nobody reads this
            return HTTPResponse(status=CLIENT_LEFT)
        error = request_error(request, exception)
        if error.status == 500:
            logger.error("%s %s failed", request.method, request.path, exc_info=exception)
        response = error_response(error)
        if isinstance(exception, SanicException):
            response.headers.update(exception.headers)
        return response
