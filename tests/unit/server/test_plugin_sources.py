"""Where plugins come from: distributions, folders, and manifests that are wrong."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import SOURCE, Start, until

from graftbox.errors import FormatError, UsageError
from graftbox.server.environment import Environment
from graftbox.server.plugins.found import Place, load, places
from graftbox.server.plugins.manifest import Manifest, filled, parse
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings, read_settings

EXAMPLE = Path(__file__).parents[3] / "examples/plugin-clock"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the example's own distribution was installed."""
    copy = tmp_path_factory.mktemp("example") / "source"
    subprocess.run(["cp", "-r", EXAMPLE, copy], check=True)
    target = copy.with_name("packages")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(target), str(copy)]
    subprocess.run(pip, check=True)
    return target


def test_a_distribution_brings_plugins(start: Start, packages: Path) -> None:
    path = {"PYTHONPATH": f"{SOURCE}:{packages}"}
    client = start("--plugins", "chimes", "clock", environment=path)

    def shown(name: str) -> Any:
        return client.ask("GET", f"/v1/plugins/{name}")[1]

    until(lambda: shown("clock")["state"] == "running")
    assert shown("clock")["source"] == "entry point of graftbox_plugin_clock-1.0"
    client.connection.request("GET", "/v1/proxy/clock/")
    assert re.fullmatch(rb"[\d:]{8}\n", client.connection.getresponse().read())
    until(lambda: "GET /" in client.ask("GET", "/v1/plugins/clock/log")[1]["text"])
    assert "o'clock" in client.act("run_ipython", code="chime()")["content"]
    assert shown("chimes")["state"] == "running"


def test_a_plugin_that_is_asked_for_while_its_manifest_is_read_starts_what_that_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/plugin.toml").write_text('name = "one"\nstart = ["/bin/sleep", "1000"]\n')
    reading, go = threading.Event(), threading.Event()

    def slowly(place: Place, seconds: float) -> Manifest:
        reading.set()
        assert go.wait(60)
        return load(place, seconds)

    monkeypatch.setattr("graftbox.server.plugins.found.load", slowly)

    async def started() -> int:
        environment = Environment((b"PATH=" + os.environb[b"PATH"],))
        settings = Settings(port=None, working_dir=str(tmp_path), plugin_folders=(str(tmp_path),))
        sandbox = Sandbox(settings, environment)

        async def start() -> int:
            plugin = await sandbox.plugins.get("one")
            plugin.start()
            await plugin.settled(60)
            return plugin.starts

        try:
            discovering = asyncio.create_task(sandbox.plugins.discover())
            assert await asyncio.to_thread(reading.wait, 60)
            starting = asyncio.create_task(start())
            await asyncio.wait({starting}, timeout=0.2)
            go.set()
            await discovering
            return await starting
        finally:
            await sandbox.close()

    assert asyncio.run(started()) == 1


def test_a_folder_of_plugins_may_have_distributions_in_it(
    start: Start, packages: Path, tmp_path: Path
) -> None:
    (tmp_path / "site-packages").symlink_to(packages)
    client = start("--plugin-path", str(tmp_path), "--plugins", "chimes")
    assert "o'clock" in client.act("run_ipython", code="chime()")["content"]
    client.connection.request("GET", "/v1/proxy/clock/")
    assert re.fullmatch(rb"[\d:]{8}\n", client.connection.getresponse().read())


def test_code_is_only_imported_when_its_plugin_is_started(
    start: Start, packages: Path, tmp_path: Path
) -> None:
    (tmp_path / "x-1.dist-info").mkdir()
    (tmp_path / "x-1.dist-info/entry_points.txt").write_text(
        "[console_scripts]\nclock = a:b\n"
        "[graftbox.plugins]\n# a comment\nhanging = x_hangs:manifest\nlost = x_lost\n"
    )
    (tmp_path / "x_hangs.py").write_text("import time\ntime.sleep(1000)\n")
    client = start(
        environment={"PYTHONPATH": f"{SOURCE}:{packages}:{tmp_path}", "INIT_PLUGIN_TIMEOUT": "0.5"}
    )
    plugins = {each["name"]: each for each in client.ask("GET", "/v1/plugins")[1]["plugins"]}
    assert plugins["hanging"]["state"] == plugins["clock"]["state"] == "off"
    answer = client.ask("POST", "/v1/plugins/hanging/start")[1]
    assert answer["state"] == "failed"
    assert "did not end within 0.5 seconds" in answer["reason"]
    answer = client.ask("POST", "/v1/plugins/lost/start")[1]
    assert "there is no package x_lost" in answer["reason"]
    assert client.output("echo on") == "on"


def test_a_name_that_is_nowhere_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="Unknown plugin nowhere; the plugins are jupyter, agent_skills, vscode"
    ):
        read_settings(["--plugins", "jupyter", "nowhere"], Environment(()), "/", "")
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere/plugin.toml").write_text("")
    found = read_settings(["--plugins", "nowhere", "--plugin-path", str(tmp_path)], Environment(()), "/", "")
    assert found.plugin_folders == (str(tmp_path),)


def test_the_first_folder_of_a_name_counts(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "twice").mkdir(parents=True)
        (tmp_path / folder / "twice/plugin.toml").write_text("")
    found = places((str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path / "missing")))
    assert found["twice"].folder == tmp_path / "b/twice"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "name is required"),
        ({"name": "Big"}, "name must match"),
        ({"name": "a"}, "starts nothing"),
        ({"name": "a", "start": "b"}, "start must be of type array"),
        ({"name": "a", "start": ["b"], "sevre": {}}, "sevre is not known here"),
        ({"name": "a", "start": ["b"], "serve": {}}, "either socket or port"),
        ({"name": "a", "start": ["b"], "serve": {"socket": "x", "port": 1}}, "either socket or port"),
        ({"name": "a", "kernel": "1", "serve": {"port": 1}}, "starts nothing"),
        ({"name": "a", "start": ["b"], "time_limit": 0}, "more than 0"),
        ({"name": "a", "start": ["b"], "environment": {"x=y": "1"}}, "no name for a variable"),
        ({"name": "a", "start": ["b\0"]}, "must match"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(given: Any, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        parse(given, "/", "a test", "plugin.toml")


def test_unknown_placeholders_are_an_error() -> None:
    assert filled("{a}-{b}{{a}", {"a": "1", "b": "2"}) == "1-2{1"
    with pytest.raises(FormatError, match=r"\{c\}, but only \{a\} are known"):
        filled("{c}", {"a": "1"})


def test_a_plugins_name_is_that_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text('name = "other"\nstart = ["x"]')
    with pytest.raises(FormatError, match="calls itself other"):
        load(Place("one", tmp_path), 1)
    (tmp_path / "plugin.toml").write_text("name =")
    with pytest.raises(FormatError, match="can't be read"):
        load(Place("one", tmp_path), 1)
