"""A session's terminal for a person: ``/v1/sessions/{name}/pty``, a WebSocket.

Binary messages are bytes, from the keyboard and to the screen. Text messages are JSON: ``{"columns": 100,
"rows": 30}``, ``{"keys": ["C-c"]}`` and ``{"signal": "SIGINT"}`` from the client; ``{"error": …}``,
``{"offset": n}`` (where the first byte sent stands in the output) and ``{"exit_code": n}`` from the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from graftbox.errors import GraftboxError
from graftbox.server import calls
from graftbox.server.api.commands import signal_number
from graftbox.server.calls import Call
from graftbox.server.channel import Channel
from graftbox.server.schema import MismatchError, check
from graftbox.server.sessions import BusyError, Session
from graftbox.server.shapes.commands import SIGNAL
from graftbox.server.shapes.sessions import INPUT, SCROLLBACK, SIZE

_CHUNK = 64 * 1024


async def pty(channel: Channel) -> None:
    """Serve the terminal until the client or the session goes, or the command that it asked for ends."""
    given = channel.arguments(SCROLLBACK)
    session = channel.sandbox.sessions.get(channel.parameters["name"])
    await channel.accept()
    offset = max(session.log.start, session.log.end - given["scrollback"])
    await channel.tell({"offset": offset})
    call = await _begun(session, given["command"])
    screen = Screen(channel, session, offset)
    tasks = [asyncio.ensure_future(screen.show()), asyncio.ensure_future(_type(channel, session))]
    if call:
        tasks.append(asyncio.ensure_future(_until_ended(screen, call)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await channel.close(1000)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _begun(session: Session, command: str) -> Call | None:
    """The command that was asked for, unless the session is at work already."""
    if not command:
        return None
    call = Call(session, command)
    with contextlib.suppress(BusyError):
        await call.start(None, {}, None)
        return call
    return None


class Screen:
    """What the client has been shown: everything before ``offset``."""

    def __init__(self, channel: Channel, session: Session, offset: int) -> None:
        self.channel = channel
        self.session = session
        self.offset = offset
        self.moved = asyncio.Event()

    async def show(self) -> None:
        async for found, data in calls.follow(self.session.log, self.offset, _CHUNK):
            await self.channel.send(data)
            self.offset = found + len(data)
            self.moved.set()


async def _until_ended(screen: Screen, call: Call) -> None:
    await call.ended()
    while screen.offset < (call.command.end or 0):
        screen.moved.clear()
        await screen.moved.wait()
    await screen.channel.tell({"exit_code": call.exit_code})


async def _type(channel: Channel, session: Session) -> None:
    while (message := await channel.receive()) is not None:
        if isinstance(message, bytes):
            await session.write(message)
            continue
        try:
            await _control(session, json.loads(message))
        except (ValueError, RecursionError, GraftboxError) as error:
            await channel.tell({"error": str(error)})


async def _control(session: Session, given: Any) -> None:
    if not isinstance(given, dict):
        raise MismatchError("A text message must be a JSON object.")
    if "signal" in given:
        await session.signal(signal_number(check(given, SIGNAL, "message")["signal"]))
    elif "keys" in given:
        for key in check(given, INPUT, "message")["keys"]:
            await session.press(key)
    else:
        size = check(given, SIZE, "message")
        await session.resize(size["columns"], size["rows"])
