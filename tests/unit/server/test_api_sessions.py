"""Named sessions through /v1, as a client meets them."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.server.conftest import SECONDS, Events, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

JSON = dict[str, Any]


@pytest.fixture
def session(client: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """The path of a new session."""
    name = f"t-{abs(hash(request.node.name)) % 10**9}"
    status, answer = client.ask("POST", "/v1/sessions", {"name": name})
    assert status == 201, answer
    yield f"/v1/sessions/{name}"
    client.ask("DELETE", f"/v1/sessions/{name}")


def run(client: Any, session: str, command: str, **more: object) -> JSON:
    status, answer = client.ask("POST", f"{session}/run", {"command": command, **more})
    assert status in (200, 202), answer
    assert isinstance(answer, dict)
    return answer


def begun(client: Any, session: str, mark: str) -> JSON:
    """A command that runs for long, and has the terminal."""
    path = client.folder / mark
    command = run(client, session, f"sh -c 'echo > {path}; sleep 60'", wait=0)
    until(path.exists)
    return command


def events(client: Any, path: str, last: str | None = None) -> Events:
    return Events(client.port, "GET", path, last=last)


def content(piece: JSON) -> bytes:
    return base64.b64decode(piece["base64"]) if "base64" in piece else str(piece["text"]).encode()


def test_sessions_are_opened_listed_and_closed(client: Any) -> None:
    body = {"name": "one", "cwd": "sub", "env": {"COLOUR": "blue"}, "columns": 77, "rows": 11}
    (client.folder / "sub").mkdir()
    status, opened = client.ask("POST", "/v1/sessions", body)
    assert status == 201
    assert (opened["name"], opened["state"], opened["columns"], opened["rows"]) == ("one", "idle", 77, 11)
    assert client.ask("POST", "/v1/sessions", body)[0] == 409
    assert run(client, "/v1/sessions/one", "pwd; echo $COLOUR; stty size")["output"] == (
        f"{client.folder}/sub\nblue\n11 77\n"
    )
    assert "one" in [each["name"] for each in client.ask("GET", "/v1/sessions")[1]["sessions"]]
    assert client.ask("DELETE", "/v1/sessions/one") == (204, None)
    assert client.ask("GET", "/v1/sessions/one")[0] == 404
    assert client.ask("DELETE", "/v1/sessions/one")[0] == 404
    status, unnamed = client.ask("POST", "/v1/sessions", {})
    assert status == 201
    client.ask("DELETE", f"/v1/sessions/{unnamed['name']}")


@pytest.mark.parametrize("folder", ["no/such", "a-file"])
def test_a_session_does_not_begin_elsewhere_than_asked_for(client: Any, folder: str) -> None:
    (client.folder / "a-file").touch()
    status, said = client.ask("POST", "/v1/sessions", {"name": "astray", "cwd": folder})
    assert status == 400
    assert "can't be used" in said["detail"]
    assert client.ask("GET", "/v1/sessions/astray")[0] == 404


def test_a_session_keeps_its_state_and_one_command_may_have_its_own(client: Any, session: str) -> None:
    run(client, session, "cd /; X=1; export Y=2")
    assert run(client, session, "echo $PWD $X $Y")["output"] == "/ 1 2\n"
    answer = run(client, session, "echo $PWD $X $Y $Z", cwd="/tmp", env={"Z": "3"})
    assert answer["output"] == "/tmp 1 2 3\n"
    assert run(client, session, "echo $PWD-$Z")["output"] == "/-\n"


def test_the_exit_code_and_the_end_of_the_shell_are_told(client: Any, session: str) -> None:
    answer = run(client, session, "(exit 7)")
    assert (answer["state"], answer["exit_code"]) == ("exited", 7)
    answer = run(client, session, "exit 4")
    assert (answer["state"], answer["exit_code"]) == ("died", 4)
    assert "exit code 4" in answer["reason"]
    assert run(client, session, "echo again")["output"] == "again\n"


def test_a_command_may_be_left_running_and_asked_for_later(client: Any, session: str) -> None:
    go = client.folder / "go-on"
    command = f"until test -e {go}; do sleep 0.05; done; echo done"
    status, answer = client.ask("POST", f"{session}/run", {"command": command, "wait": 0})
    assert (status, answer["state"]) == (202, "running")
    assert client.ask("POST", f"{session}/run", {"command": "true"})[0] == 409
    assert client.ask("GET", session)[1]["command"] == answer["id"]
    go.touch()
    status, later = client.ask("GET", f"{session}/commands/{answer['id']}?wait=60")
    assert (status, later["state"], later["exit_code"]) == (200, "exited", 0)
    span = f"offset={later['start']}&limit={later['end'] - later['start']}"
    assert client.ask("GET", f"{session}/output?{span}")[1]["text"] == "done\r\n"
    assert client.ask("GET", f"{session}/commands/nope")[0] == 404


def test_a_command_that_takes_too_long_is_interrupted(client: Any, session: str) -> None:
    answer = run(client, session, "sleep 60", timeout=1)
    assert (answer["state"], answer["timed_out"], answer["exit_code"]) == ("exited", True, 130)
    answer = run(client, session, "trap '' INT; sleep 60", timeout=1)
    assert (answer["timed_out"], answer["exit_code"]) == (True, 143)
    assert run(client, session, "echo alive")["output"] == "alive\n"


def test_input_reaches_the_running_command(client: Any, session: str) -> None:
    def answered(*inputs: JSON) -> str:
        command = run(client, session, "IFS= read -r x; printf '%q' \"$x\"", wait=0)
        for given in inputs:
            assert client.ask("POST", f"{session}/input", given) == (204, None)
        later = client.ask("GET", f"{session}/commands/{command['id']}?wait=60")[1]
        span = f"offset={later['start']}&limit={later['end'] - later['start']}"
        return str(client.ask("GET", f"{session}/output?{span}")[1]["text"]).split("\r\n")[-1]

    assert answered({"text": "é b", "enter": True}) == "é\\ b"
    assert answered({"text": "abc"}, {"keys": ["BSpace", "Enter"]}) == "ab"
    assert answered({"base64": base64.b64encode(b"raw\r").decode()}) == "raw"
    assert client.ask("POST", f"{session}/input", {})[0] == 422
    command = begun(client, session, "input")
    client.ask("POST", f"{session}/input", {"keys": ["C-c"]})
    assert client.ask("GET", f"{session}/commands/{command['id']}?wait=60")[1]["exit_code"] == 130


def test_a_signal_reaches_the_foreground_group(client: Any, session: str) -> None:
    command = begun(client, session, "signal")
    status, answer = client.ask("POST", f"{session}/signal", {"signal": "SIGKILL"})
    assert status == 200
    assert answer["pids"]
    assert client.ask("GET", f"{session}/commands/{command['id']}?wait=60")[1]["exit_code"] == 137


def test_the_terminal_takes_another_size_and_a_reset_a_fresh_shell(client: Any, session: str) -> None:
    assert client.ask("POST", f"{session}/resize", {"columns": 91, "rows": 17})[0] == 200
    assert run(client, session, "stty size")["output"] == "17 91\n"
    assert client.ask("POST", f"{session}/resize", {"columns": 0, "rows": 17})[0] == 422
    run(client, session, "X=1; sleep 60", wait=0)
    assert client.ask("POST", f"{session}/reset")[1]["state"] == "idle"
    assert run(client, session, "echo -$X-")["output"] == "--\n"


def test_events_of_a_command_go_on_exactly_where_the_connection_broke(client: Any, session: str) -> None:
    command = run(client, session, r"for i in $(seq 60); do printf 'é%s\377\n' $i; sleep 0.01; done", wait=0)
    got, last, ended = b"", None, None
    while ended is None:
        for count, (kind, place, data) in enumerate(
            events(client, f"{session}/commands/{command['id']}/events", last)
        ):
            if kind == "exit":
                ended = data
                break
            got += content(data)
            last = place
            if count == 6:
                break
    assert ended["exit_code"] == 0
    assert got == b"".join(f"é{number}".encode() + b"\xff\r\n" for number in range(1, 61))


def test_everything_that_the_terminal_shows_can_be_followed(client: Any, session: str) -> None:
    offset = client.ask("GET", session)[1]["output"]["end"]
    stream = events(client, f"{session}/events?offset={offset}")
    run(client, session, "echo one")
    run(client, session, "echo two")
    got = b""
    for _, _, piece in stream:
        got += content(piece)
        if b"two" in got:
            break
    stream.close()
    assert got.index(b"one\r\n") < got.index(b"two\r\n")


def test_waiting_for_output_returns_as_soon_as_there_is_some(client: Any, session: str) -> None:
    end = run(client, session, "sleep 0.3; echo x", wait=0)["start"]
    assert client.ask("GET", f"{session}/output?offset={end}&wait=60")[1]["text"]


def test_ten_megabytes_are_exact_at_a_client_that_follows(client: Any, session: str) -> None:
    command = run(client, session, "yes 0123456789abcde | head -c 10000000", wait=0)
    stream = events(client, f"{session}/commands/{command['id']}/events")
    digest = hashlib.sha256(b"".join(content(data) for kind, _, data in stream if kind == "output"))
    assert digest.hexdigest() == hashlib.sha256(b"0123456789abcde\r\n" * 625_000).hexdigest()


def test_a_client_that_goes_away_interrupts_its_command_unless_it_says_otherwise(
    client: Any, session: str
) -> None:
    mark, go = client.folder / "left", client.folder / "go-alone"

    def left(last: str, **more: object) -> str:
        mark.unlink(missing_ok=True)
        body = json.dumps({"command": f"sh -c 'echo > {mark}; {last}'", **more}).encode()
        head = f"POST {session}/run HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head.encode() + body)
            until(mark.exists)
            name = client.ask("GET", session)[1]["command"]
        return f"{session}/commands/{name}?wait=60"

    assert client.ask("GET", left("sleep 60"))[1]["exit_code"] == 130
    alone = left(f"until test -e {go}; do sleep 0.05; done", cancel_on_disconnect=False)
    time.sleep(0.3)  # in which it would be interrupted
    go.touch()
    assert client.ask("GET", alone)[1]["exit_code"] == 0


def test_sixteen_sessions_at_once_keep_their_output_apart(client: Any) -> None:
    names = [f"many-{number}" for number in range(16)]
    wrong: list[JSON] = []

    def talk(name: str) -> None:
        own = type(client)(client.port, client.folder, client.process)
        own.ask("POST", "/v1/sessions", {"name": name})
        for turn in range(10):
            answer = run(own, f"/v1/sessions/{name}", f"echo {name} {turn}")
            if answer["output"] != f"{name} {turn}\n":
                wrong.append(answer)
        own.ask("DELETE", f"/v1/sessions/{name}")
        own.connection.close()

    threads = [threading.Thread(target=talk, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def joined(client: Any, path: str, **more: Any) -> ClientConnection:
    terminal: ClientConnection = connect(f"ws://127.0.0.1:{client.port}{path}", compression=None, **more)
    return terminal


def shown(terminal: ClientConnection, text: bytes) -> bytes:
    got = b""
    while text not in got:
        message = terminal.recv(SECONDS)
        got += message if isinstance(message, bytes) else b""
    return got


def test_a_person_gets_a_terminal_over_a_websocket(client: Any, session: str) -> None:
    run(client, session, "echo earlier")
    with joined(client, f"{session}/pty?scrollback=1000&command=exec%20cat%20-A") as terminal:
        assert json.loads(terminal.recv(SECONDS)) == {"offset": 0}
        shown(terminal, b"earlier\r\n")
        terminal.send("é\t!\r".encode())
        shown(terminal, b"M-CM-)^I!$")
        terminal.send(json.dumps({"columns": 60, "rows": 20}))
        terminal.send("nonsense")
        terminal.send(json.dumps({"columns": "x"}))
        errors = 0
        while errors < 2:
            errors += isinstance(terminal.recv(SECONDS), str)
        terminal.send(json.dumps({"keys": ["C-c"]}))
        last: Any = b""
        while isinstance(last, bytes):
            last = terminal.recv(SECONDS)
        assert json.loads(last) == {"exit_code": 130}
        with pytest.raises(ConnectionClosed):
            terminal.recv(SECONDS)
    assert client.ask("GET", session)[1]["columns"] == 60


def test_no_terminal_for_a_session_that_is_not_there(client: Any) -> None:
    with pytest.raises(InvalidStatus) as caught:
        joined(client, "/v1/sessions/nope/pty")
    assert caught.value.response.status_code == 404


def test_a_websocket_needs_the_key_which_browsers_give_as_a_subprotocol(start: Any) -> None:
    server = start(auth=True, environment={"SESSION_API_KEY": "s/e+c"})
    offered = "graftbox.key." + base64.urlsafe_b64encode(b"s/e+c").decode().rstrip("=")
    path = "/v1/sessions/main/pty"
    headers = {"X-Session-API-Key": "s/e+c"}
    server.ask("POST", "/execute_action", {"action": {"action": "run", "args": {"command": "true"}}}, headers)
    with joined(server, path, subprotocols=["graftbox", offered]) as terminal:
        assert terminal.subprotocol == "graftbox"
    with joined(server, path, additional_headers={"Authorization": "Bearer s/e+c"}) as terminal:
        assert "offset" in json.loads(terminal.recv(SECONDS))
    for wrong in (["graftbox"], ["graftbox", "graftbox.key.bm8"], ["graftbox.key.%"]):
        with pytest.raises(InvalidStatus) as caught:
            joined(server, path, subprotocols=wrong)
        assert caught.value.response.status_code == 403


def test_a_page_of_another_origin_gets_no_terminal_from_a_server_without_a_key(
    client: Any, session: str
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        joined(client, f"{session}/pty", origin="http://evil.example")
    assert caught.value.response.status_code == 403
    with joined(client, f"{session}/pty", origin=f"http://127.0.0.1:{client.port}"):
        pass
