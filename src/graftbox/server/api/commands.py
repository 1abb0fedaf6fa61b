"""Background commands over HTTP: ``/v1/commands``, and ``/v1/run`` for one that is waited for."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from graftbox.server import events
from graftbox.server.become import become, environment_for
from graftbox.server.environment import find_shells
from graftbox.server.jobs import Job, Order
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.shapes.commands import READ, RUN, SIGNAL, START, WAIT, WATCH
from graftbox.server.stream import Output

EXEC_SECONDS = 0.05
"""In which another command, just being started, lets go of the pipes that it has inherited by the fork."""


async def run(request: Request) -> Response:
    given = await request.json(RUN)
    job = await request.sandbox.jobs.start(_order(request, given))
    if given["cancel_on_disconnect"]:
        await _ended_or_left(request, job)
    else:
        await job.ended.wait()
    result = await _result(job, given["max_output"])
    if not result["truncated"] and await job.silence(EXEC_SECONDS):
        await request.sandbox.jobs.forget(job.name)
    else:
        result["id"] = job.name
    return answer(result)


async def _ended_or_left(request: Request, job: Job) -> None:
    """Return when the command is over, for which it is interrupted should the client go away."""
    ended = asyncio.ensure_future(job.ended.wait())
    gone = asyncio.ensure_future(request.disconnected())
    try:
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            job.stop(signal.SIGINT)
            await ended
    finally:
        ended.cancel()
        gone.cancel()


async def _result(job: Job, limit: int) -> dict[str, Any]:
    assert job.finished is not None
    result: dict[str, Any] = {
        "exit_code": job.exit_code,
        "signal": job.ended_by,
        "timed_out": job.timed_out,
        "truncated": False,
        "seconds": round(job.finished - job.created, 6),
    }
    for name, output in job.outputs.items():
        data = await _last(output, limit)
        result["truncated"] |= len(data) < output.end
        result[name] = text = data.decode("utf-8", "replace")
        if "\ufffd" in text and text.encode() != data:
            result[f"{name}_base64"] = base64.b64encode(data).decode("ascii")
    return result


async def _last(output: Output, limit: int) -> bytes:
    """The last ``limit`` bytes."""
    chunks, end = [], output.end
    offset = max(output.spool.start, end - limit)
    while offset < end:
        offset, data = await output.read(offset, end - offset)
        if not data:
            break
        chunks.append(data)
        offset += len(data)
    return b"".join(chunks)


async def start(request: Request) -> Response:
    given = await request.json(START)
    job = await request.sandbox.jobs.start(_order(request, given))
    response = answer(_shown(job), 201)
    response.headers = ((b"location", f"/v1/commands/{job.name}".encode()),)
    return response


def _order(request: Request, given: Mapping[str, Any]) -> Order:
    sandbox = request.sandbox
    identity = become(sandbox, given.get("user"))
    if (line := given.get("command")) is not None:
        argv = [find_shells(sandbox.environment, sandbox.settings.shell)[0], "-c", line]
    else:
        argv = given["argv"]
    return Order(
        argv=argv,
        shown=given["argv"] if line is None else line,
        cwd=str(Path(sandbox.settings.working_dir, given.get("cwd", "."))),
        environment=environment_for(sandbox, identity, given["env"]),
        identity=identity,
        stdin=_stdin(given),
        timeout=given["timeout"],
    )


def _stdin(given: Mapping[str, Any]) -> bytes | None:
    if (text := given.get("stdin_base64")) is not None:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPError(422, f"stdin_base64 is not base64: {error}.") from error
    text = given.get("stdin")
    return None if text is None else text.encode()


def _shown(job: Job) -> dict[str, Any]:
    key = "command" if isinstance(job.order.shown, str) else "argv"
    streams = {
        name: {
            "start": output.spool.start,
            "end": output.end,
            "closed": not output.open,
            **({"fault": output.spool.fault} if output.spool.fault else {}),
        }
        for name, output in job.outputs.items()
    }
    return {
        "id": job.name,
        key: job.order.shown,
        "cwd": job.order.cwd,
        "state": "running" if job.running else "exited",
        "pid": job.process.pid,
        "created": job.created,
        "ended": job.finished,
        "exit_code": job.exit_code,
        "signal": job.ended_by,
        "timed_out": job.timed_out,
        **streams,
    }


async def list_all(request: Request) -> Response:
    request.arguments({})
    return answer({"commands": [_shown(job) for job in request.sandbox.jobs.list()]})


async def show(request: Request) -> Response:
    wait = request.arguments(WAIT)["wait"]
    job = _job(request)
    await request.within(wait, job.ended.wait())
    return answer(_shown(job))


async def delete(request: Request) -> Response:
    await request.sandbox.jobs.delete(request.parameters["id"])
    return Response(204)


async def send_signal(request: Request) -> Response:
    number = signal_number((await request.json(SIGNAL))["signal"])
    job = _job(request)
    if not job.kill(number):
        raise HTTPError(409, f"The command {job.name} has ended; there is nothing left to signal.")
    return answer(_shown(job))


def signal_number(given: int | str) -> int:
    """The number of a signal given as in `SIGNAL`."""
    return signal.Signals[given] if isinstance(given, str) else int(given)


def _job(request: Request) -> Job:
    return request.sandbox.jobs.get(request.parameters["id"])


async def read(request: Request) -> Response:
    given = request.arguments(READ)
    output = _output(request)
    if given["format"] == "raw":
        return _raw(output, given["offset"], None if given["follow"] else given["limit"])
    await request.within(given["wait"], output.wait(given["offset"]))
    offset, data = await output.read(given["offset"], given["limit"])
    ended = not output.open and offset + len(data) >= output.end
    text, size = events.split(data, whole=ended or len(data) < 4)
    closed = ended and offset + size >= output.end
    return answer({"offset": offset, "end": offset + size, "closed": closed, **text})


def _output(request: Request) -> Output:
    outputs = _job(request).outputs
    name = request.parameters["stream"]
    if name not in outputs:
        raise HTTPError(404, "Not Found")
    return outputs[name]


def _raw(output: Output, offset: int, limit: int | None) -> Response:
    if offset < output.spool.start:
        raise HTTPError(410, f"Output before offset {output.spool.start} is no longer kept.")

    async def some() -> AsyncGenerator[bytes]:
        assert limit is not None
        _, data = await output.read(offset, limit)
        yield data

    async def all_of_it() -> AsyncGenerator[bytes]:
        expected = offset
        async with contextlib.aclosing(output.follow(offset)) as parts:
            async for found, data in parts:
                if found != expected:
                    # The answer is cut off, so that nobody takes it for complete.
                    raise ConnectionResetError("Output was dropped before it could be sent.")
                yield data
                expected += len(data)

    body = all_of_it() if limit is None else some()
    return Response(200, body, "application/octet-stream")


async def watch(request: Request) -> Response:
    given = request.arguments(WATCH)
    job = _job(request)
    offsets = {"stdout": given["stdout"], "stderr": given["stderr"]}
    if (last := request.header(b"last-event-id")) is not None:
        numbers = last.split(b"-")
        if len(numbers) != 2 or not all(number.isdigit() and len(number) < 17 for number in numbers):
            raise HTTPError(422, "Last-Event-ID must be the id of an event of this stream.")
        offsets = dict(zip(offsets, map(int, numbers), strict=True))
    return events.stream(request, _events(job, offsets))


async def _events(job: Job, offsets: dict[str, int]) -> AsyncGenerator[bytes]:
    sources = {name: output.follow(offsets[name], events.CHUNK) for name, output in job.outputs.items()}
    pieces: AsyncIterator[tuple[str, dict[str, Any]]] = events.pieces(sources)
    async for name, piece in pieces:
        offsets[name] = piece["end"]
        yield events.event(name, piece, f"{offsets['stdout']}-{offsets['stderr']}")
    await job.ended.wait()
    yield events.event("exit", _shown(job))
