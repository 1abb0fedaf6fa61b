"""What the server says of itself: its API's document, and what works in this sandbox."""

from __future__ import annotations

from graftbox import __version__
from graftbox.server import routes
from graftbox.server.openapi import Operation, document
from graftbox.server.request import Request, Response, answer

OPENAPI = {
    "openapi": Operation("This document", answers={200: {"type": "object"}}),
}


async def openapi(request: Request) -> Response:
    return answer(document(routes.ROUTES, routes.OPEN, __version__))
