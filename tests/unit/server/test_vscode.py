"""VS Code as clients and people find it; a small program stands in for VS Code's own."""

from __future__ import annotations

import http.client
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import SECONDS, SOURCE, Client, Start, free_port, until

STAND_IN = Path(__file__).with_name("vscode_program.py")
TERMINALS = "terminal.integrated.profiles.linux"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("vscode") / "openvscode-server"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} {STAND_IN} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def client(start: Start, program: str) -> Client:
    port = str(free_port())
    environment = {
        "GRAFTBOX_VSCODE_SERVER": program,
        "VSCODE_PORT": port,
        "OF_THE_IMAGE": "a\nb",
        "SHELL": "/bin/bash",
    }
    client = start("--plugins", "vscode", environment=environment)
    until(lambda: (shown(client)["state"], shown(client)["port"]) == ("running", int(port)))
    return client


def shown(client: Client) -> Any:
    return client.ask("GET", "/v1/plugins/vscode")[1]


def fetch(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        body = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, json.loads(body) if body else None
    finally:
        connection.close()


def token(client: Client) -> str:
    status, answer = client.ask("GET", "/vscode/connection_token")
    assert status == 200
    assert answer.keys() == {"token"}
    found: str = answer["token"]
    return found


def test_the_link_of_openhands_clients_opens_the_folder(client: Client) -> None:
    port = shown(client)["port"]
    assert fetch(port, "/")[0] == 403
    status, headers, _ = fetch(port, f"/?tkn={token(client)}&folder={client.folder}", accept="text/html")
    assert (status, headers["location"]) == (302, f"./?folder={client.folder}")
    cookie = headers["set-cookie"].partition(";")[0]
    status, _, seen = fetch(port, f"/?folder={client.folder}", cookie=cookie)
    assert status == 200
    assert seen["target"] == f"/?folder={client.folder}"
    assert token(client) not in json.dumps(seen)


def test_its_link_below_the_server_opens_the_folder_too(client: Client) -> None:
    link = shown(client)["link"]
    assert link == f"/v1/proxy/vscode/?tkn={token(client)}&folder={client.folder}"
    status, _, seen = fetch(client.port, link)
    assert (status, seen["target"]) == (200, f"/?folder={client.folder}")
    assert seen["headers"]["x-forwarded-prefix"] == "/v1/proxy/vscode"


def test_the_port_of_vscode_opens_nothing_else(client: Client) -> None:
    port = shown(client)["port"]
    assert fetch(port, "/v1/plugins")[0] == 403
    assert fetch(port, f"/v1/plugins?tkn={token(client)}")[2]["target"] == "/v1/plugins?"


def test_it_gets_the_images_environment_and_a_socket_of_its_own(client: Client) -> None:
    seen = fetch(client.port, "/v1/proxy/vscode/")[2]
    assert seen["environment"]["OF_THE_IMAGE"] == "a\nb"
    assert not [name for name in seen["environment"] if name.startswith("GRAFTBOX")]
    words = seen["argv"]
    assert "--without-connection-token" in words
    assert "--disable-workspace-trust" in words
    path = Path(words[words.index("--socket-path") + 1])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert words[words.index("--default-folder") + 1] == str(client.folder)
    assert words[words.index("--server-data-dir") + 1] == str(client.folder / ".openvscode-server")


def settings(client: Client) -> Any:
    return json.loads((client.folder / ".openvscode-server/data/Machine/settings.json").read_text())


def test_the_workspace_gets_the_settings_of_openhands(client: Client) -> None:
    path = client.folder / ".vscode/settings.json"
    path.unlink()
    assert client.ask("POST", "/v1/plugins/vscode/restart")[1]["state"] == "running"
    assert json.loads(path.read_text())["workbench.startupEditor"] == "none"
    assert path.stat().st_mode & 0o777 == 0o666


def test_what_a_person_has_set_stays(client: Client) -> None:
    own = client.folder / ".vscode/settings.json"
    machine = client.folder / ".openvscode-server/data/Machine/settings.json"
    own.write_text("{}")
    kept = {
        "editor.fontSize": 20,
        "terminal.integrated.defaultProfile.linux": "fish",
        TERMINALS: {"fish": {"path": "/f"}},
    }
    machine.write_text(json.dumps(kept))
    assert client.ask("POST", "/v1/plugins/vscode/restart")[1]["state"] == "running"
    assert own.read_text() == "{}"
    found = settings(client)
    assert found["editor.fontSize"] == 20
    assert found["terminal.integrated.defaultProfile.linux"] == "fish"
    assert found[TERMINALS].keys() > {"fish", "bash", "agent"}
    machine.write_text("{ // with a comment\n}")
    client.ask("POST", "/v1/plugins/vscode/restart")
    assert machine.read_text() == "{ // with a comment\n}"
    machine.unlink()
    client.ask("POST", "/v1/plugins/vscode/restart")
    assert settings(client)["terminal.integrated.defaultProfile.linux"] == "bash"


def in_terminal(profile: Any, first: str, typed: str, last: str, environment: dict[str, str]) -> None:
    """Opens a terminal of that profile, types when it shows ``first``, closes it when it shows ``last``."""
    master, terminal = pty.openpty()
    words = ["setsid", "--ctty", profile["path"], *profile.get("args", ())]
    process = subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    try:
        for shows, keys in ((first, typed), (last, "")):
            said = ""
            while shows not in said:
                assert select.select([master], [], [], SECONDS)[0], said
                said += os.read(master, 65536).decode("utf-8", "replace")
            os.write(master, keys.encode())
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_its_terminals_have_the_images_environment_and_nothing_of_vscode(client: Client) -> None:
    profile = settings(client)[TERMINALS]["bash"]
    seen = client.folder / "seen"
    vscodes = {
        "TERM": "xterm-256color",
        "BROWSER": "helper",
        "VSCODE_IPC_HOOK_CLI": "x",
        "PATH": "/vscode:/bin",
    }
    in_terminal(profile, "", f"env -0 > {seen}; echo do''ne\n", "done", vscodes)
    found = dict(entry.partition("=")[::2] for entry in seen.read_text().split("\0") if entry)
    expected = {
        "OF_THE_IMAGE": "a\nb",
        "TERM": "xterm-256color",
        "SHELL": "/bin/bash",
        "PATH": os.environ["PATH"],
    }
    assert {name: found[name] for name in expected} == expected
    assert not {"BROWSER", "VSCODE_IPC_HOOK_CLI", "LC_CTYPE"} & found.keys()


def test_a_terminal_and_the_agents_session_are_the_same(client: Client) -> None:
    profile = settings(client)[TERMINALS]["agent"]
    client.run("echo from the agent; read -r answer", timeout=0.5)
    environment = {"TERM": "xterm-256color", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    in_terminal(profile, "from the agent", "from a person\r", "person", environment)
    until(lambda: client.run("")["extras"]["metadata"]["exit_code"] == 0)
    assert client.output('echo "$answer"') == "from a person"


def test_attaching_to_a_session_that_is_not_there_says_so(client: Client) -> None:
    attach = [sys.executable, "-ISB", str(SOURCE / "graftbox/server/attach.py")]
    done = subprocess.run([*attach, "nobody"], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    assert "There is no session nobody" in done.stderr
    assert subprocess.run([*attach, "a", "b"], capture_output=True, timeout=SECONDS).returncode == 2


def test_killed_in_the_middle_it_is_back_with_the_next_request(client: Client) -> None:
    port, before = shown(client)["port"], shown(client)
    cookie = f"/?tkn={token(client)}"
    pid = fetch(port, cookie)[2]["pid"]
    os.kill(pid, signal.SIGKILL)
    status, _, seen = fetch(port, cookie)
    assert status == 200, seen
    assert seen["pid"] != pid
    assert shown(client)["starts"] == before["starts"] + 1


def test_it_starts_when_its_token_is_asked_for(start: Start, program: str) -> None:
    client = start(environment={"GRAFTBOX_VSCODE_SERVER": program})
    assert shown(client)["state"] == "off"
    assert not (client.folder / ".vscode").exists()
    assert token(client)
    until(lambda: shown(client)["state"] == "running")
    assert client.ask("GET", "/v1/capabilities")[1]["features"]["vscode"]["works"]
    assert not (client.folder / ".vscode").exists()


def test_a_front_proxys_path_is_taken_off(start: Start, program: str) -> None:
    port = str(free_port())
    front = {"RUNTIME_URL": "https://example.test/abc", "RUNTIME_ID": "abc"}
    client = start(environment={"GRAFTBOX_VSCODE_SERVER": program, "VSCODE_PORT": port, **front})
    status, _, seen = fetch(int(port), f"/abc/vscode/x?tkn={token(client)}")
    assert (status, seen["target"]) == (200, "/x?")
    assert seen["headers"]["x-forwarded-prefix"] == "/abc/vscode"


def test_a_port_that_is_taken_is_no_hindrance(start: Start, program: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        client = start(
            "--plugins", "vscode", environment={"GRAFTBOX_VSCODE_SERVER": program, "VSCODE_PORT": port}
        )
        assert fetch(client.port, shown(client)["link"])[0] == 200
        assert shown(client)["port"] is None


def test_without_it_the_token_is_null(start: Start) -> None:
    client = start("--plugins", "vscode")
    assert client.ask("GET", "/vscode/connection_token") == (200, {"token": None})
    until(lambda: shown(client)["state"] == "failed")
    assert "component vscode" in shown(client)["reason"]
    assert "component vscode" in client.ask("GET", "/v1/capabilities")[1]["features"]["vscode"]["reason"]
    assert client.ask("GET", "/v1/proxy/vscode/")[0] == 503
