"""Background commands through /v1, as a client meets them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import SECONDS, Events, alive, until

JSON = dict[str, Any]


def run(client: Any, command: str | None = None, **more: object) -> JSON:
    body = {**({"command": command} if command is not None else {}), **more}
    status, answer = client.ask("POST", "/v1/run", body)
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer


def start(client: Any, command: str | None = None, **more: object) -> str:
    body = {**({"command": command} if command is not None else {}), **more}
    status, answer = client.ask("POST", "/v1/commands", body)
    assert status == 201, answer
    assert isinstance(answer["id"], str)
    return answer["id"]


def show(client: Any, name: str, wait: float = 60) -> JSON:
    status, answer = client.ask("GET", f"/v1/commands/{name}?wait={wait}")
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer


def events(client: Any, path: str, last: str | None = None) -> Events:
    return Events(client.port, "GET", path, last=last)


def content(piece: JSON) -> bytes:
    return base64.b64decode(piece["base64"]) if "base64" in piece else str(piece["text"]).encode()


def test_a_command_is_run_and_answered_in_one_request(client: Any) -> None:
    answer = run(client, "echo out; echo err >&2; exit 3")
    assert (answer["stdout"], answer["stderr"], answer["exit_code"]) == ("out\n", "err\n", 3)
    assert not answer["truncated"]
    assert not answer["timed_out"]
    assert "id" not in answer
    status, left = client.ask("GET", "/v1/commands")
    assert status == 200
    assert "echo out; echo err >&2; exit 3" not in [each["command"] for each in left["commands"]]


def test_a_program_runs_without_a_shell_and_reads_what_it_is_given(client: Any) -> None:
    assert run(client, argv=["printf", "%s|", "a b", "$HOME"])["stdout"] == "a b|$HOME|"
    assert run(client, argv=["cat"], stdin="é\n")["stdout"] == "é\n"
    data = bytes(range(256)) * 1000
    given = base64.b64encode(data).decode()
    assert run(client, argv=["sha256sum"], stdin_base64=given)["stdout"].startswith(
        hashlib.sha256(data).hexdigest()
    )
    assert run(client, argv=["cat"])["stdout"] == ""


def test_folder_and_variables_are_those_asked_for(client: Any) -> None:
    (client.folder / "sub").mkdir(exist_ok=True)
    answer = run(
        client, "pwd; echo $A-${HOME-none}; env | grep -c GRAFTBOX", cwd="sub", env={"A": "é", "HOME": None}
    )
    assert answer["stdout"] == f"{client.folder}/sub\né-none\n0\n"


def test_bytes_that_are_no_text_are_answered_exactly_too(client: Any) -> None:
    answer = run(client, r"printf 'a\377\303'; printf 'fine' >&2")
    assert answer["stdout"] == "a��"
    assert base64.b64decode(answer["stdout_base64"]) == b"a\xff\xc3"
    assert "stderr_base64" not in answer


def test_of_long_output_the_end_is_answered_and_the_rest_can_be_had(client: Any) -> None:
    answer = run(client, "seq 1 200000", max_output=20)
    assert answer["truncated"]
    assert answer["stdout"] == "99\n199999\n200000\n"[-20:] or answer["stdout"].endswith("\n200000\n")
    client.connection.request("GET", f"/v1/commands/{answer['id']}/stdout?format=raw&follow=true")
    whole = client.connection.getresponse().read()
    assert whole == "".join(f"{number}\n" for number in range(1, 200001)).encode()
    assert client.ask("DELETE", f"/v1/commands/{answer['id']}") == (204, None)


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(client: Any) -> None:
    answer = run(client, "sleep 60 & echo $!; trap '' TERM; wait; wait; sleep 60", timeout=2)
    assert answer["timed_out"]
    assert answer["exit_code"] == 137
    assert answer["signal"] == signal.SIGKILL
    until(lambda: not alive(int(answer["stdout"])))


def test_what_a_command_leaves_behind_does_not_hold_its_answer_back(client: Any) -> None:
    go = client.folder / "go"
    answer = run(client, f"(until test -e {go}; do sleep 0.05; done; echo late) & echo early")
    assert answer["stdout"] == "early\n"
    go.touch()
    status, piece = client.ask("GET", f"/v1/commands/{answer['id']}/stdout?offset=6&wait=60")
    assert (status, piece["text"]) == (200, "late\n")
    go.unlink()
    client.ask("DELETE", f"/v1/commands/{answer['id']}")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"argv": ["no-such-program"]}, 400, "no-such-program"),
        ({"command": "true", "cwd": "/no/such/folder"}, 400, "/no/such/folder"),
        ({"argv": ["/etc/passwd"]}, 400, "/etc/passwd"),
        ({"argv": ["true", "x" * 3_000_000]}, 400, "too long"),
        ({"command": "true", "user": "nobody-knows"}, 400, "nobody-knows"),
        ({}, 422, "exactly one of"),
        ({"command": "true", "argv": ["true"]}, 422, "exactly one of"),
        ({"command": "a\0b"}, 422, "body.command"),
        ({"argv": []}, 422, "body.argv"),
        ({"argv": [1]}, 422, "body.argv[0]"),
        ({"command": "true", "env": {"A=B": "x"}}, 422, "A=B"),
        ({"command": "true", "env": {"A": 1}}, 422, "body.env.A"),
        ({"command": "true", "timeout": 0}, 422, "body.timeout"),
        ({"command": "true", "tiemout": 1}, 422, "tiemout"),
        ({"command": "\ud800"}, 422, "surrogate"),
        ({"command": "true", "stdin_base64": "?"}, 422, "stdin_base64"),
        ([], 422, "object"),
    ],
)
def test_what_can_not_be_run_is_refused_with_the_reason(
    client: Any, body: object, status: int, said: str
) -> None:
    given, answer = client.ask("POST", "/v1/run", body)
    assert given == status
    assert said in answer["detail"]


def test_output_can_be_read_from_any_offset_while_the_command_runs(client: Any) -> None:
    name = start(client, "echo one; until test -e two; do sleep 0.05; done; echo two; sleep 60")
    assert client.ask("GET", f"/v1/commands/{name}/stdout?wait=60")[1]["text"] == "one\n"
    (client.folder / "two").touch()
    assert client.ask("GET", f"/v1/commands/{name}/stdout?offset=4&wait=60")[1] == {
        "offset": 4,
        "end": 8,
        "closed": False,
        "text": "two\n",
    }
    assert client.ask("GET", f"/v1/commands/{name}/stdout?offset=1&limit=2")[1]["text"] == "ne"
    assert client.ask("GET", f"/v1/commands/{name}/nothing")[0] == 404
    assert client.ask("DELETE", f"/v1/commands/{name}") == (204, None)
    assert client.ask("GET", f"/v1/commands/{name}")[0] == 404


def test_events_go_on_exactly_where_the_connection_broke(client: Any) -> None:
    name = start(client, r"for i in $(seq 40); do printf 'é%s\377' $i; echo e$i >&2; sleep 0.01; done")
    got = {"stdout": b"", "stderr": b""}
    last = None
    ended = None
    while ended is None:
        for count, (kind, place, data) in enumerate(events(client, f"/v1/commands/{name}/events", last)):
            if kind == "exit":
                ended = data
                break
            assert data["offset"] == len(got[kind])
            got[kind] += content(data)
            last = place
            if count == 7:
                break
    assert ended["exit_code"] == 0
    assert got["stdout"] == b"".join(f"é{i}".encode() + b"\xff" for i in range(1, 41))
    assert got["stderr"] == b"".join(b"e%d\n" % i for i in range(1, 41))


def test_a_character_split_between_two_reads_stays_text(client: Any) -> None:
    name = start(client, r"printf '\303'; sleep 0.2; printf '\251!'")
    pieces = [data for kind, _, data in events(client, f"/v1/commands/{name}/events") if kind == "stdout"]
    assert "".join(piece["text"] for piece in pieces) == "é!"


def test_signals_reach_the_whole_group(client: Any) -> None:
    name = start(
        client, "sleep 60 & sleep 60 & trap 'echo got it; kill %1 %2; exit 5' USR1; echo ready; wait"
    )
    assert client.ask("GET", f"/v1/commands/{name}/stdout?wait=60")[1]["text"] == "ready\n"
    assert client.ask("POST", f"/v1/commands/{name}/signal", {"signal": "SIGUSR1"})[0] == 200
    assert show(client, name)["state"] == "exited"
    for stream in ("stdout", "stderr"):
        assert client.ask("GET", f"/v1/commands/{name}/{stream}?offset=1000&wait=60")[1]["closed"]
    until(lambda: client.ask("POST", f"/v1/commands/{name}/signal", {"signal": 15})[0] == 409)
    for wrong in (0, 65, "SIGNO", None, 1.5):
        assert client.ask("POST", f"/v1/commands/{name}/signal", {"signal": wrong})[0] == 422


def test_200_megabytes_arrive_exactly_at_a_client_that_follows(client: Any) -> None:
    size = 200 * 1024 * 1024
    name = start(client, f"yes 0123456789abcdef | head -c {size} | tee >(sha256sum >&2)")
    client.connection.request("GET", f"/v1/commands/{name}/stdout?format=raw&follow=true")
    response = client.connection.getresponse()
    digest, received = hashlib.sha256(), 0
    while chunk := response.read(1024 * 1024):
        digest.update(chunk)
        received += len(chunk)
    assert received == size
    show(client, name)
    said = client.ask("GET", f"/v1/commands/{name}/stderr?wait=60")[1]["text"]
    assert said.startswith(digest.hexdigest())
    client.ask("DELETE", f"/v1/commands/{name}")


def test_output_beyond_the_limit_loses_its_oldest_part(start: Any) -> None:
    server = start(environment={"GRAFTBOX_OUTPUT_BYTES": "1000000"})
    name = server.ask("POST", "/v1/commands", {"command": "seq 1 500000"})[1]["id"]
    stream = show(server, name)["stdout"]
    assert stream["end"] == 3_388_895
    assert 0 < stream["end"] - stream["start"] <= 1_000_000
    _, piece = server.ask("GET", f"/v1/commands/{name}/stdout?offset=0&limit=1000")
    assert piece["offset"] == stream["start"]
    whole = "".join(f"{number}\n" for number in range(1, 500001))
    assert whole[piece["offset"] : piece["end"]] == piece["text"]
    assert server.ask("GET", f"/v1/commands/{name}/stdout?format=raw")[0] == 410


def test_a_client_that_goes_away_ends_its_command(client: Any) -> None:
    body = json.dumps({"command": "echo $$ > pid; exec sleep 60"}).encode()
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        path = client.folder / "pid"
        until(lambda: path.exists() and path.read_text())
        until(
            lambda: "running" in [each["state"] for each in client.ask("GET", "/v1/commands")[1]["commands"]]
        )
    until(lambda: not alive(int(path.read_text())))
    path.unlink()


def test_limits_are_told_with_429(start: Any) -> None:
    server = start(environment={"GRAFTBOX_MAX_COMMANDS": "2", "GRAFTBOX_MAX_BODY_BYTES": "1000"})
    names = [server.ask("POST", "/v1/commands", {"command": "sleep 60"})[1]["id"] for _ in range(2)]
    status, answer = server.ask("POST", "/v1/run", {"command": "true"})
    assert status == 429
    assert "2 commands" in answer["detail"]
    server.ask("DELETE", f"/v1/commands/{names[0]}")
    assert run(server, "true")["exit_code"] == 0
    assert server.ask("POST", "/v1/run", {"command": "x" * 1000})[0] == 413
    server.connection.close()


def test_only_the_newest_finished_commands_are_kept(start: Any) -> None:
    server = start(environment={"GRAFTBOX_KEPT_COMMANDS": "3"})
    names = []
    for number in range(6):
        names.append(server.ask("POST", "/v1/commands", {"command": f"echo {number}"})[1]["id"])
        show(server, names[-1])
    assert [each["id"] for each in server.ask("GET", "/v1/commands")[1]["commands"]] == names[-3:]


def test_nothing_is_left_when_the_server_stops(start: Any, tmp_path: Path) -> None:
    server = start(environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    told = run(server, "sleep 61 & echo $!; sleep 61 & echo $!")["stdout"].split()
    server.ask("POST", "/v1/commands", {"command": "echo $$ > pid; yes | head -c 1000000; sleep 61"})
    path = server.folder / "pid"
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    pids = [int(word) for word in (*told, path.read_text())]
    server.process.terminate()
    assert server.process.wait(SECONDS) == 0
    until(lambda: not any(alive(pid) for pid in pids))
    assert not list(tmp_path.iterdir())


def test_forty_commands_at_once_keep_their_output_apart(client: Any) -> None:
    names = [
        start(client, f"for i in $(seq 50); do echo {n}; echo e{n} >&2; done; exit {n}") for n in range(40)
    ]
    for number, name in enumerate(names):
        found = show(client, name)
        assert found["exit_code"] == number
        assert client.ask("GET", f"/v1/commands/{name}/stdout")[1]["text"] == f"{number}\n" * 50
        assert client.ask("GET", f"/v1/commands/{name}/stderr")[1]["text"] == f"e{number}\n" * 50
        client.ask("DELETE", f"/v1/commands/{name}")


def test_a_command_may_run_as_another_user_where_the_server_is_root(client: Any) -> None:
    body = {"command": "id -u; echo $USER; echo ok > /dev/stderr", "user": "nobody", "cwd": "/"}
    status, answer = client.ask("POST", "/v1/run", body)
    if os.geteuid() == 0:
        assert (status, answer["stdout"], answer["stderr"]) == (200, f"{user_of('nobody')}\nnobody\n", "ok\n")
    else:
        assert status == 501
        assert "root" in answer["detail"]
    mine = str(os.geteuid())
    assert run(client, "id -u", user=mine)["stdout"] == f"{mine}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_number_without_an_account_is_in_no_group_but_its_own(client: Any) -> None:
    assert run(client, "id -u; id -G", user="54321")["stdout"] == "54321\n54321\n"


def user_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def test_a_program_may_open_its_own_error_stream_anew(client: Any) -> None:
    answer = run(client, "echo one >&2; echo two > /dev/stderr; echo three >&2")
    assert answer["stderr"] == "one\ntwo\nthree\n"
