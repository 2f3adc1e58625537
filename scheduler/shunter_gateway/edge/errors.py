"""Errors in OpenAI's shape.

RequestError            carries the ClientError that the client gets
"""

import math
from collections.abc import Mapping

import msgspec

from shunter_gateway.request import ClientError
from shunter_runtime.json_errors import problem_and_field

_OVERLOAD_RETRY_S = 1.0


class RequestError(Exception):
    """Ends a request with `error`, wherever it is raised at the edge."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(error.message)
        self.error = error


def invalid(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """400: the request itself is wrong; `param` names the field."""
    return RequestError(ClientError(400, message, "invalid_request_error", code=code, param=param))


def unauthorized(message: str) -> RequestError:
    return RequestError(ClientError(401, message, "authentication_error", code="invalid_api_key"))


def model_not_found(model: str) -> RequestError:
    return RequestError(
        ClientError(
            404,
            f"The model `{model[:128]}` does not exist here; GET /v1/models lists those that do.",
            "invalid_request_error",
            code="model_not_found",
            param="model",
        )
    )


def not_found(method: str, path: str) -> RequestError:
    message = f"Unknown request URL: {method} {path[:128]}."
    return RequestError(ClientError(404, message, "invalid_request_error", code="unknown_url"))


def method_not_allowed(method: str, path: str) -> RequestError:
    message = f"Not allowed: {method} {path[:128]}."
    return RequestError(
        ClientError(405, message, "invalid_request_error", code="method_not_allowed")
    )


def body_too_large(limit: int) -> RequestError:
    message = f"The request body is over the limit of {limit} bytes."
    return RequestError(
        ClientError(413, message, "invalid_request_error", code="request_too_large")
    )


def body_timeout(limit_s: float) -> RequestError:
    message = f"The request body did not arrive within {limit_s:g} s."
    return RequestError(ClientError(408, message, "invalid_request_error", code="request_timeout"))


def overloaded(limit: int) -> RequestError:
    return engines_busy(f"This gateway answers {limit} requests already.")


def bodies_over(limit: int) -> RequestError:
    return engines_busy(f"The requests in this gateway hold {limit} bytes already.")


def engines_busy(message: str) -> RequestError:
    return RequestError(
        ClientError(
            429, message, "rate_limit_error", code="overloaded", retry_after_s=_OVERLOAD_RETRY_S
        )
    )


def unavailable(message: str, code: str, retry_after_s: float = 1.0) -> RequestError:
    return RequestError(
        ClientError(503, message, "server_error", code=code, retry_after_s=retry_after_s)
    )


def internal() -> ClientError:
    """What a client is told of a fault of ours: nothing but that it happened."""
    return ClientError(500, "The gateway failed on this request.", "server_error", code="internal")


def from_validation(error: msgspec.DecodeError) -> RequestError:
    """msgspec's errors name types and places, never values."""
    if not isinstance(error, msgspec.ValidationError):
        return invalid(f"The body is not valid JSON: {error}", code="invalid_json")
    text, param = problem_and_field(error)
    return invalid(f"{text} at `{param}`." if param else f"{text}.", param=param)


def body_of(error: ClientError) -> bytes:
    """The JSON body; an engine's own 4xx passes through where it is an object with `error`."""
    if error.body.lstrip().startswith(b"{") and b'"error"' in error.body:
        return error.body
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def headers_of(error: ClientError) -> Mapping[str, str]:
    headers = {"Content-Type": "application/json"}
    if error.retry_after_s > 0 or error.status == 429:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
