"""Sandboxes without a daemon: bubblewrap over an image's unpacked files and an overlay.

Each has a folder below the cache: ``state.json`` (its owner's only: the key is in it), ``log``, ``upper``
and ``work`` (what the sandbox changed), or ``rootfs`` (a copy, where overlays are not to be had).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graftbox.errors import ConfigurationError, NotFoundError, TransportError, UnsupportedError, UsageError
from graftbox.sandbox.engines import bubblewrap, namespaces
from graftbox.sandbox.engines.bubblewrap import Places
from graftbox.sandbox.process import ProcessId
from graftbox.sandbox.spec import GUEST_SOCKET, Network, Sandbox, SandboxSpec, UnpackedImage, loopback_port
from graftbox.sandbox.users import User, resolve
from graftbox.store import Store, storage_errors


@dataclass(frozen=True)
class State:
    """What ``state.json`` holds."""

    name: str
    image: str
    url: str
    key: str
    process: ProcessId
    spec: Mapping[str, Any] = field(default_factory=dict)
    """How it was started, as `SandboxSpec.facts` says it."""

    def sandbox(self) -> Sandbox:
        runs = self.process.runs()
        return Sandbox(
            name=self.name,
            engine="embedded",
            image=self.image,
            status="running" if runs else "exited",
            url=self.url if runs else "",
            key=self.key,
        )

    def write(self, path: Path) -> None:
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
        with os.fdopen(handle, "w") as stream:
            json.dump(asdict(self), stream, indent=1)
        Path(temporary).replace(path)

    @classmethod
    def read(cls, path: Path) -> State | None:
        try:
            data = json.loads(path.read_text())
            return cls(**{**data, "process": ProcessId(**data["process"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class EmbeddedEngine:
    """``program`` gives the bubblewrap to run, as the start of a command line; asked only to start one."""

    name = "embedded"

    def __init__(
        self,
        store: Store,
        program: Callable[[], Sequence[str]],
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store = store
        self._program = program
        self._note = note

    def start(self, spec: SandboxSpec) -> Sandbox:
        image = spec.base
        if not isinstance(image, UnpackedImage):
            raise UsageError("The embedded engine runs unpacked images only.")
        places = self._places(spec.name)
        user = resolve(spec.user or image.config.get("User") or "", image.rootfs)
        with self._store.lock(f"sandbox-{spec.name}"), storage_errors(self._store.root):
            if State.read(places.state) is not None:
                raise UsageError(
                    f"A sandbox named {spec.name!r} exists already; `graftbox rm -f {spec.name}` removes it."
                )
            _remove_tree(places.root)
            try:
                return self._start(spec, image, user, places)
            except BaseException:
                _remove_tree(places.root)
                self._forget_lock(spec.name)
                raise

    def _start(self, spec: SandboxSpec, image: UnpackedImage, user: User, places: Places) -> Sandbox:
        places.root.mkdir(mode=0o700, parents=True)
        places.upper.mkdir(mode=0o755)
        places.work.mkdir()
        places.socket_folder.mkdir()
        places.socket_folder.chmod(0o777)  # the sandbox's user makes its socket here; the parent is closed
        places.hosts.write_text(f"127.0.0.1\tlocalhost {spec.name}\n::1\tlocalhost ip6-localhost\n")
        return self._begin(spec, image, user, places)

    def start_again(self, name: str) -> Sandbox:
        with self._store.lock(f"sandbox-{name}"), storage_errors(self._store.root):
            state = self._state(name)
            if state.process.runs():
                return state.sandbox()
            try:
                spec = SandboxSpec.of(state.spec)
            except (KeyError, TypeError, ValueError) as error:
                raise UnsupportedError(
                    f"The sandbox {name!r} is of an older version, which did not note how it was started; "
                    "start a new one with `graftbox run`."
                ) from error
            image, places = spec.base, self._places(name)
            assert isinstance(image, UnpackedImage)
            for folder in (image.rootfs, *([spec.tree] if spec.tree else [])):
                if not self._store.used(folder) and not folder.is_dir():
                    raise NotFoundError(
                        f"What the sandbox {name!r} stands on is no longer in the cache ({folder}); start a "
                        "new one with `graftbox run`."
                    )
            (places.socket_folder / Path(GUEST_SOCKET).name).unlink(missing_ok=True)
            user = resolve(spec.user or image.config.get("User") or "", image.rootfs)
            return self._begin(spec, image, user, places)

    def _begin(self, spec: SandboxSpec, image: UnpackedImage, user: User, places: Places) -> Sandbox:
        """Starts the server over the sandbox's own files, and notes what runs."""
        port = 0 if spec.network is Network.NONE else loopback_port(spec.port)
        try:
            pid = self._launch(spec, image, user, places, port, overlay=not places.copy.exists())
        except _NoOverlayError:
            self._note(
                "this machine allows no overlay mounts here; the sandbox gets its own copy of the files"
            )
            subprocess.run(["cp", "-a", "--reflink=auto", image.rootfs, places.copy], check=True)
            pid = self._launch(spec, image, user, places, port, overlay=False)
        process = ProcessId.of(pid)
        if process is None:
            raise _failure(_text(places.log))
        on_network = spec.network is not Network.NONE
        socket_path = places.socket_folder / Path(GUEST_SOCKET).name
        url = f"http://127.0.0.1:{port}" if on_network else f"unix://{socket_path}"
        state = State(spec.name, spec.label, url, spec.key, process, spec.facts())
        state.write(places.state)
        return state.sandbox()

    def _launch(
        self, spec: SandboxSpec, image: UnpackedImage, user: User, places: Places, port: int, *, overlay: bool
    ) -> int:
        """Starts bubblewrap and returns the pid of the sandbox's first process."""
        mapped = os.geteuid() == 0
        options = bubblewrap.arguments(spec, image, user, places, port, overlay=overlay, mapped=mapped)
        argv = [*self._program()]
        earlier = places.log.stat().st_size if places.log.exists() else 0
        with contextlib.ExitStack() as stack:
            info_read, info_write = os.pipe()
            info = stack.enter_context(os.fdopen(info_read, "rb"))
            close_info = stack.enter_context(os.fdopen(info_write, "wb"))
            secret = stack.enter_context(os.fdopen(os.memfd_create("bwrap-args"), "w+b"))
            handles = [info_write, secret.fileno()]
            if mapped:
                handles.append(stack.enter_context(namespaces.identity()))
                argv += ["--userns", str(handles[-1])]
            secret.write(bubblewrap.nul_separated(options))
            secret.seek(0)
            argv += ["--info-fd", str(info_write), "--args", str(secret.fileno()), "--"]
            argv += bubblewrap.command(spec, image, user, become=mapped)
            log = stack.enter_context(
                os.fdopen(os.open(places.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
            )
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=handles,
                start_new_session=True,
                cwd="/",
                env={"PATH": os.environ.get("PATH", bubblewrap.DEFAULT_PATH)},
                group=user.gid if mapped and user.uid == 0 else None,
                extra_groups=user.groups if mapped else None,
            )
            close_info.close()
            answer = info.read()
        pid = int(json.loads(answer)["child-pid"]) if answer else 0
        if not answer or not _executed(pid, process):
            process.wait(10)
            raise _failure(_text(places.log, earlier))
        process.returncode = 0  # not our child for long: `ProcessId` tells it apart from here on
        return pid

    def sandboxes(self) -> list[Sandbox]:
        folder = self._store.root / "sandboxes"
        if not folder.is_dir():
            return []
        states = (State.read(path / "state.json") for path in sorted(folder.iterdir()))
        return [state.sandbox() for state in states if state is not None]

    def find(self, name: str) -> Sandbox | None:
        state = State.read(self._places(name).state)
        return None if state is None else state.sandbox()

    def stop(self, name: str, grace: float = 10) -> None:
        self._state(name).process.end(grace)

    def remove(self, name: str, *, force: bool = False) -> None:
        with self._store.lock(f"sandbox-{name}"):
            state = self._state(name)
            if state.process.runs():
                if not force:
                    raise UsageError(f"The sandbox {name!r} is running; stop it first or use `rm -f`.")
                state.process.end(0)
            _remove_tree(self._places(name).root)
            self._forget_lock(name)

    def logs(self, name: str, *, follow: bool = False) -> Iterator[bytes]:
        state = self._state(name)
        with self._places(name).log.open("rb") as stream:
            while True:
                runs = state.process.runs()
                while piece := stream.read(1 << 16):
                    yield piece
                if not follow or not runs:
                    return
                time.sleep(0.1)

    def _places(self, name: str) -> Places:
        return Places(self._store.root / "sandboxes" / name)

    def _forget_lock(self, name: str) -> None:
        (self._store.root / "locks" / f"sandbox-{name}.lock").unlink(missing_ok=True)

    def _state(self, name: str) -> State:
        state = State.read(self._places(name).state)
        if state is None:
            raise NotFoundError(f"There is no sandbox {name!r}; `graftbox ps` lists those that there are.")
        return state


def _executed(pid: int, bwrap: subprocess.Popen[bytes]) -> bool:
    """Waits the few milliseconds in which bubblewrap mounts; False if it gave up before the command ran.

    It tells the pid before it mounts, and gives no sign afterwards but the process's new executable.
    """
    try:
        before = Path(f"/proc/{bwrap.pid}/exe").readlink()
        while bwrap.poll() is None:
            with contextlib.suppress(PermissionError):
                if Path(f"/proc/{pid}/exe").readlink() != before:
                    return True
            time.sleep(0.0005)
    except FileNotFoundError:
        pass
    return False


class _NoOverlayError(UnsupportedError):
    """Overlay mounts are refused here."""


def _failure(text: str) -> UnsupportedError | TransportError:
    """What a sandbox that ended at once has said: bubblewrap's last words, or its server's."""
    if "bwrap: " not in text:
        return TransportError(f"The sandbox ended before its server answered; it said:\n{text.strip()}")
    if "overlay" in text:
        return _NoOverlayError(f"This machine allows no overlay mounts here: {text}")
    if any(word in text for word in ("namespace", "uid map", "Operation not permitted", "setns")):
        who = "root" if os.geteuid() == 0 else "an ordinary user"
        return UnsupportedError(namespaces.FORBIDDEN.format(who=who, why=text.strip()))
    return TransportError(f"bubblewrap could not start the sandbox: {text.strip()}")


def _text(path: Path, start: int = 0) -> str:
    try:
        return path.read_bytes()[start:].decode(errors="replace")[-2000:]
    except OSError:
        return ""


def _remove_tree(folder: Path) -> None:
    """Deletes all of it, folders that its owner may not enter (an overlay's work folder) included."""
    if os.geteuid() != 0 and folder.is_dir():
        for path, names, _ in os.walk(folder):
            for name in names:
                child = Path(path, name)
                if not child.is_symlink():
                    child.chmod(0o700)
    if folder.exists():
        shutil.rmtree(folder)


def system_program() -> list[str] | None:
    """This machine's bubblewrap (``$GRAFTBOX_BWRAP``, else the one on PATH), if it knows overlays."""
    chosen = os.environ.get("GRAFTBOX_BWRAP")
    program = chosen or shutil.which("bwrap")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "--help"], capture_output=True, text=True)
    except OSError as error:
        if chosen:
            raise ConfigurationError(
                f"GRAFTBOX_BWRAP is {chosen}, which cannot be run ({error.strerror}); name a bubblewrap, or "
                "unset it."
            ) from error
        return None
    if "--overlay-src" in done.stdout + done.stderr:
        return [program]
    if chosen:
        print(f"graftbox: {chosen} has no --overlay; another bubblewrap is used", file=sys.stderr)
    return None
