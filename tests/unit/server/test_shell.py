"""What an agent experiences in the persistent shell."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import alive, runs, until


def metadata(answer: Any) -> Any:
    return answer["extras"]["metadata"]


def test_two_hundred_quick_commands_lose_nothing(client: Any) -> None:
    for number in range(200):
        assert client.output(f"echo token_{number}") == f"token_{number}"


def test_state_stays_between_commands(client: Any) -> None:
    client.output("cd /tmp && export COLOUR=blue && f() { echo in f; }")
    assert client.output('echo "$PWD $COLOUR"; f') == "/tmp blue\nin f"
    assert metadata(client.run(f"cd {client.folder}"))["working_dir"] == str(client.folder)


def test_the_status_of_the_last_command_is_seen_by_the_next(client: Any) -> None:
    assert client.code("(exit 42)") == 42
    assert client.output("echo $?") == "42"
    assert client.output("echo $?") == "0"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("cat <<'EOF'\na 'quoted' \"line\"\n\t$HOME `x` \\\nEOF", "a 'quoted' \"line\"\n\t$HOME `x` \\"),
        ("printf '%s' \"a'b\\\"c\"", "a'b\"c"),
        ("for i in 1 2 3; do\n  echo $i\ndone", "1\n2\n3"),
        ("echo é ☃ 😀", "é ☃ 😀"),
        ("printf '\\033[31mred\\033[0m plain\\n'", "red plain"),
        ("printf 'ten\\rTEN\\n'", "TEN"),
        ("printf 'a\\tb  \\nc\\n'", "a\tb  \nc"),
        ("echo $'one\\x01two'", "onetwo"),
        ("echo hi; # a comment", "hi"),
        ("echo '!!' !x", "!! !x"),
    ],
)
def test_output_is_exactly_what_was_printed(client: Any, command: str, expected: str) -> None:
    assert client.output(command) == expected


def test_a_command_that_is_no_bash_fails_and_the_next_one_works(client: Any) -> None:
    for command in ("echo 'unbalanced", "if true; then", ")", "((", "fi", "${", "cat <<EOF\nnever ended"):
        client.run(command)
        assert client.output("echo fine") == "fine"


def test_a_command_of_a_hundred_kilobytes_arrives_whole(client: Any) -> None:
    text = "0123456789" * 10_000
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert client.output(f"printf %s '{text}' | sha256sum | cut -d' ' -f1") == expected


def test_of_megabytes_of_output_the_last_lines_come_back_cut_in_the_middle(client: Any) -> None:
    answer = client.run("seq 1 500000")
    content = answer["content"]
    assert content.startswith("489989\n489990\n")
    note = "[Previous command outputs are truncated. Showing the last 10013 lines of the output below.]\n"
    assert answer["extras"]["metadata"]["prefix"] == note
    assert content.endswith("499999\n500000")
    assert "[... Observation truncated due to length ...]" in content
    assert len(content) == 30_000 + len("\n[... Observation truncated due to length ...]\n")
    assert client.output("echo after") == "after"


def test_hidden_output_comes_back_whole(client: Any) -> None:
    content = client.run("seq 1 20000", hidden=True)["content"]
    assert content == "\n".join(map(str, range(1, 20_001)))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_asks_for_no_key(client: Any) -> None:
    made = "git init -q pages && cd pages && seq 500 > a && git add a"
    try:
        client.output(f"export GIT_PAGER='read key; cat' && {made}")
        assert len(client.output("git diff --cached").splitlines()) > 500
    finally:
        client.run(f"cd {client.folder}; rm -rf pages; unset GIT_PAGER")


def test_binary_output_does_no_harm(client: Any) -> None:
    assert client.code("head -c 200000 /dev/urandom") == 0
    assert client.output("echo after") == "after"


@pytest.mark.parametrize(
    "settings",
    [
        "PS1='prompt> '",
        "PROMPT_COMMAND='echo noise'",
        "trap 'echo debug >/dev/null' DEBUG",
        "set -x; set +x",
        "set -u",
        "alias builtin=false eval=false",
        "trap '' INT",
        "PS0='noise'; PS2='noise'",
        "IFS=x",
        "exec 5>&1",
        "shopt -s extglob nullglob; set -f",
    ],
)
def test_shell_settings_do_not_disturb_the_answers(start: Any, settings: str, client: Any) -> None:
    client.run(settings)
    try:
        assert client.output("echo one; echo two") == "one\ntwo"
        assert client.output("printf '%s' three") == "three"
        assert client.code("false") == 1
    finally:
        client.run("PROMPT_COMMAND=; unset IFS PS0; trap - DEBUG INT; set +uf; unalias -a")


def shell_pid(client: Any) -> int:
    return int(client.output("echo $$"))


def descendants(pid: int) -> list[int]:
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found[1:]


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("exit 3", 3, "exited with exit code 3"),
        ("set -e; false", 1, "exited with exit code 1"),
        ("exec sh -c 'echo replaced; exit 5'", 5, "exited with exit code 5"),
        ("kill -9 $$", 137, "killed by signal 9"),
    ],
)
def test_a_shell_that_ends_says_so_and_the_next_command_works(
    client: Any, command: str, code: int, said: str
) -> None:
    client.output(f"cd {client.folder}; mkdir -p deep; cd deep")
    answer = client.run(command)
    assert metadata(answer)["exit_code"] == code
    assert said in metadata(answer)["suffix"]
    assert client.output("pwd") == f"{client.folder}/deep"
    assert client.code("true") == 0


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("exit 3", 3, "\nexit"),
        ("exec true", 0, ""),
        ("exec sh -c 'echo replaced; exit 5'", 5, "\nreplaced"),
        ("kill -9 $$", 137, ""),
        ("sleep 60 & exit 4", 4, None),
    ],
)
def test_what_a_shell_printed_last_is_never_lost(
    client: Any, command: str, code: int, said: str | None
) -> None:
    for number in range(40):
        answer = client.run(f"echo line-{number}; {command}")
        assert metadata(answer)["exit_code"] == code
        if said is not None:
            assert answer["content"] == f"line-{number}{said}"
        assert answer["content"].startswith(f"line-{number}")


def test_the_end_of_a_large_output_is_not_lost_with_its_shell(client: Any) -> None:
    for _ in range(20):
        answer = client.run("printf '%s.' {1..40000}; exit 4", hidden=True)
        assert metadata(answer)["exit_code"] == 4
        assert answer["content"] == ".".join(map(str, range(1, 40_001))) + ".exit"


def test_a_shell_that_ends_with_its_terminal_stopped_is_still_noticed(client: Any) -> None:
    pid = shell_pid(client)
    client.begin("stty ixon; echo before; cat", "before")
    client.run("C-s", is_input=True, timeout=0.2)
    os.kill(pid, signal.SIGKILL)
    answer = client.run("", blocking=True)
    assert metadata(answer)["exit_code"] == 137
    assert client.output("echo next") == "next"


def test_a_shell_killed_between_commands_is_replaced_and_it_is_said(client: Any) -> None:
    pid = shell_pid(client)
    os.kill(pid, signal.SIGKILL)
    until(lambda: client.ask("GET", "/v1/sessions/main")[1]["state"] == "dead")
    answer = client.run("echo next")
    assert answer["content"] == "next"
    assert "killed by signal 9" in metadata(answer)["prefix"]


@pytest.mark.parametrize("which", ["$PPID", "$(ps -o ppid= $PPID)"], ids=["launcher", "tmux"])
def test_a_killed_terminal_is_replaced(client: Any, which: str) -> None:
    pid = int(client.output(f"echo {which}"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: client.ask("GET", "/v1/sessions/main")[1]["state"] == "dead")
    answer = client.run("echo next")
    assert answer["content"] == "next"
    assert "terminal of the shell was killed" in metadata(answer)["prefix"]


@pytest.mark.parametrize("which", ["$PPID", "$(ps -o ppid= $PPID)"], ids=["launcher", "tmux"])
def test_a_terminal_killed_by_the_command_itself_is_survived(client: Any, which: str) -> None:
    answer = client.run(f"kill -9 {which}; sleep 60", blocking=True)
    assert "terminal of the shell was killed" in metadata(answer)["suffix"]
    assert client.output("echo next") == "next"


def test_silence_is_answered_and_reading_goes_on(client: Any) -> None:
    go = client.folder / "go"
    first = client.run(f"echo start; until test -e {go}; do sleep 0.05; done; echo end")
    assert "no new output after 1 seconds" in metadata(first)["suffix"]
    assert metadata(first)["exit_code"] == -1
    while not first["content"]:
        first = client.run("")
    assert first["content"] == "start"
    busy = client.run("echo nope")
    assert 'Your command "echo nope" is NOT executed' in metadata(busy)["suffix"]
    assert metadata(busy)["prefix"] == "[Below is the output of the previous command.]\n"
    go.touch()
    last = client.run("", blocking=True)
    assert (last["content"], metadata(last)["exit_code"]) == ("end", 0)
    go.unlink()


def test_a_timeout_answers_and_control_c_interrupts(client: Any) -> None:
    # In a loop of the shell's own, Ctrl-C could come between two programs.
    answer = client.run("sh -c 'while :; do echo x; sleep 0.2; done'", timeout=1, blocking=True)
    assert "The command timed out after 1.0 seconds." in metadata(answer)["suffix"]
    answer = client.run("C-c", is_input=True, blocking=True)
    assert metadata(answer)["exit_code"] == 130
    assert answer["content"].endswith("^C")
    assert "CTRL+C was sent." in metadata(answer)["suffix"]


def test_control_c_ends_a_loop_of_builtins(client: Any) -> None:
    client.begin("echo begun; while :; do :; done", "begun")
    assert metadata(client.run("C-c", is_input=True, blocking=True))["exit_code"] == 130
    assert client.output("echo after") == "after"


def test_control_z_stops_and_the_job_can_be_brought_back(client: Any) -> None:
    pid = shell_pid(client)
    client.run("sleep 60", timeout=0.1)
    until(lambda: runs(pid, "sleep"))
    answer = client.run("C-z", is_input=True, blocking=True)
    assert metadata(answer)["exit_code"] == 148
    assert "Stopped" in answer["content"]
    client.run("fg", timeout=0.1)
    until(lambda: runs(pid, "sleep"))
    assert metadata(client.run("C-c", is_input=True, blocking=True))["exit_code"] == 130


def test_a_program_in_the_place_of_the_shell_can_not_be_stopped(client: Any) -> None:
    client.begin("echo begun; exec cat", "begun")
    client.run("C-z", is_input=True, timeout=0.3)
    client.begin("still here", "still here", is_input=True)
    assert metadata(client.run("C-d", is_input=True, blocking=True))["exit_code"] == 0


def test_control_d_ends_the_input_of_a_program(client: Any) -> None:
    client.begin("echo begun; cat", "begun")
    assert client.begin("some text", "some text", is_input=True) == "some text"
    assert metadata(client.run("C-d", is_input=True, blocking=True))["exit_code"] == 0


def test_input_is_answered_without_its_echo(client: Any) -> None:
    client.begin("read -p 'name? ' x && echo hi $x", "name?")
    answer = client.run("Bob", is_input=True, blocking=True)
    assert (answer["content"], metadata(answer)["exit_code"]) == ("hi Bob", 0)


def test_input_for_a_command_that_has_ended_is_not_run_as_a_command(client: Any) -> None:
    go = client.folder / "go"
    client.begin(f"echo begun; until test -e {go}; do sleep 0.05; done; echo over", "begun")
    go.touch()
    until(lambda: client.ask("GET", "/v1/sessions/main")[1]["command"] is None)
    go.unlink()
    answer = client.run("touch oops", is_input=True)
    assert answer["content"] == "over"
    assert "NOT sent" in metadata(answer)["suffix"]
    assert not (client.folder / "oops").exists()


def test_a_background_job_gives_its_pid_and_holds_nothing_up(client: Any) -> None:
    answer = client.run("sleep 30 &")
    pid = metadata(answer)["pid"]
    assert answer["content"].endswith(str(pid))
    assert client.output("echo after") == "after"
    os.kill(pid, signal.SIGKILL)
    client.run("wait")


def test_programs_have_the_terminal_and_nothing_else_open(client: Any) -> None:
    terminal = client.output("tty")
    for number in range(3):
        assert client.output(f"readlink /proc/self/fd/{number}") == terminal
    assert client.output("ls /proc/self/fd | wc -l") == "4"


def test_a_static_command_has_a_shell_of_its_own(client: Any) -> None:
    client.output("cd /; marker=set")
    answer = client.run('pwd; echo "[$marker]"', is_static=True, cwd=str(client.folder))
    assert answer["content"] == f"{client.folder}\n[]"
    assert client.output('pwd; echo "[$marker]"') == "/\n[set]"


def test_no_zombie_is_left_behind(client: Any) -> None:
    client.run("exit 0")
    client.output("echo again")
    words = ["ps", "-o", "stat=", "--ppid", str(client.process.pid)]
    until(lambda: "Z" not in subprocess.run(words, capture_output=True, text=True, check=False).stdout)


def test_the_environment_is_the_containers_own(start: Any, tmp_path: Path) -> None:
    odd = {
        "ODD": "a b\tc=d\nsecond line",
        "PYTHONHOME_OF_THE_BASE": "/x",
        "LOCPATH": "/nowhere",
        "TERMINFO": "/nowhere",
        "TMUX_TMPDIR": "/nowhere",
        "BASH_ENV": "/nowhere",
        "SSL_CERT_FILE": "/nowhere",
        "TMUX": "/nowhere,1,2",
        "LC_ALL": "xx_YY",
        "GRAFTBOX_SHELL": "/bin/bash",
        "SESSION_API_KEY": "unused",
    }
    server = start(environment=odd)
    raw = server.run("env -0 > env.bin")
    assert metadata(raw)["exit_code"] == 0, raw
    seen = dict(entry.split("=", 1) for entry in (server.folder / "env.bin").read_text().split("\0") if entry)
    expected = {"PATH": os.environ["PATH"], "HOME": str(server.folder), "LANG": "C.UTF-8"}
    expected |= {"PYTHONPATH": seen["PYTHONPATH"], "NO_CHANGE_TIMEOUT_SECONDS": "1", **odd}
    del expected["GRAFTBOX_SHELL"], expected["SESSION_API_KEY"]
    by_bash = {"PWD": str(server.folder), "SHLVL": "1", "_": seen["_"], "TERM": "screen"}
    assert seen == {**expected, **by_bash}


def test_line_editing_switched_on_in_bashrc_shows_nothing_of_ours(start: Any, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("set -o vi\n")
    server = start(environment={"HOME": str(tmp_path)})
    assert server.output("echo hi") == "hi"
    assert server.ask("POST", "/v1/sessions", {"name": "edited"})[0] == 201
    first = server.ask("POST", "/v1/sessions/edited/run", {"command": "echo one"})[1]
    server.ask("POST", "/v1/sessions/edited/run", {"command": "echo two"})
    shown = server.ask("GET", f"/v1/sessions/edited/output?offset={first['start']}")[1]
    assert shown["text"] == "one\r\ntwo\r\n"


@pytest.mark.parametrize("command", ["builtin() { :; }", "enable -n printf eval"])
def test_a_shell_without_its_builtins_does_not_stay_broken(start: Any, command: str) -> None:
    server = start()
    server.run(f"{command}; echo done")
    server.run("true")
    assert server.output("echo fine") == "fine"


def test_tmux_and_the_shells_end_with_the_server(start: Any) -> None:
    server = start()
    shell, keeper = server.output("echo $$ $PPID").split()
    tmux = server.output("ps -o ppid= $PPID").strip()
    job = str(metadata(server.run("sleep 300 &"))["pid"])
    server.run("sleep 301", timeout=0.1)
    until(lambda: len(descendants(int(shell))) == 2)
    foreground = [str(pid) for pid in descendants(int(shell))]
    server.process.terminate()
    assert server.process.wait(60) == 0
    left = [shell, keeper, tmux, job, *foreground]
    until(lambda: not any(alive(int(pid)) for pid in left))


FULL_SCREEN = r"""
printf 'before\n\033[?1049h\033[2J\033[HTitle\033[3;1H'; echo body
read key; printf '\033[4;1Hyou typed %s' "$key"; read key; printf '\033[?1049l'; echo left
"""


def test_a_full_screen_program_is_read_as_its_screen_and_can_be_left(client: Any) -> None:
    program = client.folder / "program"
    program.write_text(FULL_SCREEN)
    assert client.begin(f"bash {program}", "body").endswith("Title\n\nbody")
    assert client.begin("x", "typed x", is_input=True).endswith("Title\n\nbody\nyou typed x")
    answer = client.run("q", is_input=True, blocking=True)
    assert answer["content"].endswith("left")
    assert "Title" not in answer["content"]
    assert client.output("echo after") == "after"


def test_the_terminal_is_sane_after_a_program_that_left_it_otherwise(client: Any) -> None:
    for command in ("stty -echo", "stty raw", "stty -opost", "sh -c 'stty raw -echo; kill -9 $$'"):
        client.run(command)
        assert client.output("printf 'a\\nb\\n'; stty -a | grep -c ' echo '") == "a\nb\n1"


def test_a_screen_that_was_stopped_goes_on_with_the_next_command(client: Any) -> None:
    client.begin("echo begun; cat > /dev/null", "begun")
    client.run("C-s", is_input=True, timeout=0.1)
    client.run("C-c", is_input=True, timeout=0.3)
    client.run("", timeout=5, blocking=True)
    assert client.output("echo fine") == "fine"


@pytest.mark.parametrize(
    "command",
    ["trap 'false' DEBUG; shopt -s extdebug", "exec 100>&- 101>&-", "exec 10>&- 11>&- 12>&- 13>&-"],
)
def test_a_shell_that_can_not_report_is_replaced_and_it_is_said(client: Any, command: str) -> None:
    answer = client.run(command, blocking=True)
    said = metadata(answer)
    assert said["exit_code"] in (0, -1, 98), answer
    if said["exit_code"]:
        assert "new shell" in said["suffix"]
    assert client.output("echo fine") == "fine"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("printf '%01000000d\\n' 7", "0" * 999_999 + "7"),
        ("printf '日本語\\t😀\\te\\xcc\\x81\\n'", "日本語\t😀\te\u0301"),
        ("printf 'a\\0b\\n'", "ab"),
        ("printf 'x%.0s' {1..500}", "x" * 500),
    ],
)
def test_long_wide_and_odd_lines_come_back_as_they_are(client: Any, command: str, expected: str) -> None:
    assert client.run(command, hidden=True)["content"] == expected
