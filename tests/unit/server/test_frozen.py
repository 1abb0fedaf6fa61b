from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graftbox.server.frozen import Options

SOURCE = Path(__file__).parents[3] / "src"


def python(
    *words: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What the frozen program does under the name python, run by this Python."""
    code = "import sys; from graftbox.server.frozen import main; sys.exit(main(['python', *sys.argv[1:]]))"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        input=stdin,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": os.defpath, **(env or {})},
        timeout=30,
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-ISB", "a.py", "-x"], ("ISB", "file", "a.py", ["-x"])),
        (["-IBXutf8", "-c", "1", "2"], ("IB", "c", "1", ["2"])),
        (["-P", "-Xutf8", "-mpip", "install"], ("P", "m", "pip", ["install"])),
        (["-X", "utf8", "-W", "error", "a.py"], ("", "file", "a.py", [])),
        (["-Bcprint(1)", "-c"], ("B", "c", "print(1)", ["-c"])),
        (["-", "a"], ("", "input", "-", ["a"])),
        ([], ("", "input", "", [])),
    ],
)
def test_options_are_read_as_cpython_reads_them(
    words: list[str], expected: tuple[str, str, str, list[str]]
) -> None:
    options = Options(words)
    assert (options.flags, options.kind, options.what, options.rest) == expected


def test_it_runs_code_files_modules_and_its_input(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; import beside; print(__name__, __file__, sys.argv[1:], beside.x)")
    (tmp_path / "beside.py").write_text("x = 1")
    assert python("-c", "import sys; print(sys.argv)", "a").stdout == "['-c', 'a']\n"
    assert python(str(script), "a").stdout == f"__main__ {script} ['a'] 1\n"
    assert python("-I", str(script)).returncode == 1
    assert python("-m", "json.tool", "--compact", stdin="[ 1 ]").stdout == "[1]\n"
    assert python("-", stdin="print(6 * 7)").stdout == "42\n"
    assert python("--version").stdout.startswith("Python 3.")


def test_errors_look_as_they_do_in_any_python() -> None:
    done = python("-c", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [
        "Traceback (most recent call last):",
        '  File "<string>", line 1, in <module>',
    ]
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert python("-c", "exit(3)").returncode == 3
    assert python("-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)").returncode == -2


def test_the_environment_is_what_it_was_given() -> None:
    code = "import os; print(sorted(name for name in os.environ if name != 'LC_CTYPE'))"
    env = {"LD_LIBRARY_PATH": "/base", "VIRTUAL_ENV": "/venv", "_PYI_MINE": "1"}
    expected = sorted([*env, "PATH", "PYTHONPATH"])
    assert python("-c", code, env=env).stdout == f"{expected}\n"


def test_another_process_can_be_started_by_it() -> None:
    """As multiprocessing does: PyInstaller's mark of a frozen program would make it use another command."""
    assert python("-c", "import sys; print(hasattr(sys, 'frozen'))").stdout == "False\n"
