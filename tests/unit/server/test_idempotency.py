"""Requests that are sent again with the same ``Idempotency-Key``."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.unit.server.conftest import until

from graftbox.server import idempotency
from graftbox.server.environment import Environment
from graftbox.server.idempotency import Answers
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings

COUNT = "echo x >> count; wc -l < count"


def ask(client: Any, body: object, key: str, path: str = "/v1/run") -> tuple[int, Any]:
    answered = client.ask("POST", path, body, {"Idempotency-Key": key})
    assert isinstance(answered, tuple)
    return answered


def test_a_repeated_request_is_carried_out_once(client: Any) -> None:
    first = ask(client, {"command": COUNT}, "a")
    assert first[1]["stdout"] == "1\n"
    assert ask(client, {"command": COUNT}, "a") == first
    assert ask(client, {"command": COUNT}, "b")[1]["stdout"] == "2\n"
    assert client.ask("POST", "/v1/run", {"command": COUNT})[1]["stdout"] == "3\n"


def test_another_request_under_the_same_key_is_refused(client: Any) -> None:
    ask(client, {"command": "true"}, "c")
    assert ask(client, {"command": "false"}, "c")[0] == 422
    assert ask(client, {"command": "true"}, "c", "/v1/commands")[0] == 422
    assert ask(client, {"command": "true"}, "x" * 256)[0] == 422
    assert ask(client, {"command": "true"}, "")[0] == 422


def test_a_refusal_is_repeated_too(client: Any) -> None:
    first = ask(client, {"argv": ["nope"]}, "d")
    assert first[0] == 400
    assert ask(client, {"argv": ["nope"]}, "d") == first


def test_a_retry_after_a_lost_connection_waits_for_the_first(client: Any) -> None:
    folder = client.folder / "retry"
    folder.mkdir()
    body = {"command": f"touch begun; until test -e go; do sleep 0.05; done; {COUNT}", "cwd": "retry"}
    data = json.dumps(body).encode()
    head = b"POST /v1/run HTTP/1.1\r\nhost: x\r\nidempotency-key: e\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(head % len(data) + data)
        until((folder / "begun").exists)
    with ThreadPoolExecutor() as threads:
        again = type(client)(client.port, client.folder, client.process)
        waiting = threads.submit(ask, again, body, "e")
        time.sleep(0.2)  # in which it would be run a second time
        (folder / "go").touch()
        status, answered = waiting.result()
        again.connection.close()
    assert (status, answered["exit_code"], answered["stdout"]) == (200, 0, "1\n")


def requested(key: bytes, body: bytes = b"") -> Request:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"method": "POST", "raw_path": b"/v1/x", "path": "/v1/x", "query_string": b""}
    sandbox = Sandbox(Settings(), Environment(()))
    return Request(sandbox, {**scope, "headers": [(b"idempotency-key", key)]}, receive, {})


@pytest.mark.parametrize(("status", "calls"), [(200, 1), (404, 1), (429, 2), (503, 2)])
def test_only_what_a_repetition_would_not_better_is_kept(status: int, calls: int) -> None:
    count = 0

    async def endpoint(request: Request) -> Response:
        nonlocal count
        count += 1
        if status >= 400:
            raise HTTPError(status, "no")
        return answer({})

    async def twice() -> None:
        answers = Answers()
        for _ in range(2):
            assert (await answers.once(requested(b"k"), endpoint)).status == status

    asyncio.run(twice())
    assert count == calls


def test_memory_and_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_BYTES", 1000)
    monkeypatch.setattr(idempotency, "MAX_ENTRIES", 20)

    async def endpoint(request: Request) -> Response:
        return Response(200, bytes(100))

    async def large(request: Request) -> Response:
        return Response(200, bytes(400))

    async def fill() -> None:
        answers = Answers()
        for number in range(50):
            await answers.once(requested(b"%d" % number), endpoint)
            await asyncio.sleep(0)
            assert sum(entry.size for entry in answers.entries.values()) <= 1000
        await answers.once(requested(b"large"), large)
        await asyncio.sleep(0)
        assert b"large" not in answers.entries
        monkeypatch.setattr(idempotency, "KEEP_SECONDS", 0.0)
        await answers.once(requested(b"last"), endpoint)
        await asyncio.sleep(0)
        assert len(answers.entries) <= 1

    asyncio.run(fill())


def test_too_many_at_work_are_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_ENTRIES", 3)

    async def fill() -> None:
        go = asyncio.Event()

        async def slow(request: Request) -> Response:
            await go.wait()
            return answer({})

        answers = Answers()
        waiting = [asyncio.ensure_future(answers.once(requested(b"%d" % n), slow)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPError) as caught:
            await answers.once(requested(b"more"), slow)
        assert caught.value.status == 429
        go.set()
        assert [each.status for each in await asyncio.gather(*waiting)] == [200] * 3

    asyncio.run(fill())
