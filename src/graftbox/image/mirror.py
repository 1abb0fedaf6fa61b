"""A registry that grafts what is pulled through it: an ASGI application over upstream registries.

Only pulling is served (distribution-spec 1.1, "Pull" and "Content Discovery"). A tag stands for the runtime
image of what the same tag is upstream; a digest is known only if it is of such an image, so that nobody gets
other bytes than they asked for. Base layers come from upstream, by redirection where anybody may fetch
them, else streamed; no credentials ever reach a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from graftbox.errors import GraftboxError, UsageError
from graftbox.image.blob import Blob, Source, file_chunks
from graftbox.image.graft import Bundle, Options
from graftbox.image.manifest import OCI_INDEX, Descriptor, Document, serialise
from graftbox.image.place import make_plan
from graftbox.image.reference import DOCKER_HUB, image_name
from graftbox.image.retry import BrokenError
from graftbox.image.serving import (
    JSON,
    BrokenOffError,
    Message,
    Receive,
    RefusedError,
    Request,
    Send,
    cut,
    identity,
)
from graftbox.image.shelf import Grafted, Item, Kind, Shelf
from graftbox.image.transports import is_loopback
from graftbox.image.upstream import Repository, Upstream
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.image.connection import Registries

REPOSITORIES = 2000
"""How many repositories are kept in memory, each with its manifests (some kB)."""
GRAFTS, STREAMS = 8, 32
"""How many images are grafted, and base layers streamed, at once."""

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<last>[^/]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}(\..*)?")


@dataclass(frozen=True)
class Settings:
    """What a mirror's owner chooses."""

    upstreams: tuple[Upstream, ...]
    user: str | None = None
    keep_entrypoint: bool = False
    redirect: bool = True
    """Send clients to upstream for base layers that anybody may fetch; else stream all of them."""
    local: bool = True
    """All clients are on this machine, so that loopback addresses mean the same to them."""
    authority: Path | None = None
    """A further certificate authority of the upstreams."""
    lifetime: float = 30.0
    """Seconds for which a tag is not looked up again upstream."""


@dataclass
class _Served:
    """One repository while it is in memory. Its shelf and connection are used by worker threads only."""

    remote: Repository
    shelf: Shelf
    fresh: dict[str, tuple[float, Grafted]] = field(default_factory=dict)
    pending: dict[str, asyncio.Task[Grafted]] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)


class Mirror:
    """The application. ``bundles`` are by architecture; ``note`` is told what happens, line by line."""

    def __init__(
        self,
        settings: Settings,
        bundles: Mapping[str, Bundle],
        store: Store,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.settings, self.bundles, self.store, self.note = settings, dict(bundles), store, note
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._served: OrderedDict[tuple[str, str], _Served] = OrderedDict()
        self._registries = _registries(settings)
        self._grafts = ThreadPoolExecutor(GRAFTS, "graft")
        self._streams = ThreadPoolExecutor(STREAMS, "stream")
        context = {arch: bundle.digest for arch, bundle in sorted(self.bundles.items())}
        versions = sorted({bundle.version for bundle in self.bundles.values()})
        self._context = serialise([context, versions, settings.user, settings.keep_entrypoint]).decode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        query = dict(parse_qsl(scope["query_string"].decode("ascii", "replace")))
        request = Request(scope["method"], scope["path"], dict(scope["headers"]), query, receive, send)
        try:
            await self._route(request, request.path)
        except RefusedError as error:
            await request.refuse(error)
        except BrokenOffError as error:
            self.note(f"{request.path} broke off: {error}")
        except GraftboxError as error:
            self.note(f"{request.path}: {error}")
            await request.refuse(RefusedError.of(error))

    async def _route(self, request: Request, path: str) -> None:
        if request.method not in {"GET", "HEAD"}:
            raise RefusedError(405, "UNSUPPORTED", "This mirror is read-only: push to the registry itself.")
        called = request.headers.get(b"host", b"localhost").decode("latin-1")
        if self.settings.local and not is_loopback(called):
            # A web page whose name was made to mean this machine could read private images otherwise.
            raise RefusedError(
                403, "DENIED", f"This mirror is not {called}: it answers on loopback names only."
            )
        if path in {"/v2", "/v2/"}:
            await request.answer(200, {"Content-Type": JSON}, b"{}")
            return
        match = _ROUTE.fullmatch(path)
        if match is None:
            raise RefusedError(404, "UNSUPPORTED", f"A mirror has nothing at {path}: it serves pulls only.")
        kind, last = match["kind"], match["last"]
        if kind == "referrers":
            # Signatures and attestations are of the base: a runtime image has none here.
            empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
            await request.answer(200, {"Content-Type": OCI_INDEX}, serialise(empty))
            return
        served = await self._repository(match["name"], request.query.get("ns"))
        if kind == "manifests":
            await self._manifest(request, served, last)
        elif kind == "blobs":
            await self._blob(request, served, last)
        elif last == "list":
            await self._tags(request, served, match["name"])
        else:
            raise RefusedError(404, "UNSUPPORTED", f"A mirror has nothing at {path}.")

    def _upstream(self, name: str, namespace: str | None) -> tuple[Upstream, str]:
        """Which upstream is meant, and its repository: by containerd's ``ns``, by the first part of the
        name, or Docker Hub, whose mirrors Docker asks without naming it.
        """
        if namespace is not None and (found := self._upstreams.get(namespace)):
            return found, name
        first, slash, rest = name.partition("/")
        if slash and (found := self._upstreams.get(first)):
            return found, rest
        hub = self._upstreams.get(DOCKER_HUB)
        if namespace is None and hub and not (slash and set(first) & set(".:")):
            return hub, name
        raise RefusedError(
            403,
            "DENIED",
            f"{namespace or first} is not among this mirror's upstreams ({', '.join(self._upstreams)}); "
            f"start it with --upstream {namespace or first} to pull from there.",
        )

    async def _repository(self, name: str, namespace: str | None) -> _Served:
        upstream, rest = self._upstream(name, namespace)
        path = upstream.repository(rest)
        key = (upstream.name, path)
        if key not in self._served:
            try:
                image_name(f"h.test/{path}")
            except UsageError as error:
                raise RefusedError(400, "NAME_INVALID", f"{name!r} is no name of a repository.") from error
            served = await self._in_thread(self._open, upstream, path)
            self._served.setdefault(key, served)
            while len(self._served) > REPOSITORIES:
                self._served.popitem(last=False)
        self._served.move_to_end(key)
        return self._served[key]

    def _open(self, upstream: Upstream, path: str) -> _Served:
        # What the same repository was grafted from matters too: an alias may be given another address.
        where = f"{upstream.name} {upstream.host}/{upstream.prefix} {path}"
        return _Served(Repository(upstream, path, self._registries), Shelf(self.store, where, self._context))

    async def _in_thread(self, step: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._grafts, step, *arguments)

    # --- manifests ---------------------------------------------------------------------------------------

    async def _manifest(self, request: Request, served: _Served, selector: str) -> None:
        if _DIGEST.fullmatch(selector):
            digest = selector
        elif not _TAG.fullmatch(selector) or _REFERRERS_TAG.fullmatch(selector):
            raise RefusedError(404, "MANIFEST_UNKNOWN", f"There is no image {selector!r}.")
        else:
            digest = (await self._tag(served, selector)).top
        item = served.shelf.items.get(digest)
        if item is None or item.kind is not Kind.MANIFEST:
            raise RefusedError(
                404,
                "MANIFEST_UNKNOWN",
                f"{digest} is no image that this mirror has made. A digest stands for its own bytes, which a "
                "graft would change: pull by tag, or pull this digest from its registry.",
            )
        data = served.manifests.get(digest)
        if data is None:
            data = await self._in_thread(self._stored, digest)
            served.manifests[digest] = data
        headers = {"Content-Type": item.media_type, **identity(digest)}
        if request.has(digest):
            await request.unchanged(headers)
        else:
            await request.answer(200, headers, data)

    def _stored(self, digest: str) -> bytes:
        try:
            return self.store.blob_path(digest).read_bytes()
        except FileNotFoundError as error:
            raise RefusedError(
                404, "MANIFEST_UNKNOWN", f"{digest} is no longer cached: pull by tag."
            ) from error

    async def _tag(self, served: _Served, tag: str) -> Grafted:
        """The tag's runtime image; whoever asks meanwhile waits for the same graft."""
        until, known = served.fresh.get(tag, (0.0, None))
        if known is not None and until > time.monotonic():
            return known
        task = served.pending.get(tag)
        if task is None:
            task = asyncio.create_task(self._in_thread(self._current, served, tag))
            served.pending[tag] = task
            task.add_done_callback(lambda done: self._settled(served, tag, done))
        return await asyncio.shield(task)

    def _settled(self, served: _Served, tag: str, task: asyncio.Task[Grafted]) -> None:
        served.pending.pop(tag, None)
        if not task.cancelled() and task.exception() is None:
            served.fresh[tag] = (time.monotonic() + self.settings.lifetime, task.result())

    def _current(self, served: _Served, tag: str) -> Grafted:
        newest = served.shelf.newest(tag)
        if newest is None:
            return self._graft(served, tag)
        try:
            base = served.remote.digest(tag)
        except BrokenError as error:
            self.note(f"{served.remote.name} cannot be looked up, serving what was grafted before: {error}")
            return newest
        return served.shelf.find(tag, base) or self._graft(served, tag)

    def _graft(self, served: _Served, tag: str) -> Grafted:
        start = time.perf_counter()
        remote = served.remote
        original = remote.upstream.original(remote.path, tag)
        settings = self.settings
        options = Options(original, user=settings.user, keep_entrypoint=settings.keep_entrypoint)
        with contextlib.closing(remote.source(tag)) as source:
            top = source.resolve()
            if found := served.shelf.find(tag, top.digest):
                return found
            # Resolved once: the tag may move, and the record must say what was grafted.
            pinned = _Resolved(source, top)
            plan = make_plan(pinned, self.bundles, self.store, options)
        image = served.shelf.add(tag, top.digest, plan)
        self.note(f"grafted {original} {top.digest} as {image.top} in {time.perf_counter() - start:.3f} s")
        return image

    # --- blobs -------------------------------------------------------------------------------------------

    async def _blob(self, request: Request, served: _Served, digest: str) -> None:
        item = served.shelf.items.get(digest)
        if item is None or item.kind is Kind.MANIFEST:
            raise RefusedError(
                404,
                "BLOB_UNKNOWN",
                f"{digest} belongs to no image that this mirror has made of this repository.",
            )
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **identity(digest)}
        if request.has(digest):
            await request.unchanged(headers)
            return
        if item.kind is Kind.STORED and not self.store.has(digest, item.size):
            raise RefusedError(404, "BLOB_UNKNOWN", f"{digest} is no longer cached: start the mirror again.")
        if item.kind is Kind.BASE and request.wants_body:
            address = await self._address(served, digest)
            if address:
                await request.answer(307, {"Location": address, "Docker-Content-Digest": digest})
                return
        await self._send(request, served, digest, item, headers)

    async def _send(
        self, request: Request, served: _Served, digest: str, item: Item, headers: dict[str, str]
    ) -> None:
        first, last = request.span(item.size)
        status = 200 if last - first == item.size else 206
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{item.size}"
        headers["Content-Length"] = str(last - first)
        if not request.wants_body:
            await request.start(status, headers)
            await request.send({"type": "http.response.body"})
            return
        if item.kind is Kind.STORED:
            chunks = file_chunks(self.store.blob_path(digest), first, last - first)
        else:
            # Always from the beginning: only a whole layer can be checked.
            descriptor = Descriptor(item.media_type, digest, item.size)
            chunks = served.remote.chunks(descriptor)
            if status == 206:
                chunks = cut(chunks, first, last)
        await request.send_chunks(status, headers, chunks, self._streams)

    async def _address(self, served: _Served, digest: str) -> str | None:
        """Where the client gets a base layer without us, if it can."""
        if not self.settings.redirect:
            return None
        address: str | None = await asyncio.get_running_loop().run_in_executor(
            self._streams, served.remote.public_address, digest
        )
        if address and not self.settings.local and is_loopback(urlsplit(address).netloc):
            return None
        return address

    # --- tags --------------------------------------------------------------------------------------------

    async def _tags(self, request: Request, served: _Served, name: str) -> None:
        names, following = await self._in_thread(served.remote.tags, request.query)
        headers = {"Content-Type": JSON}
        if following:
            headers["Link"] = f'</v2/{name}/tags/list?{following}>; rel="next"'
        await request.answer(200, headers, json.dumps({"name": name, "tags": names}).encode())

    def close(self) -> None:
        """Lets go of the upstream connections; what is being grafted or sent is given up."""
        self._grafts.shutdown(wait=False, cancel_futures=True)
        self._streams.shutdown(wait=False, cancel_futures=True)
        self._registries.stop()
        self._registries.close()


def _registries(settings: Settings) -> Registries:
    from graftbox.image.connection import Registries
    from graftbox.image.host import Settings as HostSettings
    from graftbox.image.retry import Patience

    plain = frozenset(upstream.host for upstream in settings.upstreams if upstream.plain)
    # A client waits: what does not work soon is better said than tried again.
    patience = Patience(tries=3, longest_asked=5)
    return Registries(
        HostSettings(plain_http=plain, authority=settings.authority, parallel=16, patience=patience)
    )


class _Resolved:
    """A source whose tag has been looked up already: it may have moved since."""

    synthetic = False

    def __init__(self, source: Source, top: Document) -> None:
        self._source, self._top = source, top

    def resolve(self) -> Document:
        return self._top

    def manifest(self, descriptor: Descriptor) -> Document:
        return self._source.manifest(descriptor)

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        return self._source.blob(descriptor, diff_id)

    def close(self) -> None:
        self._source.close()
