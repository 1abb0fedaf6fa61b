"""What an agent keeps when the server is killed and another one takes its place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import alive, free_port, runs, until


@pytest.fixture
def restarted(start: Any) -> Iterator[Any]:
    """``restarted()`` starts the server, and after a kill the next one, on the same port."""

    def go() -> Any:
        servers.append(start(port=port))
        return servers[-1]

    servers: list[Any] = []
    port = free_port()
    yield go
    servers[-1].process.terminate()
    servers[-1].process.wait()


def kill(server: Any) -> None:
    server.process.kill()
    server.process.wait()


def metadata(answer: Any) -> Any:
    return answer["extras"]["metadata"]


def test_variables_functions_folder_and_last_status_survive(restarted: Any) -> None:
    first = restarted()
    first.output("cd /tmp; colour=blue; f() { echo in f; }; alias g='echo in g'")
    pid = first.output("echo $$")
    first.run("(exit 7)")
    kill(first)
    second = restarted()
    assert second.output('echo "$? $PWD $colour $$"; f') == f"7 /tmp blue {pid}\nin f"


def test_reading_on_after_a_restart_gives_what_was_not_yet_told(restarted: Any) -> None:
    first = restarted()
    go = first.folder / "go"
    wait = f"until test -e {go}; do sleep 0.05; done"
    assert first.begin(f"echo before; {wait}; seq 1 100000; (exit 3)", "before") == "before"
    kill(first)
    go.touch()
    answer = restarted().run("", hidden=True, blocking=True)
    assert answer["content"] == "\n".join(map(str, range(1, 100_001)))
    assert metadata(answer)["exit_code"] == 3


def test_control_c_reaches_a_command_of_the_server_before(restarted: Any) -> None:
    first = restarted()
    shell = int(first.output("echo $$"))
    first.begin("echo begun; sleep 300", "begun")
    until(lambda: runs(shell, "sleep"))
    kill(first)
    second = restarted()
    assert metadata(second.run("C-c", is_input=True, blocking=True))["exit_code"] == 130
    assert second.output("echo next") == "next"


def test_a_shell_that_ended_while_no_server_was_there_says_so(restarted: Any) -> None:
    first = restarted()
    go = first.folder / "go"
    pid = int(first.output("echo $$"))
    first.begin(f"echo begun; until test -e {go}; do sleep 0.05; done; echo last words; exit 5", "begun")
    kill(first)
    go.touch()
    until(lambda: not alive(pid))
    second = restarted()
    answer = second.run("", blocking=True)
    assert answer["content"] == "last words\nexit"
    assert metadata(answer)["exit_code"] == 5
    assert second.output("echo next") == "next"


def test_many_kills_in_a_row_lose_nothing_of_one_command(restarted: Any) -> None:
    server = restarted()
    go = server.folder / "go"
    said = server.begin(
        f"i=0; until test -e {go}; do echo line $((++i)); sleep 0.01; done; echo end", "line 1"
    )
    for _ in range(4):
        kill(server)
        server = restarted()
        said += "\n" + server.run("", timeout=0.2, hidden=True)["content"]
    kill(server)
    go.touch()
    answer = restarted().run("", blocking=True, hidden=True)
    assert metadata(answer)["exit_code"] == 0
    said += "\n" + answer["content"]
    numbers = [int(number) for number in re.findall(r"line (\d+)", said)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert said.endswith(f"line {numbers[-1]}\nend")


def test_a_server_stopped_in_order_leaves_nothing_for_the_next(restarted: Any) -> None:
    first = restarted()
    pid = first.output("echo $$")
    first.process.terminate()
    assert first.process.wait(60) == 0
    until(lambda: not alive(int(pid)))
    assert restarted().output("echo $$") != pid


def test_people_see_the_session_in_tmux(restarted: Any) -> None:
    server = restarted()
    tmux = server.output("tr '\\0' ' ' < /proc/$(ps -o ppid= $PPID | tr -d ' ')/cmdline")
    place = re.search(r"-S (\S+)", tmux)
    assert place is not None
    server.run("echo hello people")
    words = ["tmux", "-S", place[1], "capture-pane", "-p"]
    until(lambda: "hello people" in subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    server.begin("echo begun; cat", "begun")
    subprocess.run(["tmux", "-S", place[1], "send-keys", "typed by hand", "Enter"], check=True)
    # The echo and the answer, in however many pieces they are told.
    said: list[str] = []

    def all_said() -> bool:
        said.append(server.run("", timeout=0.2)["content"])
        return "".join(said).count("hand") > 1

    until(all_said)
    assert "".join(said).replace("\n", "") == "typed by hand" * 2


def test_a_session_whose_shell_is_dead_keeps_its_folder_over_a_restart(restarted: Any) -> None:
    first = restarted()
    first.output("cd /usr")
    first.run("exit 4")
    kill(first)
    second = restarted()
    answer = second.run("pwd")
    assert (answer["content"], metadata(answer)["prefix"]) == ("/usr", "")
    keeper = second.output("echo $PPID")
    kill(second)
    os.kill(int(keeper), signal.SIGKILL)
    until(lambda: not alive(int(keeper)))
    answer = restarted().run("pwd")
    assert answer["content"] == "/usr"
    assert "terminal of the shell was killed" in metadata(answer)["prefix"]


def test_shells_that_no_server_will_ask_for_are_ended_by_any_other(start: Any) -> None:
    """A port chosen at random is not chosen again."""
    lost = start()
    keeper = int(lost.output("echo $PPID"))
    words = Path(f"/proc/{keeper}/cmdline").read_text().split("\0")
    folder = Path(next(word for word in words if ".graftbox-" in word)).parents[1]
    kill(lost)
    assert alive(keeper)
    os.utime(folder, (0, 0))
    assert start().output("echo fine") == "fine"
    until(lambda: not alive(keeper))
    until(lambda: not folder.exists())
