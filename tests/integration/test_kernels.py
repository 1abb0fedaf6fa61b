"""The bundle's own kernel in bases that have nothing for it, and kernels on the base's own Python."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.bases import HOSTILE, WORKSHOP
from tests.integration.test_base_matrix import LOCKED_DOWN, sandbox

from graftbox.sandbox.client import Client

MAKE_WHEEL = """
import zipfile
FILES = {
    "tinything.py": "VERSION = 1",
    "tinything-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: tinything\\nVersion: 1.0\\n",
    "tinything-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any",
    "tinything-1.0.dist-info/RECORD": "",
}
with zipfile.ZipFile("/tmp/tinything-1.0-py3-none-any.whl", "w") as wheel:
    for name, content in FILES.items():
        wheel.writestr(name, content)
"""


def cell(client: Client, code: str, timeout: float = 60) -> str:
    args = {"code": code, "include_extra": False}
    answer: dict[str, Any] = client.execute(
        {"action": "run_ipython", "args": args, "timeout": timeout}, timeout + 10
    )
    assert answer["observation"] == "run_ipython", answer
    content: str = answer["content"]
    return content


@pytest.mark.parametrize("base", ["scratch", "hostile"])
def test_the_bundled_kernel_runs_locked_down_in_any_base(base: str) -> None:
    with sandbox(base, "--engine", "embedded", *LOCKED_DOWN.split()) as client:
        for number in range(20):
            assert cell(client, f"print('tok_{number}')") == f"tok_{number}"
        assert cell(client, "import sys; sys.executable") == "'/openhands/libexec/python3.13'"
        assert cell(client, "!echo $((6 * 7))") == "42"
        assert cell(client, "import zoneinfo; zoneinfo.ZoneInfo('Europe/Paris').key") == "'Europe/Paris'"
        assert "Execution timed out" in cell(client, "import time; time.sleep(60)", 0.5)
        cell(client, MAKE_WHEEL)
        assert "Successfully installed" in cell(client, "%pip install --no-index /tmp/tinything-1.0-*.whl")
        assert cell(client, "import tinything; tinything.VERSION") == "1"
        seen = cell(client, "import os; '\\n'.join(sorted(os.environ))")
        if base == "hostile":
            assert set(HOSTILE) <= set(eval(seen).splitlines())
        assert "JUPYTER" not in seen


def test_a_kernel_runs_on_the_bases_own_python() -> None:
    options = ("--engine", "embedded", *LOCKED_DOWN.split(), "-e", "GRAFTBOX_KERNEL_PYTHON=python3")
    with sandbox(WORKSHOP.name, *options) as client:
        assert (
            cell(client, "import sys; sys.executable, sys.version_info[:2]")
            == "('/usr/bin/python3', (3, 11))"
        )
        assert cell(client, "!python3 --version").startswith("Python 3.11")
        assert cell(client, "1 / 0").endswith("ZeroDivisionError: division by zero")


def test_a_bundle_without_the_component_says_so() -> None:
    with sandbox("scratch", "--engine", "embedded", "--component", "core") as client:
        answer = client.execute({"action": "run", "args": {"command": "echo here"}})
        assert answer["content"] == "here"
        with pytest.raises(Exception, match="add the component jupyter"):
            cell(client, "1")
