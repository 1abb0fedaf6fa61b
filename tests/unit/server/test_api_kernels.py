"""``/v1/kernels``: kernels by name, cells with all their outputs, and their events."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import Events


@pytest.fixture(scope="module")
def kernel(client: Any) -> str:
    """A kernel of its own, on a Python of the machine, with a variable and a folder."""
    (client.folder / "there").mkdir()
    asked = {"name": "other", "python": sys.executable, "cwd": "there", "env": {"FLAG": "up"}}
    status, made = client.ask("POST", "/v1/kernels", asked)
    assert status == 201, made
    assert (made["name"], made["state"], made["starts"]) == ("other", "idle", 1)
    return "/v1/kernels/other"


def execute(client: Any, kernel: str, code: str, **more: object) -> Any:
    status, answer = client.ask("POST", f"{kernel}/execute", {"code": code, **more})
    assert status == 200, answer
    return answer


def stream(client: Any, kernel: str, code: str) -> Events:
    return Events(client.port, "POST", f"{kernel}/stream", {"code": code})


def test_a_kernel_has_its_own_folder_and_variables(client: Any, kernel: str) -> None:
    answer = execute(client, kernel, "import os\nprint(os.getcwd(), os.environ['FLAG'])\n6 * 7")
    assert (answer["status"], answer["cwd"]) == ("ok", f"{client.folder}/there")
    text, value = answer["outputs"]
    assert text == {"output_type": "stream", "name": "stdout", "text": f"{client.folder}/there up\n"}
    assert (value["output_type"], value["data"]["text/plain"]) == ("execute_result", "42")
    assert execute(client, kernel, "print(os.getcwd())", cwd="..")["cwd"] == str(client.folder)


def test_errors_and_timeouts_are_told_apart(client: Any, kernel: str) -> None:
    answer = execute(client, kernel, "1/0")
    assert (answer["status"], answer["outputs"][0]["ename"]) == ("error", "ZeroDivisionError")
    answer = execute(client, kernel, "import time; time.sleep(60)", timeout=0.3)
    assert (answer["timed_out"], answer["status"], answer["outputs"]) == (True, "error", [])
    answer = execute(client, kernel, "import os; os._exit(3)")
    assert (answer["status"], answer["reason"]) == ("died", "exited with exit code 3")
    assert execute(client, kernel, "1")["status"] == "ok"


def test_outputs_stream_while_the_cell_runs(client: Any, kernel: str) -> None:
    heard = client.folder / "heard"
    wait = f"while not os.path.exists('{heard}' + str(i)):\n    time.sleep(.01)"
    code = f"import os, time\nfor i in range(3):\n  print(i, flush=True)\n  {wait}\n'end'"
    events: list[Any] = []
    for event in stream(client, kernel, code):
        # The cell goes on only when what it printed has arrived here.
        Path(f"{heard}{len(events)}").touch()
        events.append(event)
    assert [kind for kind, _, _ in events] == ["output"] * 4 + ["done"]
    assert "".join(data.get("text", "") for _, _, data in events) == "0\n1\n2\n"
    assert events[-1][2]["status"] == "ok"


def test_a_cell_can_be_interrupted_from_elsewhere(client: Any, kernel: str) -> None:
    events = stream(client, kernel, "import time\nprint('on')\ntime.sleep(60)")
    assert next(events)[2]["text"] == "on\n"
    assert client.ask("GET", kernel)[1]["state"] == "busy"
    assert client.ask("POST", f"{kernel}/interrupt") == (200, {"interrupted": True})
    kinds = [data.get("ename") or data.get("status") for _, _, data in events]
    assert kinds == ["KeyboardInterrupt", "error"]
    assert client.ask("POST", f"{kernel}/interrupt") == (200, {"interrupted": False})


def test_a_cell_ends_when_its_reader_goes_away(client: Any, kernel: str) -> None:
    events = stream(client, kernel, "print('on', flush=True)\nimport time\ntime.sleep(60)")
    assert next(events)[2]["text"] == "on\n"
    events.close()
    assert execute(client, kernel, "2")["outputs"][0]["data"]["text/plain"] == "2"


def test_restarting_forgets_everything(client: Any, kernel: str) -> None:
    execute(client, kernel, "kept = 1")
    status, shown = client.ask("POST", f"{kernel}/restart")
    assert (status, shown["state"]) == (200, "idle")
    assert execute(client, kernel, "kept")["outputs"][0]["ename"] == "NameError"


def test_a_running_cell_is_answered_when_its_kernel_is_restarted(client: Any, kernel: str) -> None:
    answers: list[Any] = []

    def run() -> None:
        events = stream(client, kernel, "import time\nprint('on')\ntime.sleep(60)")
        answers.extend(events)

    thread = threading.Thread(target=run)
    thread.start()
    while not answers:
        time.sleep(0.01)
    assert client.ask("POST", f"{kernel}/restart")[0] == 200
    thread.join(60)
    assert answers[-1][2]["status"] == "died"


def test_kernels_are_listed_refused_and_ended(client: Any, kernel: str) -> None:
    names = [each["name"] for each in client.ask("GET", "/v1/kernels")[1]["kernels"]]
    assert names == ["main", "other"]
    assert client.ask("POST", "/v1/kernels", {"name": "other"})[0] == 409
    assert client.ask("POST", "/v1/kernels", {"name": "third"})[0] == 201
    assert client.ask("POST", "/v1/kernels", {"python": "/no/python"})[0] == 404
    assert client.ask("POST", "/v1/kernels", {"cwd": "/no/folder"})[0] == 400
    assert client.ask("GET", "/v1/kernels/nobody")[0] == 404
    assert client.ask("POST", f"{kernel}/execute", {"code": 1})[0] == 422
    assert client.ask("DELETE", "/v1/kernels/third")[0] == 204
    assert client.ask("GET", "/v1/kernels/third")[0] == 404


def test_the_agents_kernel_is_main(client: Any) -> None:
    client.act("run_ipython", code="shared = 'both'")
    answer = execute(client, "/v1/kernels/main", "shared")
    assert answer["outputs"][0]["data"]["text/plain"] == "'both'"
