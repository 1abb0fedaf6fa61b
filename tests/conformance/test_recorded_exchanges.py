"""Exchanges recorded from an OpenHands action execution server 0.62.0, replayed in order against ours.

Every field must equal the recording, except those in differences.json, which must differ and say why. What
depends on the machine is brought to one form on both sides first: folder, user, host, interpreter, process
numbers, times.
"""

from __future__ import annotations

import ast
import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from graftbox.server.browser import chromium
from graftbox.server.environment import Environment

CHROMIUM = chromium.find(Environment(tuple(f"{name}={value}".encode() for name, value in os.environ.items())))
HERE = Path(__file__).parent
SAMPLES = sorted((HERE / "samples").glob("*.json"))
DIFFERENCES: dict[str, dict[str, str]] = json.loads((HERE / "differences.json").read_text())
KEY = "conformance"
RECORDED_NODES = 4
PNG = "data:image/png;base64,iVBORw0KGgo"
PLUGINS = ("--plugins", "agent_skills", "jupyter")
# The model's own answer where it runs without a browser.
BROWSER_OFF = "Browser functionality is not supported or disabled."
NO_BROWSER = {
    "message": BROWSER_OFF,
    "observation": "error",
    "content": BROWSER_OFF,
    "extras": {"error_id": ""},
}
# Recorded strings of great length were shortened to "start...<N chars>...end".
SHORTENED = re.compile(r"\.\.\.<\d+ chars>\.\.\.")
# The job of one second ends before the next command, not at a random moment.
PAUSES = {"017_run_hard_timeout": 0.5, "021_run_bg": 3.0}
# The page is asked for once there is somebody to ask.
READY = "; until (: < /dev/tcp/127.0.0.1/8123) 2> /dev/null; do sleep 0.05; done"
FASTER = {"095_http_server": ("; sleep 2", READY)}
# Bodies that are no JSON could not be recorded as JSON.
RAW_BODIES = {"076_exec_invalid_json": b"{bad"}


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


UPLOADS = {
    "081_upload": ("up.txt", b"uploaded\n"),
    "082_upload_zip": ("x.zip", zipped({"in/a.txt": b"a"})),
    "083_upload_relative": ("up.txt", b"uploaded\n"),
    "084_upload_recursive_notzip": ("up.txt", b"uploaded\n"),
}


def unzipped(data: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [[name, archive.read(name).decode()] for name in archive.namelist()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("workspace").resolve()
    process = subprocess.Popen(
        [sys.executable, "-m", "graftbox.server", "0", "--working-dir", str(folder), *PLUGINS],
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "PYTHONPATH": str(HERE.parents[1] / "src"),
            "SESSION_API_KEY": KEY,
            "NO_CHANGE_TIMEOUT_SECONDS": "3",
            "LANG": "C.UTF-8",
        },
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if line.startswith("Listening on"))
    # The model's workspace held two hidden folders, of its editor and its browser.
    for name in (".vscode", ".downloads"):
        (folder / name).mkdir()
    port = int(line.rsplit(":", 1)[1])
    yield port, folder
    # What a recorded command left running belongs to no session any more.
    run(port, "run", command="pkill -f '[h]ttp.server 8123'")
    process.terminate()
    assert process.wait(60) == 0
    process.stderr.close()


def flat(value: object, path: str = "response") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}")
    else:
        yield path, value


def common(path: str, value: object) -> object:
    """``value`` without what depends on the machine or the moment."""
    name = path.rsplit(".", 1)[-1]
    if name in ("username", "hostname", "py_interpreter_path") and value is not None:
        return "<known>"
    if name == "pid" and isinstance(value, int) and value > 0:
        return "<pid>"
    if path.startswith("response.resources") or name in ("uptime", "idle_time"):
        return "<number>" if isinstance(value, int | float) else value
    if name in ("screenshot", "set_of_marks") and isinstance(value, str):
        return value[: len(PNG)]
    if name == "bbox" and value is not None:
        return "<box>"  # as wide and high as the machine's fonts
    if name == "nodes":
        return numbered(value)
    if isinstance(value, str):
        value = re.sub(
            r"(?s)(\[Current URL: chrome-error:.*BEGIN webpage).*(END webpage)", r"\1<known>\2", value
        )
        value = re.sub(r"(screenshot_)\d{8}_\d{6}_\d{6}(\.png)", r"\1<time>\2", value)
        value = re.sub(r"^(\[\d+\]) \d+$|^(/\n)\d+$", r"\1\2<pid>", value)
        value = re.sub(r"after 10 seconds", "after 3 seconds", value)
        value = re.sub(r"(Jupyter Python interpreter: )[^]]+", r"\1<known>", value)
        value = re.sub(r"(oh_aci_output_)[0-9a-f]{32}", r"\1<random>", value)
        value = re.sub(r"pip [\d.]+ from \S+ \(python [\d.]+\)", "pip <known>", value)
    return value


def numbered(nodes: Any) -> Any:
    """The first nodes of an accessibility tree, which were recorded, with numbers in the order in which they
    come.
    """
    nodes = nodes[:RECORDED_NODES]
    order: dict[Any, int] = {}
    for node in nodes:
        for key in (node["nodeId"], node.get("frameId"), node.get("backendDOMNodeId")):
            order.setdefault(key, len(order))
    names = ("nodeId", "parentId", "backendDOMNodeId", "frameId")
    return [
        {
            **node,
            **{name: order.get(node[name]) for name in names if name in node},
            "childIds": [order.get(child) for child in node.get("childIds", ())],
        }
        for node in nodes
    ]


def same(recorded: object, ours: object) -> bool:
    if isinstance(recorded, list) and recorded and re.fullmatch(r"\.\.\.<\d+ items>", str(recorded[-1])):
        # The root folder of another machine.
        return isinstance(ours, list) and {"dev/", "proc/"} <= set(ours) and ours == in_order(ours)
    if isinstance(recorded, str) and isinstance(ours, str) and (cut := SHORTENED.search(recorded)):
        head, tail = recorded[: cut.start()], recorded[cut.end() :]
        return ours.startswith(head) and ours.endswith(tail)
    return type(recorded) is type(ours) and recorded == ours


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.endswith("/"), name.lower()))


def recorded_answer(recorded: Any) -> tuple[str, Any]:
    """Content type and decoded body; of an archive, the names and contents of its files."""
    response = recorded["response"]
    if isinstance(response, dict) and "__raw__" in response:
        return "application/zip", {"files": unzipped(ast.literal_eval(response["__raw__"]))}
    return "application/json", response


def name_of(recorded: Any) -> str:
    """What kind of action was asked for, if any."""
    body = recorded["request"]["body"]
    return str(body["action"].get("action")) if isinstance(body, dict) and "action" in body else ""


def upload(filename: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """A form as clients send it, and its header."""
    head = f'--xx\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n--xx--\r\n", {"Content-Type": "multipart/form-data; boundary=xx"}


def replay(port: int, name: str, request: Any) -> tuple[int, str | None, Any]:
    """Status, content type and decoded JSON of our answer."""
    body: Any = RAW_BODIES.get(name)
    if body is None and request["body"] is not None:
        body = json.dumps(request["body"])
    headers = {} if "noauth" in name else {"X-Session-API-Key": KEY}
    if name in UPLOADS:
        body, form = upload(*UPLOADS[name])
        headers |= form
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(request["method"], request["path"], body, headers)
    response = connection.getresponse()
    kind, data = response.getheader("content-type"), response.read()
    content = {"files": unzipped(data)} if kind == "application/zip" else json.loads(data)
    answer = response.status, kind, content
    connection.close()
    time.sleep(PAUSES.get(name, 0))
    return answer


def run(port: int, action: str, **args: object) -> Any:
    """The observation of an action of our own."""
    body = {"action": {"action": action, "args": args, "timeout": 30}}
    return replay(port, "", {"method": "POST", "path": "/execute_action", "body": body})[2]


@pytest.fixture(scope="module")
def exchanges(server: tuple[int, Path]) -> dict[str, Any]:
    """Every recording with our answer to it, all replayed in order: later ones build on earlier ones."""
    port, folder = server
    replayed = {}
    for sample in SAMPLES:
        text = sample.read_text().replace("/workspace", str(folder))
        text = text.replace(*FASTER.get(sample.stem, ("", "")))
        recorded = json.loads(text.replace("%2Fworkspace", quote(str(folder), safe="")))
        replayed[sample.stem] = recorded, replay(port, sample.stem, recorded["request"])
    return replayed


@pytest.mark.parametrize("name", [sample.stem for sample in SAMPLES])
def test_the_answer_is_the_recorded_one(name: str, exchanges: dict[str, Any]) -> None:
    recorded, (status, content_type, answer) = exchanges[name]
    excused = DIFFERENCES.get(name, {})
    their_type, their_answer = recorded_answer(recorded)
    assert content_type == their_type
    theirs = {"status": recorded["status"], **dict(flat(their_answer))}
    ours = {"status": status, **dict(flat(answer))}
    if recorded["request"]["path"] == "/execute_action" and "browse" in name_of(recorded) and not CHROMIUM:
        assert (status, answer) == (200, NO_BROWSER)
        return
    assert ours.keys() == theirs.keys()
    different = {path for path in ours if not same(common(path, theirs[path]), common(path, ours[path]))}
    assert {path: (theirs[path], ours[path]) for path in different - excused.keys()} == {}
    # What depends on the moment or on the machine may happen to be the same.
    certain = {path for path, why in excused.items() if not why.startswith(("Timing:", "Chromium:"))}
    assert certain <= different, "differences.json excuses what no longer differs"


def test_two_commands_at_once_run_one_after_the_other(server: tuple[int, Path]) -> None:
    port, folder = server
    with ThreadPoolExecutor(2) as pool:
        command = f"cd {folder}; touch began; sleep 0.7; echo one; touch first"
        first = pool.submit(run, port, "run", command=command)
        while not (folder / "began").exists():
            time.sleep(0.02)
        second = pool.submit(run, port, "run", command="echo two; ls first")
        assert (first.result()["content"], second.result()["content"]) == ("one", "two\nfirst")


def test_of_twenty_cells_in_a_row_none_loses_its_output(server: tuple[int, Path]) -> None:
    port, _ = server
    for number in range(20):
        content = run(port, "run_ipython", code=f"print('cell_{number}')")["content"]
        assert content.startswith(f"cell_{number}\n[Jupyter current working directory:")


def test_every_difference_belongs_to_a_sample() -> None:
    assert DIFFERENCES.keys() <= {sample.stem for sample in SAMPLES}
