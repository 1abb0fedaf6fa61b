"""Named shell sessions over HTTP: ``/v1/sessions`` and all below it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from graftbox.server import calls, events
from graftbox.server.api.commands import signal_number
from graftbox.server.become import become
from graftbox.server.calls import Call
from graftbox.server.command import Death
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.sessions import BusyError, NameTakenError, Session, TooManyError
from graftbox.server.shapes.commands import SIGNAL, WAIT
from graftbox.server.shapes.sessions import INPUT, OPEN, READ, RUN, SIZE, WATCH


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns what a session refuses into the status that says the same."""
    try:
        yield
    except (BusyError, NameTakenError) as error:
        raise HTTPError(409, str(error)) from error
    except TooManyError as error:
        raise HTTPError(429, str(error)) from error


def _session(request: Request) -> Session:
    return request.sandbox.sessions.get(request.parameters["name"])


def _shown(session: Session) -> dict[str, Any]:
    running = session.command if session.state == "running" else None
    return {
        "name": session.name,
        "state": session.state,
        "created": session.created,
        "cwd": session.shell.cwd,
        "columns": session.columns,
        "rows": session.rows,
        "command": running.id if running else None,
        "output": {"start": session.log.start, "end": session.log.end},
    }


async def open_session(request: Request) -> Response:
    given = await request.json(OPEN)
    user = given.pop("user", None)
    name = given.pop("name", None) or os.urandom(4).hex()
    identity = become(request.sandbox, user) if user is not None else None
    with _refusals():
        session = await request.sandbox.sessions.open(name, identity=identity, **given)
    response = answer(_shown(session), 201)
    response.headers = ((b"location", f"/v1/sessions/{session.name}".encode()),)
    return response


async def list_all(request: Request) -> Response:
    return answer({"sessions": [_shown(session) for session in request.sandbox.sessions.list()]})


async def show(request: Request) -> Response:
    return answer(_shown(_session(request)))


async def close(request: Request) -> Response:
    await request.sandbox.sessions.close(request.parameters["name"])
    return Response(204)


async def reset(request: Request) -> Response:
    session = _session(request)
    await session.reset()
    return answer(_shown(session))


async def resize(request: Request) -> Response:
    given = await request.json(SIZE)
    session = _session(request)
    await session.resize(given["columns"], given["rows"])
    return answer(_shown(session))


async def send_signal(request: Request) -> Response:
    number = signal_number((await request.json(SIGNAL))["signal"])
    return answer({"pids": await _session(request).signal(number)})


async def give_input(request: Request) -> Response:
    given = await request.json(INPUT)
    session = _session(request)
    if "keys" in given:
        for key in given["keys"]:
            await session.press(key)
    else:
        text = given.get("text")
        await session.write(base64.b64decode(given["base64"]) if text is None else text.encode())
    if given["enter"]:
        await session.write(b"\r")
    return Response(204)


async def run(request: Request) -> Response:
    given = await request.json(RUN)
    call = Call(_session(request), given["command"])
    with _refusals():
        await call.start(given.get("cwd"), given["env"], given["timeout"])
    await _attend(request, call, given["wait"], cancel=given["cancel_on_disconnect"])
    shown = {**_command(call), **_output(call, given["max_output"])}
    return answer(shown, 202 if call.running else 200)


async def _attend(request: Request, call: Call, seconds: float | None, *, cancel: bool) -> None:
    """Wait for the end, for as long as is asked; a client that goes away meanwhile interrupts the command."""
    gone = asyncio.ensure_future(request.disconnected())
    try:
        waiting: set[asyncio.Future[Any]] = {call.command.done, *((gone,) if cancel else ())}
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if cancel and gone.done() and call.running:
            call.stop()
    finally:
        gone.cancel()


def _command(call: Call) -> dict[str, Any]:
    command = call.command
    shown: dict[str, Any] = {
        "id": command.id,
        "session": call.session.name,
        "command": call.text,
        "state": "running",
        "exit_code": None,
        "timed_out": call.timed_out,
        "started": command.started,
        "start": command.start,
        "end": command.end,
        "cwd": call.session.shell.cwd,
    }
    if not call.running:
        result = command.done.result()
        shown["state"] = "died" if isinstance(result, Death) else "exited"
        shown["exit_code"] = call.exit_code
        if isinstance(result, Death):
            shown["reason"] = f"{result}."
    return shown


def _output(call: Call, limit: int) -> dict[str, Any]:
    """The last ``limit`` bytes of what it has printed."""
    log, start = call.session.log, call.command.start
    end = log.end if call.command.end is None else call.command.end
    position = max(start, end - limit, log.start)
    cut = position > start
    chunks = []
    while position < end:
        position, data = calls.read(log, position, end - position)
        if not data:
            break
        chunks.append(data)
        position += len(data)
    text = b"".join(chunks).decode("utf-8", "replace").replace("\r\n", "\n")
    return {"output": text, "truncated": cut}


def _call(request: Request) -> Call:
    return calls.find(_session(request), request.parameters["id"])


async def show_command(request: Request) -> Response:
    wait = request.arguments(WAIT)["wait"]
    call = _call(request)
    await request.within(wait, call.ended())
    return answer(_command(call))


async def watch_command(request: Request) -> Response:
    offset = _resumed(request)
    call = _call(request)

    async def told() -> AsyncGenerator[bytes]:
        async for piece in _pieces(call.output(offset, events.CHUNK)):
            yield piece
        await call.ended()
        yield events.event("exit", _command(call))

    return events.stream(request, told())


async def watch(request: Request) -> Response:
    return events.stream(
        request, _pieces(calls.follow(_session(request).log, _resumed(request), events.CHUNK))
    )


def _resumed(request: Request) -> int:
    """The offset to begin at: the last event's id, else the query's."""
    offset: int = request.arguments(WATCH)["offset"]
    if (last := request.header(b"last-event-id")) is None:
        return offset
    if not last.isdigit() or len(last) > 16:
        raise HTTPError(422, "Last-Event-ID must be the id of an event of this stream.")
    return int(last)


async def _pieces(source: events.Source) -> AsyncGenerator[bytes]:
    async for _, piece in events.pieces({"output": source}):
        yield events.event("output", piece, str(piece["end"]))


async def read(request: Request) -> Response:
    given = request.arguments(READ)
    log, offset = _session(request).log, given["offset"]
    await request.within(given["wait"], log.wait(offset))
    if given["format"] == "raw":
        if offset < log.start:
            raise HTTPError(410, f"Output before offset {log.start} is no longer kept.")
        return Response(200, log.read(offset, given["limit"]), "application/octet-stream")
    found, data = calls.read(log, offset, given["limit"])
    text, size = events.split(data, whole=len(data) < 4)
    return answer({"offset": found, "end": found + size, "closed": log.closed, **text})
