"""Kernels over HTTP: ``/v1/kernels``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from graftbox.errors import UsageError
from graftbox.server import events
from graftbox.server.become import become, environment_for
from graftbox.server.kernel.cell import Cell, Clear
from graftbox.server.kernel.kernel import Kernel
from graftbox.server.kernel.kernels import LIMIT, MAIN, Kernels
from graftbox.server.kernel.process import Plan
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.shapes.kernels import CELL, NEW


async def list_all(request: Request) -> Response:
    request.arguments({})
    kernels = request.sandbox.kernels
    kernels.main()
    return answer({"kernels": [_shown(name, kernel) for name, kernel in kernels.kernels.items()]})


async def create(request: Request) -> Response:
    given = await request.json(NEW)
    sandbox = request.sandbox
    kernels = sandbox.kernels
    name = given.get("name") or f"k{os.urandom(4).hex()}"
    kernels.main()
    if name in kernels.kernels:
        raise HTTPError(409, f"There is a kernel {name} already; choose another name, or delete it first.")
    if len(kernels.kernels) >= LIMIT:
        raise HTTPError(429, f"There are {LIMIT} kernels, which is the limit; delete one first.")
    identity = become(sandbox, given.get("user"))
    cwd = Path(sandbox.settings.working_dir, given.get("cwd", "."))
    if not await identity.call(cwd.is_dir):
        raise UsageError(f"There is no folder {cwd} for the kernel to start in; make it, or choose another.")
    plan = Plan(
        cwd=str(cwd),
        identity=identity,
        entries=environment_for(sandbox, identity, given["env"]),
        interpreter=kernels.chosen(given.get("python")),
    )
    kernel = kernels.kernels[name] = kernels.create(plan)
    try:
        await kernels.start(kernel)
    except BaseException:
        kernels.kernels.pop(name, None)
        raise
    response = answer(_shown(name, kernel), 201)
    response.headers = ((b"location", f"/v1/kernels/{name}".encode()),)
    return response


async def show(request: Request) -> Response:
    request.arguments({})
    return answer(_shown(*_kernel(request)))


async def delete(request: Request) -> Response:
    name, kernel = _kernel(request)
    del request.sandbox.kernels.kernels[name]
    await kernel.close()
    return Response(204)


async def interrupt(request: Request) -> Response:
    return answer({"interrupted": _kernel(request)[1].interrupt()})


async def restart(request: Request) -> Response:
    name, kernel = _kernel(request)
    await kernel.restart()
    await request.sandbox.kernels.start(kernel)
    return answer(_shown(name, kernel))


async def execute(request: Request) -> Response:
    """Run a cell; one whose client has gone away is interrupted, unless it is not to be."""
    _, kernel = _kernel(request)
    given = await request.json(CELL)
    running = asyncio.ensure_future(_run(request, kernel, given))
    gone = asyncio.ensure_future(request.disconnected())
    try:
        waiting: set[asyncio.Future[Any]] = {running, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and given["cancel_on_disconnect"]:
            running.cancel()
            await asyncio.wait({running})
            raise ConnectionResetError
        cell, seconds = await running
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    outputs = [output.to_json() for output in cell.outputs]
    return answer({**_ended(kernel, cell, seconds), "outputs": outputs})


async def stream(request: Request) -> Response:
    _, kernel = _kernel(request)
    given = await request.json(CELL)
    return events.stream(request, _events(request, kernel, given))


async def _events(request: Request, kernel: Kernel, given: dict[str, Any]) -> AsyncGenerator[bytes]:
    begun: asyncio.Future[Cell] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(_run(request, kernel, given, begun))
    try:
        waiting: set[asyncio.Future[Any]] = {begun, running}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            async for event in begun.result().follow():
                if isinstance(event, int):
                    yield events.event("missed", {"characters": event})
                elif isinstance(event, Clear):
                    yield events.event("clear", {"wait": event.wait})
                else:
                    yield events.event("output", event.to_json())
        cell, seconds = await running
        yield events.event("done", _ended(kernel, cell, seconds))
    finally:
        if not running.done() and given["cancel_on_disconnect"]:
            running.cancel()
            await asyncio.wait({running})


async def _run(
    request: Request, kernel: Kernel, given: dict[str, Any], begun: asyncio.Future[Cell] | None = None
) -> tuple[Cell, float]:
    await request.sandbox.kernels.start(kernel)
    started = time.monotonic()
    cwd = given.get("cwd")
    cell = await kernel.execute(
        given["code"],
        timeout=given["timeout"],
        cwd=str(Path(kernel.cwd, cwd)) if cwd is not None else None,
        begun=begun.set_result if begun is not None else None,
    )
    return cell, time.monotonic() - started


def _ended(kernel: Kernel, cell: Cell, seconds: float) -> dict[str, Any]:
    ended = cell.done.result()
    return {
        "status": ended.status,
        "dropped": cell.dropped,
        "timed_out": cell.timed_out,
        "reason": ended.how or None,
        "cwd": kernel.cwd,
        "seconds": round(seconds, 6),
    }


def _shown(name: str, kernel: Kernel) -> dict[str, Any]:
    return {
        "name": name,
        "state": kernel.state,
        "python": kernel.interpreter or None,
        "cwd": kernel.cwd,
        "pid": kernel.pid,
        "created": kernel.created,
        "cells": kernel.cells,
        "starts": kernel.generation,
    }


def _kernel(request: Request) -> tuple[str, Kernel]:
    kernels: Kernels = request.sandbox.kernels
    name = request.parameters["name"]
    if name == MAIN:
        return name, kernels.main()
    if name not in kernels.kernels:
        raise HTTPError(404, f"There is no kernel {name}; GET /v1/kernels lists those that there are.")
    return name, kernels.kernels[name]
