"""Reads request bodies: bounded in size and time, parsed into typed values."""

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from shunter_engine.errors import ApiError, bad_request
from shunter_runtime.json_errors import problem_and_field

MAX_BODY_BYTES = 32 << 20
BODY_DEADLINE_S = 60.0

Body = TypeVar("Body", bound=Struct)


async def read_body(request: web.Request, body_type: type[Body]) -> Body:
    """The JSON body. Raises `ApiError` 400, 408 and 413."""
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            data = await request.read()
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_DEADLINE_S:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes") from None
    return decode_body(data, body_type)


def decode_body(data: bytes, body_type: type[Body]) -> Body:
    """Raises `ApiError` 400 that names the field, never its value."""
    try:
        return msgspec.json.decode(data, type=body_type)
    except msgspec.ValidationError as error:
        problem, field = problem_and_field(error)
        raise bad_request(f"{field}: {problem}" if field else problem, field) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise bad_request("the body is not valid JSON in UTF-8") from None
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
