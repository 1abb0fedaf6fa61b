"""Named sessions, as the server's own parts use them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import NotFoundError, UsageError
from graftbox.server.command import Death, Report
from graftbox.server.environment import Environment
from graftbox.server.identity import Identity
from graftbox.server.sandbox import Sandbox
from graftbox.server.session import BusyError, Session
from graftbox.server.sessions import NameTakenError, TooManyError
from graftbox.server.settings import Settings

Test = Callable[[Sandbox], Awaitable[None]]


@pytest.fixture
def within(tmp_path: Path) -> Callable[[Test], None]:
    """Runs a coroutine function on a sandbox of its own."""

    async def go(test: Test) -> None:
        variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
        entries = tuple(f"{name}={value}".encode() for name, value in variables.items())
        sandbox = Sandbox(Settings(port=None, working_dir=str(tmp_path)), Environment(entries))
        try:
            async with asyncio.timeout(240):
                await test(sandbox)
        finally:
            await sandbox.close()

    return lambda test: asyncio.run(go(test))


async def said(session: Session, command: str, **options: Any) -> str:
    """What a command prints, whose exit code must be zero."""
    running = await session.start(command, **options)
    ended = await running.done
    assert isinstance(ended, Report)
    assert ended.status == 0
    return slice_of(session, running)


def slice_of(session: Session, command: Any) -> str:
    return session.log.read(command.start, command.end - command.start).decode().replace("\r\n", "\n")


async def shown(session: Session, text: bytes) -> None:
    """Wait until the log has ``text``."""
    while text not in (data := session.log.read(session.log.start, 1 << 20)):
        await session.log.wait(session.log.start + len(data))


def test_sessions_share_nothing(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        one = await sandbox.sessions.open("one")
        two = await sandbox.sessions.open("two")
        assert await said(one, "x=1; cd /; echo $x $PWD") == "1 /\n"
        assert await said(two, "echo $x $PWD") == f"{sandbox.settings.working_dir}\n"
        assert [session.name for session in sandbox.sessions.list()] == ["one", "two"]
        assert sandbox.sessions.get("two") is two
        await sandbox.sessions.close("two")
        with pytest.raises(NotFoundError, match="two"):
            sandbox.sessions.get("two")
        assert await said(one, "echo $x") == "1\n"

    within(test)


def test_bad_requests_for_sessions_are_refused_with_the_reason(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        sessions = sandbox.sessions
        for name in ("", "a b", "-x", "a/b", "é", "x" * 65):
            with pytest.raises(UsageError, match="letters"):
                await sessions.open(name)
        with pytest.raises(UsageError, match="variable"):
            await sessions.open("a", env={"A=B": ""})
        with pytest.raises(UsageError, match="columns"):
            await sessions.open("a", columns=0)
        await sessions.open("a")
        with pytest.raises(NameTakenError):
            await sessions.open("a")
        sessions.limit = 1
        with pytest.raises(TooManyError, match="limit"):
            await sessions.open("b")

    within(test)


def test_a_session_has_the_folder_variables_and_size_that_were_asked_for(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a.b", cwd="/usr", env={"COLOUR": "blé"}, columns=77, rows=33)
        assert await said(session, "echo $COLOUR $PWD; stty size") == "blé /usr\n33 77\n"
        await session.resize(120, 40)
        assert await said(session, "stty size") == "40 120\n"
        assert (session.columns, session.rows) == (120, 40)

    within(test)


def test_folder_and_variables_of_one_call_end_with_it(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        await said(session, "cd /tmp; export KEPT=1")
        text = await said(session, "export KEPT=2; echo $PWD $KEPT", cwd="/usr", env={"X": "a'b\n"})
        assert text == "/usr 2\n"
        assert await said(session, "printf '[%s]' \"$X\"", env={"X": "a'b\n☃"}) == "[a'b\n☃]"
        assert await said(session, "echo $PWD $KEPT [$X]") == "/tmp 1 []\n"
        failed = await (await session.start("echo no", cwd="/nowhere")).done
        assert isinstance(failed, Report)
        assert failed.status == 1

    within(test)


def test_a_busy_session_takes_no_second_command(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        command = await session.start("echo started; cat")
        assert session.state == "running"
        await shown(session, b"started")
        await session.write(b"typed\n")
        await shown(session, b"typed\r\ntyped")
        with pytest.raises(BusyError):
            await session.start("echo no")
        await session.press("C-c")
        assert (await command.done).status == 130
        assert session.command is command
        assert await said(session, "echo idle") == "idle\n"

    within(test)


def test_a_signal_goes_to_the_program_in_the_foreground(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        command = await session.start("sleep 60 | cat")
        pids: list[int] = []
        while {Path(f"/proc/{pid}/comm").read_text() for pid in pids} != {"sleep\n", "cat\n"}:
            pids = await session.signal(0)
        assert await session.signal(signal.SIGTERM) == pids
        assert (await command.done).status == 143
        await said(session, "true")
        (shell,) = await session.signal(0)
        assert await said(session, "echo $$") == f"{shell}\n"

    within(test)


def test_keys_and_raw_bytes_reach_the_program(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        command = await session.start("stty raw -echo; echo ready; dd bs=1 count=9 status=none | od -An -c")
        await shown(session, b"ready")
        await session.write("é\0\x03".encode())
        await session.press("Up")
        await session.press("C-d")
        await session.press("Enter")
        await command.done
        assert slice_of(session, command).split()[1:] == [
            "303",
            "251",
            "\\0",
            "003",
            "033",
            "[",
            "A",
            "004",
            "\\r",
        ]

    within(test)


def test_a_reset_ends_everything_in_the_session_and_gives_a_fresh_shell(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        await said(session, "x=1; cd /")
        before = session.log.end
        command = await session.start("(trap '' HUP TERM INT; echo deaf; sleep 300) & sleep 301")
        await shown(session, b"deaf")
        pid = int(Path(f"/proc/{session.shell.pane.hello.shell}/stat").read_text().split()[0])  # type: ignore[union-attr]  # it has one
        await session.reset()
        assert isinstance(await command.done, Death)
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            assert fields[3] != str(pid) or fields[0] == "Z"
        assert await said(session, "echo [$x] $PWD") == f"[] {sandbox.settings.working_dir}\n"
        assert session.log.end > before

    within(test)


def test_a_large_output_comes_out_exactly_and_answers_stay_small(within: Any) -> None:
    lines = 200_000 if os.environ.get("GRAFTBOX_LONG_TESTS") else 20_000
    line = "0123456789abcdef" * 62

    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        command = await session.start(f"yes {line} | head -n {lines}")
        position, found = command.start, hashlib.sha256()
        while command.end is None or position < command.end:
            waiting: asyncio.Future[Any] = asyncio.ensure_future(session.log.wait(position))
            either: list[asyncio.Future[Any]] = [waiting, command.done]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            data = session.log.read(position, 1 << 20)
            assert session.log.start <= position
            if command.end is not None:
                data = data[: command.end - position]
            elif session.log.end - position < 1 << 20:
                await asyncio.sleep(0.001)
            position += len(data)
            found.update(data)
        expected = hashlib.sha256()
        for _ in range(lines):
            expected.update(line.encode() + b"\r\n")
        assert found.hexdigest() == expected.hexdigest()
        head, tail, dropped = command.take()
        assert len(head) + dropped + len(tail) == command.end - command.start
        assert head.startswith(line.encode())

    within(test)


def test_a_slow_reader_misses_nothing_of_a_small_log(within: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftbox.server.log.CAPACITY", 1 << 20)

    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        command = await session.start("seq 1 600000")
        position, data = command.start, bytearray()
        while command.end is None or position < command.end:
            await session.log.wait(position)
            piece = session.log.read(position, 100_000)
            assert session.log.start <= position
            data += piece
            position += len(piece)
            await asyncio.sleep(0.001)
        text = bytes(data[: command.end - command.start]).decode()
        assert text == "".join(f"{number}\r\n" for number in range(1, 600_001))

    within(test)


def test_an_output_nobody_reads_leaves_its_beginning_and_its_end(
    within: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftbox.server.log.CAPACITY", 1 << 20)

    async def test(sandbox: Sandbox) -> None:
        session = await sandbox.sessions.open("a")
        command = await session.start("seq 1 900000")
        await command.done
        head, tail, dropped = command.take(200_000)
        assert head.startswith(b"1\r\n2\r\n3\r\n")
        assert tail.endswith(b"899999\r\n900000\r\n")
        assert command.end is not None
        assert len(head) + dropped + len(tail) == command.end - command.start
        assert session.log.end - session.log.start <= 1 << 20

    within(test)


def test_many_sessions_at_once_do_not_mix(within: Any) -> None:
    async def one(sandbox: Sandbox, number: int) -> None:
        session = await sandbox.sessions.open(f"s{number}")
        for turn in range(3):
            expected = "".join(f"{number}.{turn}.{line}\n" for line in range(1, 201))
            assert await said(session, f"for i in {{1..200}}; do echo {number}.{turn}.$i; done") == expected

    async def test(sandbox: Sandbox) -> None:
        count = 64 if os.environ.get("GRAFTBOX_LONG_TESTS") else 12
        await asyncio.gather(*(one(sandbox, number) for number in range(count)))
        assert len(sandbox.sessions.list()) == count

    within(test)


def test_a_flood_in_one_session_leaves_the_others_their_turn(within: Any) -> None:
    async def test(sandbox: Sandbox) -> None:
        flood, other = await sandbox.sessions.open("flood"), await sandbox.sessions.open("other")
        command = await flood.start("yes")
        for _ in range(20):
            assert await said(other, "echo fine") == "fine\n"
        await flood.press("C-c")
        assert (await command.done).status == 130

    within(test)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_session_of_another_user_runs_as_that_user(within: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path(sys.executable).resolve().is_relative_to("/usr"):
        monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    nobody = Identity(65534, 65534, (65534,), "nobody", "/tmp", "/bin/sh", switched=True)

    async def test(sandbox: Sandbox) -> None:
        assert (await sandbox.sessions.main()).plan.identity.uid == 0
        session = await sandbox.sessions.open("theirs", identity=nobody, cwd="/")
        assert await said(session, "id -u; id -g; echo $HOME $USER") == "65534\n65534\n/tmp nobody\n"
        folder = sandbox.sessions.folder
        assert folder is not None
        seen = await session.start(f"ls {folder}; ls {folder}/s; cat {folder}/s/*; ls {folder}/u0")
        ended = await seen.done
        assert isinstance(ended, Report)
        assert ended.status != 0
        assert slice_of(session, seen).count("Permission denied") == 4
        assert await said(session, "ps -o user= -p $PPID") == "nobody\n"

    within(test)
