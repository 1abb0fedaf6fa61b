"""Plugins of every kind, started, watched and ended by a real server."""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import SOURCE, Client, Start, alive, until

PROGRAM = str(Path(__file__).with_name("plugin_program.py"))


def write(folder: Path, name: str, manifest: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "plugin.toml").write_text(f'name = "{name}"\n{manifest}')


def serving(more: str = "") -> str:
    """The manifest of a plugin that answers on its socket."""
    return f"""
start = ["{sys.executable}", "{PROGRAM}", "{{socket}}"]
{more}
[environment]
PYTHONPATH = "{SOURCE}"
[serve]
socket = "{{socket}}"
health = "/health"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    write(folder, "good", serving('summary = "It works"'))
    write(folder, "lazy", serving("on_demand = true"))
    write(folder, "unasked", serving())
    write(folder, "mended", 'start = "not a list"\n')
    write(folder, "crasher", 'start = ["/bin/sh", "-c", "echo no luck; exit 3"]\n[serve]\nport = "{port}"\n')
    write(folder, "sleeper", 'start = ["/bin/sleep", "1000"]\ntime_limit = 0.3\n[serve]\nport = "{port}"\n')
    write(folder, "task", 'start = ["/bin/sh", "-c", "echo did it"]\n')
    write(folder, "needy", 'start = ["/bin/sleep", "1000"]\n[needs]\nprograms = ["no-such-program"]\n')
    write(folder, "partless", 'start = ["/bin/sleep", "1000"]\n[needs]\ncomponents = ["nothing"]\n')
    write(folder, "follower", 'start = ["/bin/sleep", "1000"]\n[needs]\nplugins = ["good"]\n')
    write(folder, "circle", 'start = ["/bin/sleep", "1000"]\n[needs]\nplugins = ["round"]\n')
    write(folder, "round", 'start = ["/bin/sleep", "1000"]\n[needs]\nplugins = ["circle"]\n')
    write(folder, "broken", 'start = "not a list"\n')
    write(
        folder,
        "ready",
        'start = ["/bin/sh", "-c", "sleep 0.2; echo all set; sleep 1000"]\nready = "all set"\n',
    )
    return folder


@pytest.fixture(scope="module")
def client(start: Start, folder: Path) -> Client:
    names = ("good", "crasher", "sleeper", "needy", "partless", "circle", "broken", "mended", "follower")
    environment = {"GRAFTBOX_PLUGINS": str(folder)}
    return start("--plugins", "agent_skills", "jupyter", *names, environment=environment)


def shown(client: Client, name: str) -> Any:
    status, answer = client.ask("GET", f"/v1/plugins/{name}")
    assert status == 200, answer
    return answer


def failed(client: Client, name: str) -> bool:
    return bool(shown(client, name)["state"] == "failed")


def started(client: Client, name: str, verb: str = "start") -> Any:
    status, answer = client.ask("POST", f"/v1/plugins/{name}/{verb}")
    assert status == 200, answer
    return answer


def test_chosen_plugins_start_by_themselves_and_the_others_wait(client: Client) -> None:
    until(lambda: shown(client, "good")["state"] == "running")
    status, answer = client.ask("GET", "/v1/plugins")
    assert status == 200
    plugins = {each["name"]: each for each in answer["plugins"]}
    assert {"jupyter", "agent_skills", "vscode", "good", "lazy", "task"} <= plugins.keys()
    assert plugins["good"]["chosen"]
    assert plugins["good"]["summary"] == "It works"
    assert plugins["unasked"]["state"] == "off"
    assert client.output("echo the server goes on") == "the server goes on"


def test_plugins_that_can_not_run_say_why_and_stop_nothing(client: Client, folder: Path) -> None:
    for name, reason in {
        "needy": "no-such-program",
        "partless": "component nothing",
        "circle": "circle → round → circle",
        "broken": "start must be of type array",
    }.items():
        until(functools.partial(failed, client, name))
        assert reason in shown(client, name)["reason"]
    until(lambda: "was not ready within 0.3 seconds" in str(shown(client, "sleeper")["reason"]))
    until(
        lambda: (
            "exited with exit code 3 (no luck) before it was ready" in str(shown(client, "crasher")["reason"])
        )
    )
    assert shown(client, "crasher")["state"] in ("waiting", "starting", "failed")
    until(lambda: shown(client, "good")["state"] == "running")
    capabilities = client.ask("GET", "/v1/capabilities")[1]["plugins"]
    assert capabilities["good"] == {"state": "running", "reason": None}
    assert capabilities["needy"]["state"] == "failed"


def test_a_manifest_that_was_corrected_is_read_again(client: Client, folder: Path) -> None:
    until(lambda: shown(client, "mended")["state"] == "failed")
    (folder / "mended/plugin.toml").write_text('name = "mended"\nstart = ["/bin/sleep", "1000"]\n')
    assert started(client, "mended")["state"] == "running"


def test_one_that_dies_is_started_again(client: Client) -> None:
    until(lambda: shown(client, "good")["state"] == "running")
    before = shown(client, "good")
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: shown(client, "good")["starts"] > before["starts"])
    until(lambda: shown(client, "good")["state"] == "running")
    assert shown(client, "good")["pid"] != before["pid"]


def test_what_needs_another_one_is_started_after_it(client: Client) -> None:
    until(lambda: shown(client, "follower")["state"] == "running")
    assert shown(client, "good")["starts"] >= 1


def test_its_output_is_kept_and_can_be_waited_for(client: Client) -> None:
    assert started(client, "task")["state"] in ("running", "done")
    until(lambda: shown(client, "task")["state"] == "done")
    assert client.ask("GET", "/v1/plugins/task/log")[1]["text"] == "did it\n"
    started(client, "task")
    assert client.ask("GET", "/v1/plugins/task/log?offset=7&wait=10")[1]["text"] == "did it\n"


def test_a_line_of_its_output_can_say_that_it_is_ready(client: Client) -> None:
    answer = started(client, "ready")
    assert answer["state"] == "running"
    assert answer["seconds"] >= 0.2
    assert client.ask("GET", "/v1/plugins/ready/log")[1]["text"] == "all set\n"


def test_stopping_ends_even_its_daemons(client: Client) -> None:
    started(client, "lazy")
    pid = shown(client, "lazy")["pid"]
    client.connection.request("GET", "/v1/proxy/lazy/daemon")
    daemon = int(client.connection.getresponse().read())
    assert alive(daemon)
    status, answer = client.ask("POST", "/v1/plugins/lazy/stop")
    assert (status, answer["state"], answer["pid"]) == (200, "stopped", None)
    assert not alive(pid)
    assert not alive(daemon)
    status, answer = client.ask("GET", "/v1/proxy/lazy/")
    assert status == 503
    assert "POST /v1/plugins/lazy/start" in answer["detail"]


def test_a_plugin_killed_at_any_depth_leaves_nothing(client: Client) -> None:
    started(client, "lazy", "restart")
    client.connection.request("GET", "/v1/proxy/lazy/daemon")
    daemon = int(client.connection.getresponse().read())
    status, answer = client.ask("GET", "/v1/proxy/lazy/die")
    assert status == 503, answer
    until(lambda: not alive(daemon))
    assert client.ask("GET", "/v1/proxy/lazy/")[0] == 200


def test_jupyter_is_a_plugin_like_others(client: Client) -> None:
    until(lambda: shown(client, "jupyter")["state"] == "running")
    assert shown(client, "agent_skills")["state"] == "running"
    assert "list" not in client.act("run_ipython", code="x = 1; file_editor")["content"]
    assert client.ask("POST", "/v1/plugins/jupyter/stop")[1]["state"] == "stopped"
    assert "NameError" in client.act("run_ipython", code="x")["content"]
    assert shown(client, "jupyter")["state"] == "running"


def test_unknown_plugins_are_not_found(client: Client) -> None:
    status, answer = client.ask("GET", "/v1/plugins/nonsense")
    assert status == 404
    assert "GET /v1/plugins" in answer["detail"]
    assert client.ask("POST", "/v1/plugins/..%2f/start")[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_plugin_outlives_the_server(start: Start, folder: Path, number: signal.Signals) -> None:
    client = start("--plugins", "good", environment={"GRAFTBOX_PLUGINS": str(folder)})
    until(lambda: shown(client, "good")["state"] == "running")
    pid = shown(client, "good")["pid"]
    client.connection.request("GET", "/v1/proxy/good/daemon")
    daemon = int(client.connection.getresponse().read())
    client.process.send_signal(number)
    client.process.wait()
    until(lambda: not alive(pid))
    until(lambda: not alive(daemon))
