"""Kernels on other Pythons of this machine: with nothing installed into them, and with their own IPython."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import alive, until

VERSIONS = ["3.6", "3.8", "3.13"]


def interpreter(version: str) -> str:
    """A plain CPython of that version."""
    places = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    found = str(places[-1]) if places else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"missing on this machine: a CPython {version}")
    return found


def cell(client: Any, code: str, timeout: float | None = 120) -> str:
    answer = client.act("run_ipython", timeout, code=code, include_extra=False)
    assert answer["observation"] == "run_ipython"
    content = answer["content"]
    assert isinstance(content, str)
    return content


@pytest.fixture(scope="module", params=[*VERSIONS, "ipython"])
def foreign(start: Any, request: pytest.FixtureRequest) -> Any:
    """A server whose kernel runs on that Python."""
    python = sys.executable if request.param == "ipython" else interpreter(request.param)
    client = start("--kernel-python", python)
    client.python = python
    return client


def test_it_answers_as_the_bundled_kernel_does(foreign: Any) -> None:
    answer = foreign.act("run_ipython", code="print(6 * 7)")
    assert answer["content"] == (
        f"42\n[Jupyter current working directory: {foreign.folder}]\n"
        f"[Jupyter Python interpreter: {foreign.python}]"
    )
    assert cell(foreign, "'a' + 'b'") == "'ab'"
    assert cell(foreign, "x = 1") == "[Code executed successfully with no output]"
    rule = "-" * 75
    head = "ZeroDivisionError                         Traceback (most recent call last)"
    assert cell(foreign, "1/0") == (
        f"{rule}\n{head}\nCell In[1], line 1\n----> 1 1/0\n\nZeroDivisionError: division by zero"
    )
    assert "SyntaxError: " in cell(foreign, "a b")
    assert "does not support input requests" in cell(foreign, "input('name?')")


def test_it_runs_commands_and_magics(foreign: Any) -> None:
    assert cell(foreign, "!echo hi") == "hi"
    assert cell(foreign, "word = 'there'\nlines = !echo {word}\nprint(list(lines))") == "['there']"
    assert cell(foreign, "%cd /\nimport os\nprint(os.getcwd())") == "/\n/"
    assert cell(foreign, "%pip --version").startswith("pip ")
    assert "not found" in cell(foreign, "%nosuchmagic")
    assert cell(foreign, "%%bash\necho $((1 + 2))") == "3"


def test_everything_is_heard_in_order(foreign: Any) -> None:
    count = 3000
    expected = "\n".join(map(str, range(count)))
    assert cell(foreign, f"for i in range({count}): print(i, flush=True)") == expected
    code = "import os, sys\nprint('a'); sys.stderr.write('b\\n'); print('c')\nos.system('printf é')"
    assert cell(foreign, code) == "a\nb\nc\né0"
    assert cell(foreign, "x = os.system('head -c 300000 /dev/zero | tr \"\\\\0\" x')").count("x") == 30_000


def test_it_is_interrupted_and_comes_back(foreign: Any) -> None:
    cell(foreign, "kept = 5")
    text = cell(foreign, "import time\nprint('before')\ntime.sleep(60)", 2)
    assert text == "before\n[Execution timed out (2.0 seconds).]"
    assert cell(foreign, "kept") == "5"
    assert "killed by signal 9" in cell(foreign, "import os; os.kill(os.getpid(), 9)")
    assert "NameError" in cell(foreign, "kept")


def test_rich_values_come_as_pictures(foreign: Any) -> None:
    code = "class P:\n  def _repr_png_(self): return b'\\x89PNG'\n  def __repr__(self): return 'me'\nP()"
    answer = foreign.act("run_ipython", code=code)
    assert answer["extras"]["image_urls"] == ["data:image/png;base64,iVBORw=="]
    assert answer["content"].startswith("me\n")


def test_the_kernels_own_modules_hide_nothing_of_the_users(foreign: Any) -> None:
    names = ["figures", "lifeline", "notebook", "outputs"]
    (foreign.folder / "outputs.py").write_text("MINE = True\n")
    assert cell(foreign, f"import sys; [name for name in {names} if name in sys.modules]") == "[]"
    cell(foreign, f"import os; os.chdir({str(foreign.folder)!r})")
    assert cell(foreign, "import outputs; outputs.MINE") == "True"
    assert cell(foreign, "__name__") == "'__main__'"


def test_it_ends_with_the_server(start: Any) -> None:
    client = start("--kernel-python", interpreter("3.6"))
    pid = int(cell(client, "import os; os.getpid()"))
    client.process.send_signal(signal.SIGKILL)
    client.process.wait()
    until(lambda: not alive(pid))


def test_an_interpreter_that_is_not_there_is_named(start: Any) -> None:
    client = start(environment={"GRAFTBOX_KERNEL_PYTHON": "/no/python"})
    action = {"action": {"action": "run_ipython", "args": {"code": "1"}}}
    status, answer = client.ask("POST", "/execute_action", action)
    assert status == 500
    assert "The Python /no/python for the kernel is not an executable file" in answer["detail"]


def test_figures_are_shown_where_the_interpreter_has_matplotlib(start: Any) -> None:
    python = next((p for p in map(str, [sys.executable, "/usr/bin/python3"]) if _has_matplotlib(p)), None)
    if python is None:
        pytest.skip("missing on this machine: matplotlib")
    client = start("--kernel-python", python)
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    answer = client.act("run_ipython", 60, code=code)
    assert answer["extras"]["image_urls"][0].startswith("data:image/png;base64,")
    assert os.environ.get("MPLBACKEND", "") == cell(
        client, "import os; print(os.environ.get('MPLBACKEND', ''))"
    )


def _has_matplotlib(python: str) -> bool:
    return not subprocess.run([python, "-c", "import matplotlib"], capture_output=True).returncode
