"""The endpoints of the OpenHands action execution server, with its codes and error shapes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from graftbox.errors import GraftboxError
from graftbox.server.request import HTTPError, InvalidRequestError, Request, Response, answer
from graftbox.wire.actions import InvalidActionError, parse


async def alive(request: Request) -> Response:
    return answer({"status": "ok"})


async def server_info(request: Request) -> Response:
    return answer(await asyncio.to_thread(request.sandbox.clock.info))


async def execute_action(request: Request) -> Response:
    body = await request.body()
    request.sandbox.clock.action()
    message = _action(body)
    try:
        return answer((await request.sandbox.execute(parse(message))).to_json())
    except (InvalidActionError, GraftboxError) as error:
        raise HTTPError(500, f"Internal server error: {error}") from error


def _action(body: bytes) -> dict[str, Any]:
    request = decoded(body)
    if not isinstance(request, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        raise InvalidRequestError("model_attributes_type", ("body",), text, request)
    if "action" not in request:
        raise InvalidRequestError("missing", ("body", "action"), "Field required", request)
    action = request["action"]
    if not isinstance(action, dict):
        text = "Input should be a valid dictionary"
        raise InvalidRequestError("dict_type", ("body", "action"), text, action)
    return action


def decoded(body: bytes) -> Any:
    """The JSON in ``body``; raises `InvalidRequestError`."""
    text = "JSON decode error"
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        where = ("body", error.pos)
        raise InvalidRequestError("json_invalid", where, text, {}, ctx={"error": error.msg}) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError("json_invalid", ("body", 0), text, {}) from error
