"""Cells in real kernels: ipykernel's, as the bundle brings it, over HTTP."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LONG = bool(os.environ.get("GRAFTBOX_LONG_TESTS"))


def cell(client: Any, code: str, timeout: float | None = 120, **args: object) -> str:
    """What a cell prints, without the lines about the kernel."""
    answer = client.act("run_ipython", timeout, code=code, include_extra=False, **args)
    assert (answer["observation"], answer["success"]) == ("run_ipython", True)
    content = answer["content"]
    assert isinstance(content, str)
    return content


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether it runs: what nobody has reaped yet does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_cell_says_where_it_ran_and_on_which_python(client: Any) -> None:
    answer = client.act("run_ipython", code="print(6 * 7)")
    text, folder, python = answer["content"].split("\n")
    assert text == "42"
    assert folder == f"[Jupyter current working directory: {client.folder}]"
    assert python.startswith("[Jupyter Python interpreter: /")


def test_every_print_is_in_its_own_answer(client: Any) -> None:
    for number in range(10_000 if LONG else 150):
        assert cell(client, f'print("tok_{number}")') == f"tok_{number}"


def test_output_of_a_fast_stream_comes_whole_and_in_order(client: Any) -> None:
    count = 3000
    code = f"import sys\nfor i in range({count}): print(i, flush=True)"
    assert cell(client, code) == "\n".join(map(str, range(count)))


def test_programs_that_write_past_python_are_heard_whole(client: Any) -> None:
    code = "import os, subprocess\nos.system('printf héllo')\nx = subprocess.run(['printf', ' wörld'])"
    assert cell(client, code) == "héllo wörld"
    assert cell(client, 'x = os.system("printf é%.0s $(seq 9000)")') == "é" * 9000


def test_the_last_value_and_displays_are_shown(client: Any) -> None:
    assert cell(client, "'a' + 'b'") == "'ab'"
    assert cell(client, "'\ud800'") == "'?'"  # half of a surrogate pair is no text
    assert cell(client, "x = 1") == "[Code executed successfully with no output]"
    answer = client.act(
        "run_ipython",
        code="from IPython.display import Image, display\nimport base64\n"
        f"display(Image(base64.b64decode('{PNG}')))\nprint('end')",
    )
    assert answer["extras"]["image_urls"] == [f"data:image/png;base64,{PNG}"]
    assert answer["content"].startswith("<IPython.core.display.Image object>end\n")


def test_cleared_output_is_gone_and_progress_ends_as_it_looks(client: Any) -> None:
    code = "from IPython.display import clear_output\nprint(1)\nclear_output()\nprint(2)"
    assert cell(client, code) == "2"
    assert cell(client, "print('10%\\r50%\\r100%')") == "100%"


def test_an_error_is_a_traceback_without_colours(client: Any) -> None:
    text = cell(client, "def f():\n    return 1 / 0\nf()")
    assert text.startswith("-" * 75 + "\nZeroDivisionError")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in text


def test_input_is_answered_with_an_error(client: Any) -> None:
    assert "does not support input requests" in cell(client, "input('name?')")


def test_a_timeout_tells_what_was_printed_and_the_kernel_goes_on(client: Any) -> None:
    cell(client, "kept = 5")
    text = cell(client, "import time\nprint('before')\ntime.sleep(60)", 2)
    assert text == "before\n[Execution timed out (2.0 seconds).]"
    assert cell(client, "kept") == "5"


def test_a_cell_that_ignores_interrupts_costs_the_kernel(client: Any) -> None:
    cell(client, "1")  # it runs
    code = "import time\nwhile True:\n  try:\n    time.sleep(9)\n  except KeyboardInterrupt:\n    pass"
    text = cell(client, code, 1.5)
    assert "[Execution timed out (1.5 seconds).]" in text
    assert "earlier variables are gone" in text
    assert cell(client, "2 + 2") == "4"


def test_huge_output_keeps_its_beginning_and_its_end(client: Any) -> None:
    text = cell(client, "print('first')\nfor _ in range(60): print('x' * 1_000_000)\nprint('last')")
    assert text.startswith("first\nxxx")
    assert text.endswith("xxx\nlast")
    assert "[... Observation truncated due to length ...]" in text
    assert len(text) < 31_000


def test_a_kernel_that_is_killed_says_so_and_comes_back(client: Any) -> None:
    text = cell(
        client, "print('so far', flush=True)\nimport os, time\ntime.sleep(.5)\nos.kill(os.getpid(), 9)"
    )
    assert text.startswith("so far\n[The kernel was killed by signal 9 (SIGKILL).")
    assert "NameError" in cell(client, "kept")
    pid = int(cell(client, "import os; os.getpid()"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    text = cell(client, "1 + 1")
    assert text.startswith("[The kernel was killed by signal 9 (SIGKILL). This is a new one")
    assert text.endswith("\n2")


def test_the_kernel_follows_the_shell_and_its_own_chdir(client: Any) -> None:
    (client.folder / "sub").mkdir()
    client.output("cd sub")
    assert cell(client, "import os; os.getcwd()") == repr(f"{client.folder}/sub")
    cell(client, "os.chdir('/')")
    answer = client.act("run_ipython", code="print(os.getcwd())")
    assert answer["content"].startswith("/\n[Jupyter current working directory: /]")
    client.output(f"cd {client.folder}")
    assert cell(client, "os.getcwd()") == repr(str(client.folder))


def test_modules_of_the_present_folder_can_be_imported(client: Any) -> None:
    (client.folder / "mymodule.py").write_text("ANSWER = 42\n")
    assert cell(client, "import mymodule; mymodule.ANSWER") == "42"


def test_programs_started_from_a_cell_see_the_containers_variables_alone(client: Any) -> None:
    seen = {line.partition("=")[0] for line in cell(client, "!env").split()}
    assert not seen & {"MPLBACKEND", "FORCE_COLOR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "SESSION_API_KEY"}
    assert not [name for name in seen if name.startswith("GRAFTBOX")]


def test_init_code_runs_once_per_kernel(client: Any) -> None:
    for _ in range(2):
        cell(client, "pass", kernel_init_code="runs = globals().get('runs', 0) + 1")
    assert cell(client, "'runs' in globals() and runs") in ("1", "False")


def wheel(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{information}/METADATA", metadata)
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    return path


def test_what_pip_installs_can_be_imported_at_once(client: Any, tmp_path: Path) -> None:
    text = cell(client, f"%pip install --no-index {wheel(tmp_path, 'tinything', '1.0')}", 60)
    assert "Successfully installed tinything-1.0" in text
    assert cell(client, "import tinything; tinything.VERSION") == "'1.0'"
    assert str(client.folder) in cell(client, "tinything.__file__")


def test_the_agents_skills_are_there_when_asked_for(start: Any) -> None:
    client = start("--plugins", "agent_skills", "jupyter")
    (client.folder / "f.txt").write_text("one\ntwo\n")
    text = cell(
        client, f"print(file_editor('str_replace', '{client.folder}/f.txt', old_str='one', new_str='1'))"
    )
    assert '"old_content": "one\\ntwo\\n","new_content": "1\\ntwo\\n"' in text
    assert (client.folder / "f.txt").read_text() == "1\ntwo\n"
    assert cell(client, "open_file('f.txt')").endswith("1|1\n2|two\n(this is the end of the file)")
    assert "NameError" not in cell(client, "search_dir('two')")
    assert "%pip install pypdf" in cell(client, "parse_pdf('f.pdf')")


def test_nothing_is_left_when_the_server_is_killed(start: Any) -> None:
    client = start()
    code = "import os, subprocess\nchild = subprocess.Popen(['sleep', '600'])\nprint(os.getpid(), child.pid)"
    pids = [int(pid) for pid in cell(client, code).split()]
    assert all(map(alive, pids))
    keeper = int(client.output("echo $PPID"))
    words = Path(f"/proc/{keeper}/cmdline").read_text().split("\0")
    folder = Path(next(word for word in words if ".graftbox-" in word)).parents[1]
    client.process.kill()
    client.process.wait()
    until(lambda: not any(map(alive, pids)))
    # The shell waits for the next server, which does not come.
    os.kill(keeper, signal.SIGKILL)
    shutil.rmtree(folder)
