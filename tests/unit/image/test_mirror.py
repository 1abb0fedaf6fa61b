"""The mirror between a client and an upstream registry, both on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from graftbox.errors import UsageError
from graftbox.image.graft import BASE_NAME, SERVER, Bundle
from graftbox.image.manifest import Document
from graftbox.image.mirror import Mirror, Settings
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.upstream import Upstream
from graftbox.server.host import Host
from graftbox.store import Store, digest_of

TOKEN = "s3cret-token"


@dataclass
class Upstreams:
    """A registry that serves the tags of one OCI layout for every repository."""

    folder: Path
    address: str = ""
    needs_token: bool = False
    sends_to: str | None = None
    """Another address that it redirects blobs to."""
    broken: int = 0
    """The status of every answer."""
    again: str = ""
    """The ``Retry-After`` of such answers."""
    damaged: str = ""
    """A digest that is answered with other bytes."""
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self.broken:
            return self.broken, {"Retry-After": self.again} if self.again else {}, b"out of order"
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": TOKEN}).encode()
        if self.needs_token and headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="http://{self.address}/token",service="s"'
            return 401, {"WWW-Authenticate": challenge}, b""
        path, _, query = path.partition("?")
        if path.endswith("/tags/list"):
            link = {} if query else {"Link": f'<{path}?n=2&last=b>; rel="next"'}
            return 200, link, json.dumps({"name": "upstream/name", "tags": ["a", "b"]}).encode()
        kind, name = path.split("/")[-2:]
        if kind == "blobs":
            return self._blob(name, path, headers)
        for entry in json.loads((self.folder / "index.json").read_bytes())["manifests"]:
            if name in {entry["annotations"]["org.opencontainers.image.ref.name"], entry["digest"]}:
                return self._manifest(entry["digest"], entry["mediaType"])
        path_of = self.folder / "blobs/sha256" / name[7:]
        if path_of.is_file():
            return self._manifest(name, json.loads(path_of.read_bytes())["mediaType"])
        return 404, {}, b""

    def _manifest(self, digest: str, kind: str) -> tuple[int, dict[str, str], bytes]:
        data = (self.folder / "blobs/sha256" / digest[7:]).read_bytes()
        return 200, {"Content-Type": kind, "Docker-Content-Digest": digest}, data

    def _blob(self, digest: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self.sends_to:
            return 307, {"Location": f"http://{self.sends_to}{path}?signature=1"}, b""
        data = (self.folder / "blobs/sha256" / digest[7:]).read_bytes()
        if digest == self.damaged:
            data = data[:-1] + b"?"
        if headers.get("Range") == "bytes=0-0":
            return 206, {"Content-Range": f"bytes 0-0/{len(data)}"}, data[:1]
        return 200, {}, data


@contextlib.contextmanager
def serving(upstream: Upstreams) -> Iterator[Upstreams]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            upstream.asked.append(f"{self.command} {self.path}")
            upstream.headers.append(dict(self.headers))
            status, headers, body = upstream.answer(self.path, dict(self.headers))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        upstream.address = f"127.0.0.1:{server.server_port}"
        try:
            yield upstream
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def mirroring(mirror: Mirror) -> Iterator[httpx2.Client]:
    """The mirror on a port of its own, in a thread; yields a client for it."""
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def serve() -> None:
        host, ended = Host(mirror), asyncio.Event()
        await host.listen("127.0.0.1", 0, None)
        assert host.port
        running.set_result((asyncio.get_running_loop(), ended, host.port))
        await ended.wait()
        await host.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, ended, port = running.result(60)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            yield client
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        mirror.close()


@pytest.fixture
def upstream(layout: Any) -> Iterator[Upstreams]:
    with serving(Upstreams(layout.folder)) as running:
        yield running


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def mirror(
    upstream: Upstreams, store: Store, bundle: Bundle, arm_bundle: Bundle, notes: list[str]
) -> Callable[..., contextlib.AbstractContextManager[httpx2.Client]]:
    """Starts a mirror of the upstream, under the name of Docker Hub."""

    def start(**settings: Any) -> contextlib.AbstractContextManager[httpx2.Client]:
        names = settings.pop("upstreams", (f"docker.io=http://{upstream.address}",))
        chosen = Settings(tuple(map(Upstream.parse, names)), **settings)
        return mirroring(Mirror(chosen, {"amd64": bundle, "arm64": arm_bundle}, store, notes.append))

    return start


MANIFEST = "/v2/docker.io/library/app/manifests/base"


def parts(client: httpx2.Client, url: str = MANIFEST) -> tuple[dict[str, Any], dict[str, Any]]:
    """A runtime image's manifest and config, as a client reads them."""
    manifest = client.get(url).raise_for_status().json()
    repository = url.partition("/manifests/")[0]
    config = client.get(f"{repository}/blobs/{manifest['config']['digest']}").raise_for_status()
    assert digest_of(config.content) == manifest["config"]["digest"]
    return manifest, config.json()


def test_a_tag_becomes_its_runtime_image(layout: Any, mirror: Any, bundle: Bundle) -> None:
    base = layout.image([{"a": b"1"}])
    with mirror() as client:
        manifest, config = parts(client)
        answer = client.get(MANIFEST)
        assert answer.headers["Docker-Content-Digest"] == digest_of(answer.content)
        assert client.get(MANIFEST.replace("base", digest_of(answer.content))).content == answer.content
        head = client.head(MANIFEST)
        assert head.headers["Docker-Content-Digest"] == digest_of(answer.content)
        assert int(head.headers["Content-Length"]) == len(answer.content)
        assert client.get("/v2/").headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert config["config"]["Entrypoint"] == list(SERVER)
    assert config["config"]["Labels"][BASE_NAME] == "docker.io/library/app:base"
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert digests == [base.layers[0].digest, *(layer.digest for layer in bundle.layers)]


def test_the_same_digest_as_a_graft_of_the_same_image(
    layout: Any, mirror: Any, upstream: Upstreams, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image([{"a": b"1"}])
    report = graft_image(
        parse(f"docker://{upstream.address}/team/app:base"),
        parse(f"oci:{tmp_path / 'out'}:x"),
        {"amd64": bundle},
        store,
    )
    with mirror(upstreams=[f"local=http://{upstream.address}"]) as client:
        made = client.get("/v2/local/team/app/manifests/base")
    assert made.headers["Docker-Content-Digest"] == report.digest


def test_a_grafted_image_outlives_a_restart_and_its_upstream(
    layout: Any, mirror: Any, upstream: Upstreams, notes: list[str]
) -> None:
    layout.image([{"a": b"1"}])
    with mirror() as client:
        first = client.get(MANIFEST)
    upstream.asked.clear()
    with mirror() as client:
        again = client.get(MANIFEST)
        assert upstream.asked == ["HEAD /v2/library/app/manifests/base"]
        assert again.content == first.content
    upstream.broken = 503
    with mirror() as client:
        assert client.get(MANIFEST).content == first.content
        digest = first.headers["Docker-Content-Digest"]
        assert client.get(MANIFEST.replace("base", digest)).content == first.content
    assert "serving what was grafted before" in notes[-1]
    upstream.broken = 403
    with mirror() as client:
        assert client.get(MANIFEST).status_code == 502, "who may no longer read it gets nothing"


@pytest.mark.parametrize(
    ("status", "again", "answered", "code", "told"),
    [
        (429, "60", 429, "TOOMANYREQUESTS", "60"),
        (503, "7", 503, "UNAVAILABLE", "7"),
        (403, "", 502, "UNAVAILABLE", None),
    ],
)
def test_a_client_is_asked_to_wait_as_long_as_upstream_asks(
    mirror: Any, upstream: Upstreams, status: int, again: str, answered: int, code: str, told: str | None
) -> None:
    upstream.broken, upstream.again = status, again
    with mirror() as client:
        answer = client.get(MANIFEST)
    assert answer.status_code == answered
    assert answer.json()["errors"][0]["code"] == code
    assert answer.headers.get("Retry-After") == told


def test_a_tag_that_moved_is_grafted_anew(layout: Any, mirror: Any) -> None:
    layout.image([{"a": b"1"}])
    with mirror(lifetime=0) as client:
        first = client.get(MANIFEST)
        layout.entries.clear()
        layout.image([{"a": b"2"}])
        second = client.get(MANIFEST)
        assert second.content != first.content
        # Whoever has begun to pull the old one can go on.
        assert client.get(MANIFEST.replace("base", first.headers["Docker-Content-Digest"])).is_success


def test_concurrent_pulls_of_a_tag_graft_once(layout: Any, mirror: Any, notes: list[str]) -> None:
    layout.image([{"a": b"1"}])
    with mirror(lifetime=0) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.get(MANIFEST).content, range(32)))
    assert len(set(answers)) == 1
    assert len([note for note in notes if note.startswith("grafted")]) == 1


def test_every_platform_with_a_bundle_is_grafted(layout: Any, mirror: Any) -> None:
    amd, arm = layout.image([{"a": b"1"}], tag=None), layout.image([{"a": b"1"}], tag=None, arch="arm64")
    other = layout.image([{"a": b"1"}], tag=None, arch="s390x")
    layout.index({"linux/amd64": amd, "linux/arm64/v8": arm, "linux/s390x": other})
    with mirror() as client:
        index = client.get(MANIFEST).json()
        found = [entry["platform"]["architecture"] for entry in index["manifests"]]
        assert found == ["amd64", "arm64"]
        for entry in index["manifests"]:
            parts(client, MANIFEST.replace("base", entry["digest"]))


@pytest.mark.parametrize(
    ("path", "status", "code", "hint"),
    [
        ("/v2/docker.io/library/app/manifests/none", 404, "MANIFEST_UNKNOWN", "does not exist"),
        (f"/v2/docker.io/library/app/manifests/sha256:{'0' * 64}", 404, "MANIFEST_UNKNOWN", "pull by tag"),
        (f"/v2/docker.io/library/app/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN", "no image"),
        ("/v2/docker.io/library/app/manifests/sha256-" + "0" * 64 + ".sig", 404, "MANIFEST_UNKNOWN", ""),
        ("/v2/evil.example/team/app/manifests/1", 403, "DENIED", "--upstream evil.example"),
        ("/v2/library/app/manifests/1?ns=evil.example", 403, "DENIED", "--upstream evil.example"),
        ("/v2/docker.io/UPPER/app/manifests/1", 400, "NAME_INVALID", "no name"),
        ("/v2/docker.io/%2e%2e/%2e%2e/secret/manifests/1", 400, "NAME_INVALID", "no name"),
        ("/v2/_catalog", 404, "UNSUPPORTED", "pulls only"),
        ("/other", 404, "UNSUPPORTED", "pulls only"),
    ],
)
def test_what_is_not_served_is_explained(
    path: str, status: int, code: str, hint: str, layout: Any, mirror: Any, upstream: Upstreams
) -> None:
    layout.image([{"a": b"1"}])
    with mirror() as client:
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = client.send(request)
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert error["code"] == code
    assert hint in error["message"]
    assert not [line for line in upstream.asked if "evil" in line or "secret" in line]


def test_it_is_read_only(mirror: Any, layout: Any) -> None:
    layout.image([{"a": b"1"}])
    with mirror() as client:
        for answer in (client.put(MANIFEST, content=b"{}"), client.post("/v2/docker.io/a/b/blobs/uploads/")):
            assert answer.status_code == 405
            assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


def test_a_page_under_another_name_reads_nothing(layout: Any, mirror: Any) -> None:
    layout.image([{"a": b"1"}])
    rebound = {"Host": "page.example:5055"}
    with mirror() as client:
        assert client.get(MANIFEST, headers=rebound).status_code == 403
        assert client.get(MANIFEST, headers={"Host": "localhost:5055"}).status_code == 200
    with mirror(local=False) as client:
        assert client.get(MANIFEST, headers=rebound).status_code == 200


def test_an_image_for_another_platform_and_an_upstream_in_trouble(
    layout: Any, mirror: Any, upstream: Upstreams
) -> None:
    layout.image([{"a": b"1"}], arch="s390x")
    with mirror() as client:
        answer = client.get(MANIFEST)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "UNSUPPORTED")
        upstream.broken = 400
        answer = client.get(MANIFEST.replace("app", "other"))
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (502, "UNAVAILABLE")
        assert "out of order" in answer.json()["errors"][0]["message"]


def test_docker_and_containerd_name_the_registry_in_their_own_ways(layout: Any, mirror: Any) -> None:
    layout.image([{"a": b"1"}])
    with mirror() as client:
        expected = client.get(MANIFEST).content
        assert client.get("/v2/library/app/manifests/base").content == expected
        assert client.get("/v2/library/app/manifests/base?ns=docker.io").content == expected
        assert client.get("/v2/docker.io/app/manifests/base").content == expected


def test_an_upstream_with_a_path_is_asked_below_it(layout: Any, mirror: Any, upstream: Upstreams) -> None:
    layout.image([{"a": b"1"}])
    with mirror(upstreams=[f"docker.io=http://{upstream.address}/hub"]) as client:
        _, config = parts(client)
    assert upstream.asked[0] == "GET /v2/hub/library/app/manifests/base"
    assert config["config"]["Labels"][BASE_NAME] == "docker.io/library/app:base"


def test_tags_are_passed_on_with_their_pages(layout: Any, mirror: Any) -> None:
    with mirror() as client:
        answer = client.get("/v2/docker.io/library/app/tags/list")
    assert answer.json() == {"name": "docker.io/library/app", "tags": ["a", "b"]}
    assert answer.headers["Link"] == '</v2/docker.io/library/app/tags/list?n=2&last=b>; rel="next"'


def test_there_are_no_referrers(layout: Any, mirror: Any) -> None:
    with mirror() as client:
        answer = client.get(f"/v2/docker.io/library/app/referrers/sha256:{'0' * 64}")
    assert answer.json()["manifests"] == []


def blob_url(digest: str) -> str:
    return f"/v2/docker.io/library/app/blobs/{digest}"


def test_bundle_layers_with_ranges(layout: Any, mirror: Any, bundle: Bundle, store: Store) -> None:
    layout.image([{"a": b"1"}])
    layer = bundle.layers[0]
    data = store.blob_path(layer.digest).read_bytes()
    with mirror() as client:
        client.get(MANIFEST)
        url = blob_url(layer.digest)
        assert client.get(url).content == data
        head = client.head(url)
        assert head.headers["Content-Length"] == str(len(data))
        assert head.headers["ETag"] == f'"{layer.digest}"'
        for span, expected in {
            "bytes=3-9": data[3:10],
            "bytes=5-": data[5:],
            "bytes=-4": data[-4:],
            f"bytes=1-{10**9}": data[1:],
        }.items():
            part = client.get(url, headers={"Range": span})
            assert part.status_code == 206
            assert part.content == expected
        assert client.get(url, headers={"Range": "lines=1-2"}).status_code == 200
        assert client.get(url, headers={"Range": "bytes=2-4,6-9"}).content == data
        refused = client.get(url, headers={"Range": f"bytes={len(data)}-"})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (416, "RANGE_INVALID")
        assert client.get(url, headers={"If-None-Match": f'"{layer.digest}"'}).status_code == 304


def test_base_layers_are_fetched_upstream_where_anybody_may(
    layout: Any, mirror: Any, upstream: Upstreams
) -> None:
    base = layout.image([{"a": b"1" * 5000}])
    digest = base.layers[0].digest
    with mirror() as client:
        client.get(MANIFEST)
        answer = client.get(blob_url(digest))
        assert answer.status_code == 307
        assert answer.headers["Location"] == f"http://{upstream.address}/v2/library/app/blobs/{digest}"
        assert client.head(blob_url(digest)).headers["Content-Length"] == str(base.layers[0].size)
    with mirror(redirect=False) as client:
        client.get(MANIFEST)
        assert digest_of(client.get(blob_url(digest)).content) == digest
    with mirror(local=False) as client:
        client.get(MANIFEST)
        assert client.get(blob_url(digest)).status_code == 200, "loopback is another machine elsewhere"


def test_credentials_stay_here(layout: Any, mirror: Any, upstream: Upstreams) -> None:
    base = layout.image([{"a": b"1" * 5000}])
    digest = base.layers[0].digest
    upstream.needs_token = True
    with mirror() as client:
        client.get(MANIFEST)
        streamed = client.get(blob_url(digest))
        assert streamed.status_code == 200
        assert digest_of(streamed.content) == digest
        assert client.get(blob_url(digest), headers={"Range": "bytes=2-5"}).content == streamed.content[2:6]
        with serving(Upstreams(layout.folder)) as cdn:
            upstream.sends_to = cdn.address
            redirected = client.get(blob_url(digest))
            assert redirected.status_code == 307
            assert redirected.headers["Location"].startswith(f"http://{cdn.address}/")
            assert "Authorization" not in cdn.headers[-1]
        for answer in (streamed, redirected, client.get(MANIFEST)):
            assert TOKEN not in str(answer.headers)
    assert any(headers.get("Authorization") == f"Bearer {TOKEN}" for headers in upstream.headers)


def test_a_damaged_base_layer_is_never_completed(
    layout: Any, mirror: Any, upstream: Upstreams, notes: list[str]
) -> None:
    base = layout.image([{"a": bytes(range(256)) * 20}])
    upstream.damaged = base.layers[0].digest
    with mirror(redirect=False) as client:
        client.get(MANIFEST)
        with contextlib.suppress(httpx2.HTTPError):
            answer = client.get(blob_url(base.layers[0].digest))
            assert answer.status_code == 502
    assert any("was expected" in note for note in notes)


@pytest.mark.parametrize(
    "text", ["", "no-dots", "a=ftp://x", "a=http://", "A=http://h", "a.b/c", "a=http://u@h"]
)
def test_mistyped_upstreams_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Upstream.parse(text)


def test_a_record_that_was_damaged_is_made_again(layout: Any, mirror: Any, store: Store) -> None:
    base = layout.image([{"a": b"1"}])
    assert isinstance(base, Document)
    with mirror() as client:
        first = client.get(MANIFEST).content
    (record,) = (store.root / "mirror").rglob("*.json")
    record.write_bytes(record.read_bytes()[:50])
    with mirror() as client:
        assert client.get(MANIFEST).content == first
    store.blob_path(digest_of(first)).unlink()
    with mirror() as client:
        assert client.get(MANIFEST).content == first
