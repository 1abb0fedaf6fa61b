"""Random lives of a shell, compared step by step with a plain bash that reads the same commands from a pipe.

``GRAFTBOX_FUZZ_STEPS=10000`` makes it long.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from graftbox.server.environment import Environment
from graftbox.server.sandbox import Sandbox
from graftbox.server.session import Session
from graftbox.server.settings import Settings
from graftbox.wire.actions import Run
from graftbox.wire.observations import RunResult

STEPS = int(os.environ.get("GRAFTBOX_FUZZ_STEPS", "120"))
STEPS_OF_ONE = min(40, STEPS)
WORDS = st.text(st.sampled_from("abcXYZ019 _-+=:,.é☃😀\t'\"\\$`!*?[]{}()<>|&;#~%^/"), max_size=30)
NAMES = st.sampled_from(["one", "two", "three"])
NUMBERS = st.integers(0, 255)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


COMMANDS = st.one_of(
    st.builds("printf '%s' {}".format, WORDS.map(quoted)),
    st.builds('{}={}; echo "${}"'.format, NAMES, WORDS.map(quoted), NAMES),
    st.builds('echo "[${}]" $?'.format, NAMES),
    st.builds("export {}={}; printenv {}".format, NAMES, WORDS.map(quoted), NAMES),
    st.builds("unset {}; echo ${{{}-none}}".format, NAMES, NAMES),
    st.builds('{0}_f() {{ echo in {0} "$@"; return {1}; }}'.format, NAMES, NUMBERS),
    st.builds("{0}_f {1} 2>/dev/null".format, NAMES, WORDS.map(quoted)),
    st.builds("(exit {})".format, NUMBERS),
    st.builds("echo $?; (exit {})".format, NUMBERS),
    st.builds("seq {} | tail -n {}".format, st.integers(1, 30_000), st.integers(1, 500)),
    st.builds("head -c {} /dev/zero | tr '\\0' x".format, st.integers(0, 300_000)),
    st.builds(
        "printf '{}'".format, st.binary(max_size=40).map(lambda data: "".join(f"\\{b:03o}" for b in data))
    ),
    st.builds("cat <<'END'\n{}\nEND".format, WORDS),
    st.builds("cd {}; pwd".format, st.sampled_from(["/", "/usr", "/tmp", "/nowhere", "-", ".."])).map(
        lambda text: f"{{ {text}; }} 2>/dev/null"
    ),
    st.builds("for i in {{1..{}}}; do echo line $i; done".format, st.integers(1, 200)),
    st.builds("echo out; echo err >&2; {}".format, st.sampled_from(["true", "false", "! true", "[ 1 = 2 ]"])),
    st.builds("a=({}); echo ${{#a[@]}}".format, WORDS.map(quoted)),
    st.sampled_from(["true", "false", ":", "# nothing", "echo 'a\nb'", "wait", "set -u; set +u", "umask"]),
)
UNSETTLING = st.sampled_from(
    [
        "PS1='prompt> '",
        "PS0=zero PS2=two PS4=four",
        "PROMPT_COMMAND='echo noise'",
        "PROMPT_COMMAND=",
        "trap 'true' DEBUG",
        "trap - DEBUG",
        "trap '' INT",
        "trap - INT",
        "stty -echo",
        "stty raw",
        "stty -onlcr -opost",
        "stty intr ^X; stty intr ^C",
        "exec 5>&1 6</dev/null",
        "exec 100>&- 101>&- 0</dev/null",
        "exec 0</dev/tty",
        "printf '\\033[?1049h\\033[2J\\033[?25l'",
        "printf '\\033(0\\017\\016\\033c'",
        "alias true=false; unalias -a",
        "eval() { echo no; }; unset -f eval",
        "set -m; set -b",
        "tput reset 2>/dev/null || :",
    ]
)
DEADLY = [
    ("exit {}", "exited with exit code {}"),
    ("set -e; (exit {})", "exited with exit code {}"),
    ("exec sh -c 'exit {}'", "exited with exit code {}"),
]


class Reference:
    """A bash without terminal or prompts; each answer ends with a NUL, the status, the folder and a NUL."""

    def __init__(self, cwd: str, home: str) -> None:
        self.process = subprocess.Popen(
            ["/bin/bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8"},
        )
        self.status = 0

    def run(self, command: str) -> tuple[bytes, int, str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        script = (
            f"(exit {self.status}); eval {quoted(command)} </dev/null; printf '\\0%s %s\\1\\0' $? \"$PWD\"\n"
        )
        self.process.stdin.write(script.encode())
        self.process.stdin.flush()
        data = b""
        while not (found := re.search(rb"\0(\d+) ([^\0]*)\x01\0\Z", data)):
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, data
            data += chunk
        self.status = int(found[1])
        return data[: found.start()], self.status, found[2].decode()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Life(RuleBasedStateMachine):
    """One session of one sandbox."""

    @initialize()
    def begin(self) -> None:
        self.home = tempfile.mkdtemp(prefix="fuzz-", dir="/tmp")
        self.runner = asyncio.Runner()
        self.sandbox = self._sandbox()
        self.session: Session = self.do(self.sandbox.sessions.main())
        self.reference = Reference(self.home, self.home)
        self.expected: bytearray | None = None
        self.doomed = ""

    def _sandbox(self) -> Sandbox:
        variables = {"PATH": os.environ["PATH"], "HOME": self.home, "LANG": "C.UTF-8"}
        variables["XDG_RUNTIME_DIR"] = self.home
        entries = tuple(f"{name}={value}".encode() for name, value in variables.items())
        return Sandbox(Settings(port=7, working_dir=self.home, silence=60), Environment(entries))

    def do(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(90):
                return await work

        return self.runner.run(bounded())

    def act(self, command: str, timeout: float = 60, **more: Any) -> RunResult:
        result = self.do(self.sandbox.execute(Run(command, timeout=timeout, blocking=True, **more)))
        assert isinstance(result, RunResult), result
        return result

    def _prefix(self, result: RunResult) -> None:
        assert self.doomed in result.metadata.prefix
        assert bool(self.doomed) == bool(result.metadata.prefix), result
        self.doomed = ""

    def _bytes(self) -> bytes:
        command = self.session.command
        assert command is not None
        end = self.session.log.end if command.end is None else command.end
        return self.session.log.read(command.start, end - command.start)

    def _reborn(self) -> None:
        """The next shell starts where the last one was."""
        cwd = self.reference.run("true")[2]
        self.reference.close()
        self.reference = Reference(cwd, self.home)

    @property
    def idle(self) -> bool:
        return self.expected is None

    @precondition(lambda self: self.idle)
    @rule(command=COMMANDS)
    def command(self, command: str) -> None:
        output, status, cwd = self.reference.run(command)
        result = self.act(command)
        self._prefix(result)
        assert self._bytes() == output.replace(b"\n", b"\r\n"), command
        assert (result.metadata.exit_code, result.metadata.working_dir) == (status, cwd), command

    @precondition(lambda self: self.idle)
    @rule(command=UNSETTLING)
    def unsettle(self, command: str) -> None:
        result = self.act(command)
        self._prefix(result)
        assert result.metadata.exit_code == 0, result
        self.reference.run("true")

    @precondition(lambda self: self.idle)
    @rule(number=NUMBERS, seconds=st.sampled_from([0.0, 0.01, 0.05]))
    def slow_command(self, number: int, seconds: float) -> None:
        """One that is answered before its end, then read on."""
        result = self.act(f"echo begin; sleep 0.05; echo end; (exit {number})", timeout=seconds)
        self._prefix(result)
        text = result.content
        while result.metadata.exit_code == -1:
            assert "timed out" in result.metadata.suffix
            refused = self.act("echo never")
            if refused.metadata.exit_code == -1:
                assert "NOT executed" in refused.metadata.suffix
                text += refused.content
                result = self.act("")
                text += result.content
            else:
                # It had ended: the command was run instead, as the model does.
                assert refused.content == "never"
                self.reference.run("true")
                return
        assert (text, result.metadata.exit_code) == ("beginend" if "\n" not in text else "begin\nend", number)
        self.reference.run(f"(exit {number})")

    @precondition(lambda self: self.idle)
    @rule()
    def cat(self) -> None:
        self._prefix(self.act("cat", timeout=0.02))
        self.expected = bytearray()

    async def _shown(self) -> None:
        command = self.session.command
        assert command is not None
        await command.begun.wait()
        while self.session.log.end - command.start < len(self.expected or b""):
            await self.session.log.wait(self.session.log.end)

    @precondition(lambda self: not self.idle)
    @rule(text=st.text(st.sampled_from("abc XYZ019é☃"), min_size=1, max_size=40), way=st.booleans())
    def type(self, text: str, way: bool) -> None:
        assert self.expected is not None
        text = text.strip() or "x"
        if way:
            self.act(text, timeout=0.01, is_input=True)
        else:
            self.do(self.session.write(text.encode() + b"\r"))
        self.expected += 2 * (text.encode() + b"\r\n")
        self.do(self._shown())
        assert self._bytes() == bytes(self.expected)

    @precondition(lambda self: not self.idle)
    @rule(way=st.booleans())
    def end_cat(self, way: bool) -> None:
        assert self.expected is not None
        # It must be cat that gets the end of input, and not the shell in front of it.
        self.type("ready", way)
        result = self.act("C-d", is_input=True)
        assert result.metadata.exit_code == 0
        assert self._bytes() == bytes(self.expected)
        self.expected = None
        self.reference.run("true")

    @precondition(lambda self: not self.idle)
    @rule(way=st.sampled_from(["key", "signal", "server"]))
    def interrupt_cat(self, way: str) -> None:
        self.type("ready", way == "key")
        assert self.expected is not None
        number = signal.SIGINT
        if way == "key":
            self.act("C-c", is_input=True, timeout=0)
        elif way == "server":
            self.restart()
            number = signal.SIGTERM
            self.do(self.session.signal(number))
        else:
            self.do(self.session.signal(number))
        result = self.act("") if self.session.conversation.current else None
        assert result is None or result.metadata.exit_code == 128 + number, result
        after = self._bytes().removeprefix(bytes(self.expected))
        assert re.fullmatch(rb"(\^C|Terminated)?(\r?\n)?(noise\r?\n)?", after), after
        self.expected = None
        self.reference.run(f"(exit {128 + number})")

    @precondition(lambda self: self.idle)
    @rule(which=st.integers(0, len(DEADLY) - 1), status=st.integers(1, 255))
    def die(self, which: int, status: int) -> None:
        command, said = DEADLY[which]
        result = self.act("echo last words; " + command.format(status))
        self._prefix(result)
        assert said.format(status) in result.metadata.suffix
        assert result.content.startswith("last words")
        assert result.metadata.exit_code == status
        self._reborn()

    @precondition(lambda self: self.idle and not self.doomed)
    @rule(which=st.sampled_from(["shell", "keeper", "tmux"]))
    def kill_between(self, which: str) -> None:
        self._kill(which)
        self.doomed = "killed by signal 9" if which == "shell" else "terminal of the shell was killed"
        self._reborn()

    @precondition(lambda self: not self.idle)
    @rule(which=st.sampled_from(["shell", "keeper", "tmux"]))
    def kill_within(self, which: str) -> None:
        self._kill(which)
        result = self.act("")
        assert result.metadata.exit_code == (137 if which == "shell" else -1)
        self.expected = None
        self._reborn()

    def _kill(self, which: str) -> None:
        self.do(self.session.shell.start())
        pane = self.session.shell.pane
        assert pane is not None
        keeper = pane.hello.keeper
        parent = int(Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill({"shell": pane.hello.shell, "keeper": keeper, "tmux": parent}[which], signal.SIGKILL)

        async def noticed() -> None:
            while not pane.dead:
                await asyncio.sleep(0.001)

        self.do(noticed())

    @rule(columns=st.integers(1, 300))
    def resize(self, columns: int) -> None:
        self.do(self.session.resize(columns, 24))

    @precondition(lambda self: self.idle)
    @rule()
    def reset(self) -> None:
        self.do(self.session.reset())
        self.reference.close()
        self.reference = Reference(self.home, self.home)
        self.doomed = ""

    @rule()
    def restart(self) -> None:
        """As a server that is killed: it says nothing to anybody."""
        if self.doomed:
            return

        async def vanish() -> None:
            sessions = self.sandbox.sessions
            for session in sessions.list():
                if session.shell.pane is not None:
                    session.shell.pane.dead = True
                    session.shell.pane.transport.abort()
            for tmux in sessions._tmux.values():
                tmux.accepting.cancel() if tmux.accepting else None
                tmux.listening.close() if tmux.listening else None
            os.close(sessions.lock)
            await asyncio.sleep(0)

        self.do(vanish())
        self.sandbox = self._sandbox()
        self.session = self.do(self.sandbox.sessions.main())
        if self.expected is not None:
            assert self.session.state == "running"
            self.do(self._shown())

    def teardown(self) -> None:
        if not hasattr(self, "home"):
            return
        self.do(self.sandbox.close())
        self.runner.close()
        self.reference.close()
        shutil.rmtree(self.home)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=max(1, STEPS // STEPS_OF_ONE),
    stateful_step_count=STEPS_OF_ONE,
    deadline=None,
    # A life can't be lived twice in the same way, so that shrinking it leads nowhere.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    database=None,
)
