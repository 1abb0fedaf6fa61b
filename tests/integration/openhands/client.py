"""Drives a sandbox by the classes of openhands-ai; run by the interpreter of its own environment.

``client.py connect URL KEY FOLDER USER`` uses its ActionExecutionClient on a running server,
``client.py docker IMAGE USER`` its DockerRuntime, unmodified, on a runtime image. Each step is a function
whose name says what works; one line of JSON per step goes to standard output: its name, and what went wrong.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("LOG_LEVEL", "ERROR")
from openhands.core.config import MCPConfig, OpenHandsConfig
from openhands.core.config.mcp_config import MCPStdioServerConfig
from openhands.events import EventStream
from openhands.events.action import (
    BrowseInteractiveAction,
    BrowseURLAction,
    CmdRunAction,
    FileEditAction,
    FileReadAction,
    FileWriteAction,
    IPythonRunCellAction,
    MCPAction,
)
from openhands.llm.llm_registry import LLMRegistry
from openhands.runtime.impl.action_execution.action_execution_client import ActionExecutionClient
from openhands.runtime.impl.docker.docker_runtime import DockerRuntime
from openhands.runtime.plugins import AgentSkillsRequirement, JupyterRequirement
from openhands.storage import get_file_store


class Connected(ActionExecutionClient):
    """Their client for a server that somebody else started."""

    def __init__(self, url: str, key: str, **more: Any) -> None:
        self.url, self.key = url, key
        super().__init__(**more)
        self.session.headers["X-Session-API-Key"] = key

    @property
    def action_execution_server_url(self) -> str:
        return self.url

    @property
    def session_api_key(self) -> str:
        return self.key

    async def connect(self) -> None:
        self.check_if_alive()
        self.setup_initial_env()
        self._runtime_initialized = True


class Scenario:
    """The steps; each may rely on those before it."""

    def __init__(self, runtime: Any, folder: str, user: str) -> None:
        self.runtime, self.folder, self.user = runtime, folder, user

    def run(self, command: str, timeout: float | None = 30, **more: Any) -> Any:
        action = CmdRunAction(command=command, **more)
        if timeout:
            action.set_hard_timeout(timeout, blocking=False)
        return self.runtime.run_action(action)

    def said(self, command: str, **more: Any) -> str:
        observation = self.run(command, **more)
        assert getattr(observation, "exit_code", None) == 0, observation
        return str(observation.content)

    def shown(self, text: str, observation: Any) -> None:
        """Reads on until the program that runs has shown that."""
        for _ in range(30):
            assert observation.exit_code == -1, observation
            if text in observation.content:
                return
            observation = self.run("", timeout=2)
        raise AssertionError(observation)

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        for name, step in inspect.getmembers(self, inspect.ismethod):
            if name[0] == "t" and name[1:3].isdigit():
                yield name, step

    def t01_commands_run_in_the_working_folder(self) -> None:
        observation = self.run("pwd && ls -l")
        assert observation.content == f"{self.folder}\ntotal 0", observation
        assert observation.metadata.working_dir == self.folder, observation
        assert observation.metadata.username == self.user, observation
        assert observation.exit_code == 0
        assert "[The command completed with exit code 0.]" in observation.metadata.suffix

    def t02_state_is_kept_and_codes_are_exact(self) -> None:
        self.said("mkdir sub && cd sub && export LEFT=over")
        assert self.said('pwd; echo "$LEFT"') == f"{self.folder}/sub\nover"
        self.said("cd ..")
        observation = self.run("nonexistent_command")
        assert observation.exit_code == 127, observation
        assert "nonexistent_command: command not found" in observation.content

    def t03_many_lines_are_one_command_or_refused(self) -> None:
        loop = "for i in 1 2 3; do\n  echo line $i\ndone && echo done"
        assert self.said(loop) == "line 1\nline 2\nline 3\ndone"
        assert self.said('echo -e "hello\nworld"') == "hello\nworld"
        assert self.said("cat << EOF\nline 1\nline 2\nEOF") == "line 1\nline 2"
        assert self.said("echo \\\n -e 'foo'") == "foo"
        observation = self.run('ls -l\necho -e "hello\nworld"')
        assert type(observation).__name__ == "ErrorObservation", observation
        assert "Cannot execute multiple commands at once" in observation.content

    def t04_a_timeout_leaves_the_command_running(self) -> None:
        observation = self.run("for i in {1..3}; do echo $i; sleep 2; done", timeout=1)
        assert (observation.exit_code, observation.content) == (-1, "1"), observation
        assert "[The command timed out after 1" in observation.metadata.suffix, observation
        refused = self.run("ls", timeout=1)
        assert "The previous command is still running" in refused.metadata.suffix, refused
        assert refused.metadata.prefix == "[Below is the output of the previous command.]\n", refused
        observation = self.run("", timeout=30)
        # On a slow machine the refusal came after the next number.
        assert f"{refused.content}\n{observation.content}".split() == ["2", "3"], (refused, observation)
        assert "exit code 0" in observation.metadata.suffix

    def t05_programs_are_fed_and_interrupted(self) -> None:
        script = "name = input('Name: '); age = input('Age: '); print(f'{name} is {age}')"
        self.shown("Name:", self.run(f'python3 -c "{script}"', timeout=2))
        self.shown("Age:", self.run("Alice", timeout=2, is_input=True))
        observation = self.run("25", is_input=True)
        assert (observation.exit_code, "Alice is 25" in observation.content) == (0, True), observation
        self.shown("Serving HTTP on", self.run("python3 -u -m http.server 8081", timeout=2))
        observation = self.run("C-c", is_input=True)
        assert observation.exit_code == 0, observation
        assert "Keyboard interrupt received, exiting." in observation.content
        self.run("sleep 100", timeout=1)
        assert self.run("C-c", is_input=True).exit_code == 130
        self.said("true")

    def t06_long_output_is_cut_as_they_expect(self) -> None:
        observation = self.run('for i in $(seq 1 50000); do echo "Line $i"; done')
        assert "Previous command outputs are truncated" in observation.metadata.prefix
        assert "Line 40000\n" in observation.content
        assert observation.content.endswith("Line 50000")
        assert len(observation.content) < 31000
        assert self.said('for i in $(seq 1 200); do echo "L$i"; done').count("\n") == 199

    def t07_odd_characters_survive(self) -> None:
        assert self.said("printf 'ä€漢🦔\\n'") == "ä€漢🦔"
        self.said("mkdir -p f && echo implemented > f/one.txt")
        found = self.said("find f -type f -exec grep -l implemented {} \\;")
        assert found == "f/one.txt"

    def t10_files_are_written_read_and_listed(self) -> None:
        path = f"{self.folder}/notes/a.txt"
        assert "written" not in self.runtime.run_action(FileWriteAction(path=path, content="x\ny\nz")).content
        assert self.runtime.run_action(FileReadAction(path=path)).content == "x\ny\nz\n"
        assert self.runtime.list_files(self.folder)[:1] == ["f/"]
        assert "notes/" in self.runtime.list_files()
        assert self.said(f"stat -c %U {path}") == self.user
        missing = self.runtime.run_action(FileReadAction(path="/no/such"))
        assert "File not found: /no/such" in missing.content, missing

    def t11_files_are_edited(self) -> None:
        def edit(command: str, **more: Any) -> Any:
            return self.runtime.run_action(FileEditAction(path=path, command=command, **more))

        path = f"{self.folder}/edit.py"
        assert "File created successfully" in edit("create", file_text="a = 1\nb = 2\n").content
        changed = edit("str_replace", old_str="b = 2", new_str="b = 3")
        assert "has been edited" in changed.content
        assert "+b = 3" in changed.diff
        assert "     2\tb = 3" in edit("view").content
        assert "Last edit" in edit("undo_edit").content
        assert "No replacement was performed" in edit("str_replace", old_str="nope", new_str="x").content
        assert self.said(f"cat {path}") == "a = 1\nb = 2"

    def t12_files_and_folders_are_copied_both_ways(self) -> None:
        with tempfile.TemporaryDirectory() as here:
            source = Path(here, "tree")
            for number in range(300):
                file = source / f"d{number % 7}" / f"f{number}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"number {number}")
            self.runtime.copy_to(str(source), self.folder, recursive=True)
            self.runtime.copy_to(str(source / "d0/f0.txt"), f"{self.folder}/new/folder")
        assert self.said("find tree -type f | wc -l") == "300"
        assert self.said("cat tree/d2/f9.txt new/folder/f0.txt") == "number 9number 0"
        archive = self.runtime.copy_from(f"{self.folder}/tree")
        with zipfile.ZipFile(archive) as packed:
            assert len([name for name in packed.namelist() if name[-1] != "/"]) == 300
            assert packed.read("d2/f9.txt") == b"number 9"
        archive.unlink()

    def t13_git_works_and_its_changes_are_seen(self) -> None:
        self.said(
            "mkdir repo && cd repo && git init -q && echo one > a.txt && git add . && git commit -qm first"
        )
        self.said("echo two > a.txt && echo new > b.txt && cd ..")
        # Debian's pager, where there is no less, waits for a key at the end of any output.
        self.said("seq 500 > repo/c.txt && git -C repo add c.txt")
        assert self.said("git -C repo diff --cached").endswith("+500")
        assert "first" in self.said("git -C repo log")
        self.said("git -C repo rm -qf c.txt")
        changes = self.runtime.get_git_changes(f"{self.folder}/repo")
        # Without a remote they compare with nothing.
        assert sorted((c["path"], c["status"]) for c in changes) == [("a.txt", "A"), ("b.txt", "A")], changes
        difference = self.runtime.get_git_diff("a.txt", f"{self.folder}/repo")
        assert difference == {"original": "", "modified": "two"}, difference

    def t14_variables_reach_every_part(self) -> None:
        self.runtime.add_env_vars({"FLAVOUR": "sweet-and-salty"})
        assert self.said('echo "$FLAVOUR"') == "sweet-and-salty"
        assert "FLAVOUR" in self.said("cat ~/.bashrc")

    def t20_cells_are_run(self) -> None:
        def cell(code: str, timeout: float = 60) -> Any:
            action = IPythonRunCellAction(code=code)
            action.set_hard_timeout(timeout)
            return self.runtime.run_action(action)

        assert cell("print('hello')").content.startswith("hello\n[Jupyter current working directory:")
        cell("x = 20")
        assert cell("x + 1").content.startswith("21")
        assert "ZeroDivisionError" in cell("1/0").content
        assert "[Execution timed out (1.0 seconds).]" in cell("import time; time.sleep(60)", 1.0).content
        assert cell("import os; print(os.environ['FLAVOUR'])").content.startswith("sweet-and-salty")
        assert cell("import getpass; print(getpass.getuser())").content.startswith(self.user)
        assert cell("print(x)").content.startswith("20")
        assert "[Code executed successfully with no output]" in cell("y = 1").content

    def t21_a_stdio_mcp_server_is_called(self) -> None:
        code = MCP_SERVER.format(python=sys.version_info)
        self.runtime.run_action(FileWriteAction(path="/tmp/mcp_echo.py", content=code))
        server = MCPStdioServerConfig(name="echo", command="python3", args=["/tmp/mcp_echo.py"])
        self.runtime.config.mcp = MCPConfig(stdio_servers=[server])
        action = MCPAction(name="shout", arguments={"text": "hi"})
        observation = asyncio.run(self.runtime.call_tool_mcp(action))
        assert "HI" in observation.content, observation
        # With more than one server, their names come before those of the tools.
        self.runtime.get_mcp_config([MCPStdioServerConfig(name="other", command="python3", args=server.args)])
        for name in ("echo_shout", "other_shout"):
            observation = asyncio.run(
                self.runtime.call_tool_mcp(MCPAction(name=name, arguments={"text": "yo"}))
            )
            assert "YO" in observation.content, observation

    def t22_a_page_is_browsed_clicked_and_photographed(self) -> None:
        click = "document.querySelector('h1').textContent = 'Clicked'"
        page = f'<h1>Seen</h1><button onclick="{click}">Go</button>'
        self.runtime.run_action(FileWriteAction(path=f"{self.folder}/page.html", content=page))
        url = f"file://{self.folder}/page.html"
        observation = self.runtime.run_action(BrowseURLAction(url=url))
        assert "#  Seen" in observation.content, observation
        observation = self.runtime.run_action(BrowseInteractiveAction(browser_actions="click('4')"))
        assert "heading 'Clicked'" in observation.content, observation
        assert observation.screenshot.startswith("data:image/png;base64,"), observation
        assert observation.url == url, observation
        assert not observation.error, observation

    def t23_microagents_of_a_repository_are_loaded(self) -> None:
        agent = "---\nname: n\ntype: knowledge\nagent: CodeActAgent\ntriggers:\n- test\n---\n\nGuidelines"
        folder = f"{self.folder}/project/.openhands/microagents"
        for name, content in (("knowledge/known.md", agent), ("repo.md", "Instructions")):
            self.runtime.run_action(FileWriteAction(path=f"{folder}/{name}", content=content))
        found = self.runtime.get_microagents_from_selected_repo("somebody/project")
        assert {"knowledge/known", "repo"} <= {each.name for each in found}, found

    def t24_a_setup_script_is_run_for_as_long_as_it_takes(self) -> None:
        script = FileWriteAction(path=".openhands/setup.sh", content="sleep 2; export SET=up; touch made")
        self.runtime.run_action(script)
        self.runtime.maybe_run_setup_script()
        assert self.said("ls made && echo $SET") == "made\nup"

    def t30_a_shell_that_ends_is_not_the_end(self) -> None:
        self.run("exit 3", timeout=10)
        assert self.said("echo back") == "back"

    def t31_two_hundred_commands_lose_nothing(self) -> None:
        for number in range(200):
            assert self.said(f"echo token_{number}") == f"token_{number}"


# A server in a page, so that the base image needs nothing but Python.
MCP_SERVER = """import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    result = {{}}
    if asked["method"] == "initialize":
        result = {{"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {{"tools": {{}}}},
                  "serverInfo": {{"name": "echo", "version": "1"}}}}
    elif asked["method"] == "tools/list":
        schema = {{"type": "object", "properties": {{"text": {{"type": "string"}}}}, "required": ["text"]}}
        result = {{"tools": [{{"name": "shout", "description": "Louder", "inputSchema": schema}}]}}
    elif asked["method"] == "tools/call":
        said = asked["params"]["arguments"]["text"].upper()
        result = {{"content": [{{"type": "text", "text": said}}]}}
    if "id" in asked:
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": result}}), flush=True)
"""


def configuration(folder: str) -> dict[str, Any]:
    """What every runtime is made of, with the default folder for its own files out of the way."""
    config = OpenHandsConfig()
    config.workspace_mount_path_in_sandbox = folder
    config.enable_browser = True
    config.file_store, config.file_store_path = "memory", tempfile.mkdtemp()
    store = get_file_store(config.file_store, config.file_store_path)
    return {
        "config": config,
        "event_stream": EventStream("test", store),
        "llm_registry": LLMRegistry(config),
        "sid": f"graftbox-{os.getpid()}",
        "plugins": [AgentSkillsRequirement(), JupyterRequirement()],
    }


def main(kind: str, *words: str) -> None:
    if kind == "connect":
        url, key, folder, user = words
        runtime: Any = Connected(url, key, **configuration(folder))
    else:
        image, user = words
        # A folder of this machine, which belongs to whoever runs this, not to the sandbox's user.
        folder, mounted = "/workspace", tempfile.mkdtemp(dir="/tmp")
        parts = configuration(folder)
        parts["config"].sandbox.runtime_container_image = image
        parts["config"].run_as_openhands = user == "openhands"
        parts["config"].sandbox.volumes = f"{mounted}:{folder}:rw"
        runtime = DockerRuntime(**parts)
    try:
        asyncio.run(runtime.connect())
        for name, step in Scenario(runtime, folder, user).steps():
            wrong = ""
            try:
                step()
            except Exception:
                wrong = traceback.format_exc(limit=-3)
            print(json.dumps({"step": name, "wrong": wrong}), flush=True)
    finally:
        runtime.close()
        if kind == "docker":
            shutil.rmtree(mounted)


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Threads of theirs would keep the process for a while.
    sys.stdout.flush()
    os._exit(0)
