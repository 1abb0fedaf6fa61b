"""Builds real bundles and runs what is in them in a root with nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle.build import build
from graftbox.bundle.elf import is_elf
from graftbox.bundle.lock import Lock
from graftbox.bundle.native import architecture
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.tools import bubblewrap
from graftbox.bundle.tree import unpacked
from graftbox.bundle.verify import verify
from graftbox.store import Store

NATIVE = architecture()
OTHER = {"amd64": "arm64", "arm64": "amd64"}[NATIVE]
EMULATORS = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}
SOURCE = Path(__file__).parents[2] / "src"
STRICT = os.environ.get("GRAFTBOX_TEST_STRICT") == "1"
# Browsers and editors take a minute to build, by the same code.
FEW = ("jupyter", "mcp", *(("browser", "vscode") if os.environ.get("GRAFTBOX_LONG_TESTS") == "1" else ()))
CHOSEN = [word for name in FEW for word in ("--component", name)]
NOWHERE = "http://127.0.0.1:9/none"
HOSTILE = {
    "GCONV_PATH": "/nope",
    "GIT_EXEC_PATH": "/nope",
    "GIT_TEMPLATE_DIR": "/nope",
    "GLIBC_TUNABLES": "glibc.nope=1",
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "de_DE.UTF-8",
    "LD_AUDIT": "/nope/audit.so",
    "LD_LIBRARY_PATH": "/nope",
    "LD_PRELOAD": "/nope/preload.so",
    "LOCPATH": "/nope",
    "OPENSSL_CONF": "/nope/openssl.cnf",
    "PYTHONHOME": "/nope",
    "PYTHONPATH": "/nope",
    "SSL_CERT_DIR": "/nope",
    "SSL_CERT_FILE": "/nope/ca.pem",
    "TERM": "strange",
    "TERMINFO": "/nope",
}
PROGRAMS = {
    "bin/action-execution-server --help": "usage: action-execution-server",
    "bin/oh-bash --version": "GNU bash, version 5",
    "bin/oh-git --version": "git version 2",
    "bin/oh-git --exec-path": "/openhands",
    "bin/oh-python --version": "Python 3.13",
    "bin/oh-rg --version": "ripgrep 14",
    "bin/oh-tmux -V": "tmux 3.5a",
    "micromamba/bin/micromamba run -n openhands poetry run python -u "
    "-m openhands.runtime.action_execution_server --help": "usage: action-execution-server",
    "poetry/bin/poetry run python --version": "Python 3.13",
}


@pytest.fixture(scope="module")
def store() -> Store:
    """The cache that this run uses anyway, so that packages are downloaded once."""
    return Store()


@pytest.fixture(scope="module")
def tree(store: Store) -> Path:
    return unpacked(build(store=store), store)


@pytest.fixture(scope="module")
def other_tree(store: Store) -> Path:
    return unpacked(build(arch=OTHER, store=store), store)


@pytest.fixture
def seeded(tmp_path: Path, store: Store, tree: Path) -> Iterator[Path]:
    """An own cache folder in which the locked packages are, but nothing that was made of them."""
    with seed(tmp_path / "cache", store) as folder:
        yield folder


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, store: Store, tree: Path) -> Iterator[Path]:
    """Such a folder in which the bundle was built."""
    with seed(tmp_path_factory.mktemp("made") / "cache", store) as folder:
        built(folder, *CHOSEN)
        yield folder


@pytest.fixture
def made(tmp_path: Path, made_once: Path) -> Iterator[Path]:
    """An own cache folder with a built bundle; its files may be shared, so none may be written in place."""
    folder = tmp_path / "made"
    shutil.copytree(made_once, folder, copy_function=os.link, symlinks=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def seed(folder: Path, store: Store) -> Iterator[Path]:
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    lock = Lock.of(Recipe.builtin())
    for entry in lock.entries(NATIVE, ("core", *FEW)):
        os.link(store.blob_path(f"sha256:{entry.sha256}"), blobs / entry.sha256) if _same_disk(
            store.root, folder
        ) else shutil.copy(store.blob_path(f"sha256:{entry.sha256}"), blobs / entry.sha256)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _same_disk(one: Path, two: Path) -> bool:
    return one.stat().st_dev == two.stat().st_dev


def environment(cache: Path, **more: str) -> dict[str, str]:
    """For a graftbox that has this cache and no address to fetch from."""
    nowhere = {
        f"GRAFTBOX_{name}": NOWHERE for name in ("DEBIAN_MIRROR", "SECURITY_MIRROR", "SNAPSHOT", "INDEX_URL")
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "GRAFTBOX_LOCKS") if name in os.environ}
    return kept | nowhere | {"GRAFTBOX_CACHE": str(cache)} | more


GRAFTBOX = [sys.executable, "-c", "from graftbox.cli.app import main; main()"]


def graftbox(cache: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = environment(cache, **options.pop("env", {}))
    prefix = options.pop("prefix", [])
    return subprocess.run(
        [*prefix, *GRAFTBOX, *arguments], env=env, capture_output=True, text=True, **options
    )


def built(cache: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    result = graftbox(cache, "bundle", "build", "--json", *arguments, **options)
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def boxed(store: Store, tree: Path, *command: str, env: dict[str, str] | None = None) -> str:
    """What a command says in a root with nothing but /openhands, /dev, /proc and an empty /tmp."""
    emulator: list[str] = []
    extra: list[str] = []
    if "aarch64" in _file_type(tree) and NATIVE == "amd64":
        qemu = shutil.which(EMULATORS["arm64"])
        if qemu is None:
            message = f"missing on this machine: {EMULATORS['arm64']} (package qemu-user-static)"
            pytest.fail(message) if STRICT else pytest.skip(message)
        extra, emulator = ["--ro-bind", str(qemu), "/qemu"], ["/qemu"]
    variables = [word for name, value in (env or {}).items() for word in ("--setenv", name, value)]
    result = subprocess.run(
        [
            *(*bubblewrap(store), "--unshare-all", "--ro-bind", str(tree / "openhands"), "/openhands"),
            *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp", *extra),
            *("--clearenv", *variables, *emulator, *command),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def _file_type(tree: Path) -> str:
    machine = (tree / "openhands/libexec/dash").read_bytes()[18]
    return {62: "x86_64", 183: "aarch64"}[machine]


def elf_programs(tree: Path) -> list[str]:
    """Every ELF file of the bundle that can be started, except static ones."""
    folder = tree / "openhands" / "libexec"
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [f"/openhands/libexec/{p.relative_to(folder)}" for p in paths if is_elf(p.read_bytes())]


@pytest.mark.parametrize("hostile", [False, True], ids=["empty-environment", "hostile-environment"])
@pytest.mark.parametrize("command", PROGRAMS)
def test_a_program_runs_in_an_empty_root(store: Store, tree: Path, command: str, hostile: bool) -> None:
    output = boxed(store, tree, *f"/openhands/{command}".split(), env=HOSTILE if hostile else {})
    assert PROGRAMS[command] in output
    # Only bash tells its user that the locale is not there.
    assert "/nope" not in output
    assert "GLIBC_TUNABLES" not in output


def test_every_program_maps_only_the_bundles_libraries(store: Store, tree: Path) -> None:
    programs = elf_programs(tree)
    assert {"/openhands/libexec/bash", "/openhands/libexec/git-core/git-remote-http"} <= set(programs)
    for program in programs:
        listed = boxed(store, tree, "/openhands/lib/ld.so", "--list", program, env=HOSTILE)
        libraries = [line.split("=>")[-1].split("(")[0].strip() for line in listed.splitlines()]
        assert libraries, program
        for library in libraries:
            assert posixpath.normpath(library).startswith(("/openhands/lib/", "linux-vdso")), listed


def test_every_extension_module_maps_only_the_bundles_libraries(store: Store, tree: Path) -> None:
    program = """
import importlib, os, re, sys
folder = "/openhands/lib/python3.13/lib-dynload"
names = sorted(name.partition(".")[0] for name in os.listdir(folder))
for name in names:
    importlib.import_module(name)
import h11, psutil
foreign = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
print(len(names), sorted(path for path in foreign if not path.startswith("/openhands/")))
"""
    output = boxed(store, tree, "/openhands/libexec/python3.13", "-IBXutf8", "-c", program, env=HOSTILE)
    assert re.fullmatch(r"[3-9]\d \[\]\n", output), output


def test_children_see_the_environment_as_it_was(store: Store, tree: Path) -> None:
    program = "import os, json; print(json.dumps(dict(os.environ)))"
    direct = ["/openhands/libexec/python3.13", "-IBXutf8", "-c", program]
    for env in ({}, HOSTILE):
        # PWD is bubblewrap's.
        assert json.loads(boxed(store, tree, *direct, env=env)) == env | {"PWD": "/tmp"}
    wrapped = json.loads(boxed(store, tree, "/openhands/bin/oh-python", "-c", program, env=HOSTILE))
    dropped = {"SSL_CERT_DIR", "SSL_CERT_FILE"}
    assert wrapped == {k: v for k, v in HOSTILE.items() if k not in dropped} | {"PWD": "/tmp"}


def test_python_finds_scripts_modules_and_certificates(store: Store, tree: Path) -> None:
    script = "mkdir() { :; }; cd /tmp; echo 'import sys, ssl, helper' >main.py; echo 'print(1)' >helper.py; "
    script += "echo 'print(len(ssl.create_default_context().get_ca_certs()) > 100, sys.path[0])' >>main.py; "
    script += "/openhands/bin/oh-python main.py; /openhands/bin/oh-python -m helper"
    output = boxed(store, tree, "/openhands/libexec/dash", "-c", script, env=HOSTILE)
    assert output == "1\nTrue /tmp\n1\n"


def test_git_and_tmux_work_without_a_base(store: Store, tree: Path) -> None:
    script = """
set -e
cd /tmp; git=/openhands/bin/oh-git; tmux="/openhands/bin/oh-tmux -S /tmp/s -f /dev/null"
$git init -q a; cd a; echo ä >ä; $git add .
$git -c user.email=a@example.org -c user.name=A commit -q -m one; $git log --format=%s
[ -d .git/hooks ]
$tmux set -g default-shell /openhands/libexec/bash \\; new -d 'echo hällo; read x'
until $tmux capture-pane -p | /openhands/bin/oh-rg -q hällo; do :; done
$tmux kill-server; echo done
"""
    output = boxed(store, tree, "/openhands/libexec/dash", "-c", script, env=HOSTILE)
    assert output.endswith("one\ndone\n"), output


def test_the_other_architecture_is_built_here_and_runs_emulated(store: Store, other_tree: Path) -> None:
    manifest = build(arch=OTHER, store=store)
    assert verify(manifest, store).problems == ()
    assert manifest.layers[-1] == build(store=store).layers[-1], (
        "the server's bytecode depends on the machine"
    )
    for program, expected in {
        "bash --version": "GNU bash",
        "git --version": "git version",
        "rg --version": "ripgrep",
        "tmux -V": "tmux",
    }.items():
        assert expected in boxed(store, other_tree, *f"/openhands/libexec/{program}".split(), env=HOSTILE)
    code = "import ssl, sqlite3, psutil, h11; print('ok')"
    python = ["/openhands/libexec/python3.13", "-IBXutf8", "-c", code]
    assert boxed(store, other_tree, *python, env=HOSTILE) == "ok\n"


def test_both_architectures_have_the_same_bytecode(tree: Path, other_tree: Path) -> None:
    def bytecode(tree: Path) -> dict[str, bytes]:
        return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*.pyc")}

    one, two = bytecode(tree), bytecode(other_tree)
    different = {path for path in one.keys() | two.keys() if one.get(path) != two.get(path)}
    # Debian's build facts name the architecture.
    assert {path for path in different if "_sysconfigdata" not in path} == set()
    assert len(one) > 500


def another_user(cache: Path) -> list[str]:
    """What runs a command as somebody else who owns ``cache``: nobody, where root may become him."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    readable = [*nobody, sys.executable, "-c", "import graftbox.cli.app"]
    if os.getuid() == 0 and subprocess.run(readable, capture_output=True).returncode == 0:
        for path in (cache, *cache.rglob("*")):
            os.chown(path, 65534, 65534)
        return nobody
    mapped = ["--unshare-user", "--uid", "12345", "--gid", "54321", "--dev-bind", "/", "/"]
    return [*bubblewrap(Store()), *mapped]


def another_date() -> list[str]:
    """What runs a command on a day in 2031."""
    faketime = shutil.which("faketime")
    if faketime is None:
        message = "missing on this machine: faketime (package faketime)"
        pytest.fail(message) if STRICT else pytest.skip(message)
    return [str(faketime), "-f", "@2031-02-03 04:05:06"]


def test_two_builds_differ_in_nothing(seeded: Path, tmp_path: Path, store: Store) -> None:
    first = {layer.name: layer.digest for layer in build(components=FEW, store=store).layers}
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        Path(folder).chmod(0o755)
        other = Path(folder) / "elsewhere"
        shutil.copytree(seeded, other)
        strange = {
            "HOME": folder,
            "TZ": "Asia/Tokyo",
            "LANG": "C",
            "PYTHONHASHSEED": "7",
            "SOURCE_DATE_EPOCH": "1",
        }
        second = built(other, *CHOSEN, env=strange, umask=0o077, cwd="/", prefix=another_user(other))
    later = {"TZ": "America/Lima", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    third = built(seeded, *CHOSEN, env=later, umask=0o002, cwd=tmp_path, prefix=another_date())
    year = [*another_date(), sys.executable, "-c", "import time; print(time.gmtime().tm_year)"]
    assert subprocess.run(year, capture_output=True, text=True).stdout == "2031\n"
    for facts in (second, third):
        assert {layer["name"]: layer["digest"] for layer in facts["components"]} == first


def test_a_second_build_does_nothing(made: Path, store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    second = built(made, *CHOSEN)
    assert {layer["digest"] for layer in second["components"]} == {
        layer.digest for layer in build(components=FEW, store=store).layers
    }
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_an_edit_of_the_server_remakes_its_layer_only(made: Path, tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "src")
    env = {"PYTHONPATH": str(tmp_path / "src")}
    *others, server = built(made, *CHOSEN, env=env)["components"]
    with (tmp_path / "src/graftbox/server/__init__.py").open("a") as stream:
        stream.write("\nEDITED = True\n")
    *again, edited = built(made, *CHOSEN, env=env)["components"]
    assert again == others
    assert edited["digest"] != server["digest"]


def test_the_base_component_alone_is_the_same_layer_and_whole(made: Path) -> None:
    core, *_, server = built(made, *CHOSEN)["components"]
    alone = built(made, "--component", "core")["components"]
    assert alone == [core, server]
    for component in ("core", "jupyter", "mcp"):
        assert graftbox(made, "bundle", "build", "--component", component).returncode == 0
        result = graftbox(made, "bundle", "verify", "--component", component)
        assert result.returncode == 0, result.stdout


def test_two_builds_at_once_share_the_work(seeded: Path) -> None:
    builds = [
        subprocess.Popen(
            [*GRAFTBOX, "bundle", "build", "--component", "core", "--json"],
            env=environment(seeded),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in builds]
    assert [process.returncode for process in builds] == [0, 0], results
    assert len({json.loads(output)["digest"] for output, _ in results}) == 1
    assert sum("packing core" in log for _, log in results) == 1
    assert list((seeded / "tmp").iterdir()) == []


@pytest.mark.parametrize("stage", ["staging", "compiling", "packing"])
def test_ctrl_c_leaves_nothing_half_written(seeded: Path, stage: str) -> None:
    environ = environment(seeded)
    process = subprocess.Popen(
        [*GRAFTBOX, "bundle", "build", "--component", "core"],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(f"{stage} core" in line for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert list((seeded / "tmp").iterdir()) == []
    assert not list((seeded / "bundles").rglob("*.json")) if (seeded / "bundles").exists() else True
    assert graftbox(seeded, "bundle", "build", "--component", "core").returncode == 0
    assert graftbox(seeded, "bundle", "verify", "--component", "core").returncode == 0


def test_a_corrupt_package_is_named_and_nothing_is_kept(seeded: Path) -> None:
    entry = next(e for e in Lock.of(Recipe.builtin()).entries(NATIVE) if e.name == "bash")
    blob = seeded / "blobs" / "sha256" / entry.sha256
    data = blob.read_bytes()
    blob.unlink()  # it may be a link into the shared cache
    blob.write_bytes(data[: len(data) // 2].ljust(len(data)))
    result = graftbox(seeded, "bundle", "build", *CHOSEN)
    assert result.returncode == 1
    assert f"The package bash {entry.version}" in result.stderr
    assert "Traceback" not in result.stderr
    blob.write_bytes(data)
    assert graftbox(seeded, "bundle", "build", "--component", "core").returncode == 0


def test_a_package_that_nobody_has_is_an_error_that_says_what_to_do(seeded: Path) -> None:
    entry = next(e for e in Lock.of(Recipe.builtin()).entries(NATIVE) if e.name == "bash")
    (seeded / "blobs" / "sha256" / entry.sha256).unlink()
    result = graftbox(seeded, "bundle", "build", *CHOSEN)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "graftbox: " in result.stderr.splitlines()[-1]


def within_a_small_disk(folder: Path, megabytes: int, command: Sequence[str]) -> list[str]:
    """The command with a full disk of its own at ``folder``."""
    script = (
        f'mount -t tmpfs -o size={megabytes}m none "$0" && cp -r "$0.seed/." "$0" && shift 0 && exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, str(folder), *command]


@pytest.mark.skipif(os.getuid() != 0, reason="missing on this machine: root, to mount a small disk")
def test_a_full_disk_is_named(seeded: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    shutil.copytree(seeded, tmp_path / "small.seed", copy_function=shutil.copy)
    used = sum(path.stat().st_size for path in seeded.rglob("*") if path.is_file()) // 2**20
    command = within_a_small_disk(small, used + 30, [*GRAFTBOX, "bundle", "build", *CHOSEN])
    result = subprocess.run(command, env=environment(small), capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "No space left" in result.stderr.splitlines()[-1], result.stderr
    assert "Traceback" not in result.stderr


def test_show_and_path_tell_what_was_built(seeded: Path, made: Path) -> None:
    before = json.loads(graftbox(seeded, "bundle", "show", "--json").stdout)
    assert (before["digest"], before["components"]) == (None, [])
    digest = built(made, *CHOSEN)["digest"]
    after = json.loads(graftbox(made, "bundle", "show", *CHOSEN, "--json").stdout)
    assert after["digest"] == digest
    sizes = {layer["name"]: layer["compressed_size"] for layer in after["components"]}
    assert sizes["core"] + sizes["server"] <= 40_000_000
    assert sum(sizes[name] for name in ("core", "jupyter", "mcp", "server")) <= 70_000_000
    assert {"bash", "h11"} <= {package["name"] for package in after["packages"]}
    folder = Path(graftbox(made, "bundle", "path", *CHOSEN).stdout.strip())
    assert (folder / "bin" / "action-execution-server").is_file()


def test_verify_gives_every_problem_a_line(made: Path) -> None:
    core, *_, server = built(made, *CHOSEN)["components"]
    assert "is whole and self-contained" in graftbox(made, "bundle", "verify", *CHOSEN).stdout
    damaged = made / "blobs/sha256" / core["digest"][7:]
    damaged.unlink()
    damaged.write_bytes(b"cut off")
    (made / "blobs/sha256" / server["digest"][7:]).unlink()
    result = graftbox(made, "bundle", "verify", *CHOSEN)
    first, second, summary = result.stdout.splitlines()
    assert (result.returncode, result.stderr) == (1, "")
    assert first.startswith("The layer core is sha256:")
    assert second.startswith("The layer sha256:")
    assert "has 2 problems" in summary
    built(made, *CHOSEN)
    assert graftbox(made, "bundle", "verify", *CHOSEN).returncode == 0
