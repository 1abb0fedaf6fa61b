"""Sandboxes as containers, through the Docker Engine API (v1.41) over its socket; podman speaks it too."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from graftbox.errors import NotFoundError, TransportError, UnsupportedError, UsageError
from graftbox.sandbox.engines import no_mount
from graftbox.sandbox.sockets import listens
from graftbox.sandbox.spec import (
    GUEST_PORT,
    GUEST_SOCKET,
    GUEST_SOCKET_FOLDER,
    IMAGE_LABEL,
    LABEL,
    SERVER_COMMAND,
    SOCKET_LABEL,
    EngineImage,
    Network,
    Sandbox,
    SandboxSpec,
    loopback_port,
    server_variables,
)
from graftbox.store import Store, storage_errors

DEFAULT_HOST = "unix:///var/run/docker.sock"
API = "v1.41"
PORT_LABEL = "io.graftbox.sandbox.port"
"""The port of a sandbox in the host's network."""
REFUSALS = (400, 403, 404, 409, 500)


class DockerEngine:
    """One daemon; ``host`` is what DOCKER_HOST would say."""

    name = "docker"

    def __init__(self, store: Store, host: str | None = None) -> None:
        self._store = store
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self._http = _connection(self.host)

    def limits(self) -> dict[str, Any]:
        """Further parts of ``HostConfig``: limits on resources."""
        return {}

    def close(self) -> None:
        self._http.close()

    def running(self) -> bool:
        """Whether the daemon answers."""
        if self.host.startswith("unix://") and not listens(self.host.removeprefix("unix://")):
            return False
        try:
            return self._http.get("/_ping", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def has_image(self, name: str) -> bool:
        return self._ask("GET", f"/images/{quote(name)}/json", allow=(404,)).status_code == 200

    def pull(self, name: str) -> None:
        """Lets the engine fetch an image from its registry, with the credentials of the user's own login."""
        reference = name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
        with (
            self._in_words(),
            self._http.stream(
                "POST",
                f"/{API}/images/create",
                params={"fromImage": reference},
                headers=_registry_login(reference),
                timeout=None,
            ) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise NotFoundError(f"{self.name} cannot pull {reference}: {_message(answer)}")
            for line in answer.iter_lines():
                if "error" in (event := json.loads(line or "{}")):
                    raise NotFoundError(f"{self.name} cannot pull {reference}: {event['error']}")

    def load(self, archive: Path, name: str) -> None:
        """Adds the image in an archive file under ``name`` (``repository:tag``)."""

        def chunks() -> Iterator[bytes]:
            with archive.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    yield chunk

        headers = {"Content-Type": "application/x-tar"}
        with self._in_words():
            answer = self._http.post(f"/{API}/images/load", content=chunks(), headers=headers, timeout=None)
        if answer.status_code != 200 or '"error"' in answer.text:
            raise TransportError(f"{self.name} cannot load an image: {_message(answer)}")
        # Podman reads such files as OCI archives and makes names of its own.
        found = re.search(r"Loaded image[^:]*: *([^\s\"\\,]+)", answer.text)
        if found and found[1] != name:
            repository, _, tag = name.rpartition(":")
            self._ask("POST", f"/images/{quote(found[1])}/tag", params={"repo": repository, "tag": tag})
            if not found[1].startswith("sha256:"):
                self._ask("DELETE", f"/images/{quote(found[1])}", allow=(404, 409))

    def start(self, spec: SandboxSpec) -> Sandbox:
        if not isinstance(spec.base, EngineImage):
            raise UsageError(f"{self.name} runs images that it has, not folders.")
        if not _is_here(self.host):
            raise UnsupportedError(
                f"{self.name} at {self.host} is another machine, and a sandbox's port is open to the machine "
                "that it runs on only. Run graftbox there, or use --engine embedded."
            )
        if spec.network is Network.NONE:
            self._make_socket_folder(spec.name)
        created = False
        try:
            body = container(spec, spec.base, self._socket_folder(spec.name))
            body["HostConfig"] |= self.limits()
            answer = self._ask(
                "POST",
                "/containers/create",
                json=body,
                params={"name": spec.name},
                allow=(400, 404, 409, 500),
            )
            if answer.status_code != 201:
                raise self._refusal(spec, answer)
            created = True
            answer = self._ask("POST", f"/containers/{spec.name}/start", allow=REFUSALS)
            if answer.status_code >= 400:
                raise self._refusal(spec, answer)
            found = self.find(spec.name)
            if found is None:
                raise TransportError(f"{self.name} lost the sandbox {spec.name!r} right after its start.")
            return found
        except BaseException:
            if created:
                self._ask(
                    "DELETE", f"/containers/{spec.name}", params={"force": "1", "v": "1"}, allow=(404, 409)
                )
            self._forget(spec.name)
            raise

    def sandboxes(self) -> list[Sandbox]:
        listed = self._ask(
            "GET", "/containers/json", params={"all": "1", "filters": json.dumps({"label": [LABEL]})}
        ).json()
        found = (self.find(item["Labels"][LABEL]) for item in listed)
        return sorted((sandbox for sandbox in found if sandbox is not None), key=lambda sandbox: sandbox.name)

    def find(self, name: str) -> Sandbox | None:
        answer = self._ask("GET", f"/containers/{quote(name, safe='')}/json", allow=(404,))
        if answer.status_code == 404:
            return None
        details = answer.json()
        if (details["Config"].get("Labels") or {}).get(LABEL) != name:
            return None
        return sandbox_of(details, self.name)

    def start_again(self, name: str) -> Sandbox:
        self._known(name)
        answer = self._ask("POST", f"/containers/{name}/start", allow=REFUSALS)
        if answer.status_code >= 400:
            raise TransportError(f"{self.name} cannot start the sandbox {name!r} again: {_message(answer)}")
        return self._known(name)

    def stop(self, name: str, grace: float = 10) -> None:
        self._known(name)
        self._ask("POST", f"/containers/{name}/stop", params={"t": str(int(grace))}, timeout=grace + 30)

    def remove(self, name: str, *, force: bool = False) -> None:
        if self._known(name).status == "running" and not force:
            raise UsageError(f"The sandbox {name!r} is running; stop it first or use `rm -f`.")
        self._delete(name, force=force)
        self._forget(name)

    def logs(self, name: str, *, follow: bool = False) -> Iterator[bytes]:
        self._known(name)
        wanted = {"stdout": "1", "stderr": "1", "follow": str(int(follow))}
        path, timeout = f"/{API}/containers/{name}/logs", None if follow else 30
        with (
            self._in_words(),
            self._http.stream("GET", path, params=wanted, timeout=timeout) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise TransportError(f"{self.name} gives no log of {name!r}: {_message(answer)}")
            yield from unframed(answer.iter_bytes())

    def _delete(self, name: str, *, force: bool) -> None:
        wanted = {"force": str(int(force)), "v": "1"}
        self._ask("DELETE", f"/containers/{name}", params=wanted, allow=(404, 409))

    def _known(self, name: str) -> Sandbox:
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"There is no sandbox {name!r}; `graftbox ps` lists those that there are.")
        return found

    def _socket_folder(self, name: str) -> Path:
        return self._store.root / "sockets" / name / "run"

    def _make_socket_folder(self, name: str) -> None:
        if self.find(name) is not None:
            raise self._taken(name)
        self._forget(name)
        folder = self._socket_folder(name)
        with storage_errors(self._store.root):
            folder.parent.mkdir(mode=0o700, parents=True)
            folder.mkdir()
            folder.chmod(0o777)  # the sandbox's user makes its socket here; the parent is closed

    def _forget(self, name: str) -> None:
        shutil.rmtree(self._store.root / "sockets" / name, ignore_errors=True)

    def _taken(self, name: str) -> UsageError:
        return UsageError(f"{self.name} has a container named {name!r} already; choose another --name.")

    def _refusal(self, spec: SandboxSpec, answer: httpx2.Response) -> Exception:
        """What the daemon's refusal means for the user."""
        message = _message(answer)
        if "bind source path" in message or "statfs" in message or "not shared" in message:
            return no_mount(f"{self.name} at {self.host} cannot see the folder {spec.tree}: {message}.")
        if re.search("container name .* already in use", message):
            return self._taken(spec.name)
        if answer.status_code == 404:
            return NotFoundError(f"{self.name} has no image {spec.label} ({message}); pull it first.")
        return TransportError(f"{self.name} cannot start the sandbox: {message}")

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            raise TransportError(
                f"{self.name} at {self.host} could not be reached ({error}); start it, set DOCKER_HOST, "
                "or use --engine embedded."
            ) from error

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        allow: tuple[int, ...] = (),
        timeout: float = 60,
    ) -> httpx2.Response:
        with self._in_words():
            answer = self._http.request(
                method, f"/{API}{path}", params=dict(params or {}), json=json, timeout=timeout
            )
        if answer.status_code >= 400 and answer.status_code not in allow:
            raise TransportError(f"{self.name} refused {method} {path}: {_message(answer)}")
        return answer


def container(spec: SandboxSpec, image: EngineImage, socket_folder: Path) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    on_host = spec.network is Network.HOST
    port = loopback_port(spec.port) if on_host else GUEST_PORT
    told = server_variables(spec, port, loopback=on_host)
    labels = {LABEL: spec.name, IMAGE_LABEL: spec.label}
    mounts = [_bind(volume.source, volume.target, volume.read_only) for volume in spec.volumes]
    if spec.tree is not None:
        mounts.append(_bind(spec.tree / "openhands", "/openhands", True))
    host: dict[str, Any] = {
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": dict.fromkeys(spec.tmpfs, ""),
        "CapDrop": list(spec.cap_drop),
        "SecurityOpt": ["no-new-privileges"] if spec.no_new_privileges else [],
        "NetworkMode": (spec.network or Network.BRIDGE).value,
        "Mounts": mounts,
    }
    body: dict[str, Any] = {
        "Image": image.name,
        "Env": [f"{name}={value}" for name, value in (*spec.env, *told)],
        "Labels": labels,
        "HostConfig": host,
    }
    if spec.tree is not None:
        body |= {"Entrypoint": list(SERVER_COMMAND), "Cmd": []}
    if spec.user is not None:
        body["User"] = spec.user
    if spec.working_dir is not None:
        body["WorkingDir"] = spec.working_dir
    if spec.network is Network.NONE:
        mounts.append(_bind(socket_folder, GUEST_SOCKET_FOLDER, False))
        labels[SOCKET_LABEL] = str(socket_folder / Path(GUEST_SOCKET).name)
    elif on_host:
        labels[PORT_LABEL] = str(port)
    else:
        body["ExposedPorts"] = {f"{GUEST_PORT}/tcp": {}}
        binding = {"HostIp": "127.0.0.1", "HostPort": str(spec.port or "")}
        host["PortBindings"] = {f"{GUEST_PORT}/tcp": [binding]}
    return body


def _bind(source: Path, target: str, read_only: bool) -> dict[str, Any]:
    # A "Mounts" entry fails for a missing source, where "Binds" would make an empty folder.
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def sandbox_of(details: Mapping[str, Any], engine: str) -> Sandbox:
    """From ``GET /containers/<name>/json``."""
    config = details["Config"]
    labels = config["Labels"]
    runs = bool(details["State"]["Running"])
    variables = dict(item.partition("=")[::2] for item in config.get("Env") or ())
    url = ""
    if runs and SOCKET_LABEL in labels:
        url = f"unix://{labels[SOCKET_LABEL]}"
    elif runs:
        published = (details["NetworkSettings"].get("Ports") or {}).get(f"{GUEST_PORT}/tcp") or [{}]
        port = labels.get(PORT_LABEL) or published[0].get("HostPort")
        url = f"http://127.0.0.1:{port}"
    return Sandbox(
        name=labels[LABEL],
        engine=engine,
        image=labels.get(IMAGE_LABEL, ""),
        status="running" if runs else "exited",
        url=url,
        key=variables.get("SESSION_API_KEY", ""),
    )


def unframed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The output in a log stream: frames of 8 bytes (stream, 3 zeros, big-endian length) and the data."""
    pending = b""
    for chunk in chunks:
        pending += chunk
        while len(pending) >= 8:
            size = int.from_bytes(pending[4:8], "big")
            if len(pending) < 8 + size:
                break
            yield pending[8 : 8 + size]
            pending = pending[8 + size :]


def _is_here(host: str) -> bool:
    """Whether a DOCKER_HOST is this machine's."""
    name = urlsplit(host).hostname if not host.startswith("unix:") else None
    return name is None or name in {"localhost", "::1"} or name.startswith("127.")


def _connection(host: str) -> httpx2.Client:
    """A connection pool to a DOCKER_HOST; nothing is sent yet. None of these use TLS, so no certificates."""
    scheme = urlsplit(host).scheme
    if scheme == "unix":
        transport = httpx2.HTTPTransport(uds=host.removeprefix("unix://"), verify=False)
        return httpx2.Client(transport=transport, base_url="http://engine", trust_env=False)
    if scheme in {"tcp", "http"} and not os.environ.get("DOCKER_TLS_VERIFY"):
        address = f"http://{urlsplit(host).netloc}"
        return httpx2.Client(base_url=address, trust_env=False, verify=False)
    raise UnsupportedError(
        f"DOCKER_HOST {host!r} needs a transport that graftbox does not speak (unix:// and plain tcp:// it "
        "does); forward the daemon's socket to this machine, or use --engine embedded."
    )


def _registry_login(reference: str) -> dict[str, str]:
    """The header with the login that `docker login` saved for this image's registry, if it did."""
    first, slash, _ = reference.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    registry = first if named else "https://index.docker.io/v1/"
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        saved = json.loads((folder / "config.json").read_text())["auths"][registry]["auth"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    import base64

    user, _, password = base64.b64decode(saved).decode().partition(":")
    login = json.dumps({"username": user, "password": password, "serveraddress": registry})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(login.encode()).decode()}


def _message(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["message"]).strip().rstrip(".")
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()[:300]
