"""A registry that misbehaves, on the loopback interface: what a real one does only on its bad days."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.answering import Answer, Asked, listening

from graftbox.errors import FormatError, GraftboxError, TransportError, VerificationError
from graftbox.image.auth import Challenge
from graftbox.image.blob import Blob
from graftbox.image.graft import Bundle
from graftbox.image.manifest import OCI_LAYER, Document
from graftbox.image.place import graft_image
from graftbox.image.reference import image_name, parse
from graftbox.image.registry import RegistrySource
from graftbox.image.registry_target import RegistryTarget
from graftbox.image.retry import Patience
from graftbox.image.transports import Access
from graftbox.store import Store, digest_of


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of attempts, but hardly any pause between them."""
    monkeypatch.setattr("graftbox.image.host.PATIENCE", Patience(first=0.002))


def resolve(address: str, name: str = "app:1") -> Document:
    with contextlib.closing(RegistrySource(image_name(f"{address}/{name}"))) as source:
        return source.resolve()


@pytest.fixture
def manifest(layout: Any) -> Document:
    image = layout.image([{"a": b"1" * 5000}])
    assert isinstance(image, Document)
    return image


def test_a_manifest_with_another_digest_is_refused(manifest: Document) -> None:
    kind = {"Content-Type": manifest.media_type}
    with listening(lambda _: (200, kind, manifest.data)) as address:
        assert resolve(address).digest == manifest.digest
        with pytest.raises(VerificationError, match="was expected"):
            resolve(address, f"app@sha256:{'0' * 64}")
    wrong = {**kind, "Docker-Content-Digest": f"sha256:{'1' * 64}"}
    with listening(lambda _: (200, wrong, manifest.data)) as address, pytest.raises(VerificationError):
        resolve(address)


@pytest.mark.parametrize(
    ("answer", "error", "hint"),
    [
        ((200, {}, b"<html>welcome</html>"), FormatError, "not JSON"),
        ((200, {}, b"x" * (5 << 20)), VerificationError, "4 MiB"),
        ((200, {"Content-Length": "500"}, b"{"), TransportError, "broke"),
        ((401, {}, b""), TransportError, "docker login"),
        ((403, {}, b"no"), TransportError, "docker login"),
        ((429, {}, b""), TransportError, "wait a while"),
        ((503, {}, b"sorry"), TransportError, "try again later"),
        ((500, {}, b'{"detail": {"Op": "write", "Err":28}}'), TransportError, "disk is full"),
        ((200, {"Content-Encoding": "gzip"}, b"{}"), TransportError, "is gzip, and it is not"),
        ((401, {"WWW-Authenticate": 'Bearer realm="nonsense"'}, b""), TransportError, "log-in tokens"),
        ((401, {"WWW-Authenticate": 'Bearer realm="http://h:99999/"'}, b""), TransportError, "log-in tokens"),
        ((307, {"Location": "http://127.0.0.1:99999/"}, b""), TransportError, "an address that is none"),
    ],
)
def test_bad_answers_are_explained(answer: Answer, error: type[GraftboxError], hint: str) -> None:
    with listening(lambda _: answer) as address, pytest.raises(error, match=hint):
        resolve(address)


def test_nobody_listens() -> None:
    with pytest.raises(TransportError, match="Cannot reach"):
        resolve("127.0.0.1:1")


@pytest.mark.parametrize("how", ["cut off", "short", "wrong"])
def test_a_layer_that_breaks_off_leaves_nothing(
    how: str, layout: Any, manifest: Document, store: Store, bundle: Bundle, tmp_path: Any
) -> None:
    def answer(request: Asked) -> Answer:
        name = request.path.rpartition("/")[2]
        if "/manifests/" in request.path:
            return 200, {"Content-Type": manifest.media_type}, manifest.data
        data = (layout.folder / "blobs/sha256" / name[7:]).read_bytes()
        if name == manifest.config.digest:
            return 200, {}, data
        if how == "cut off":
            return 200, {"Content-Length": str(len(data))}, data[:-9]
        return 200, {}, data[:-9] if how == "short" else data[:-9] + b"wrong....."[:9]

    target = parse(f"oci:{tmp_path / 'out'}:x")
    with listening(answer) as address, pytest.raises((TransportError, VerificationError)):
        graft_image(parse(f"{address}/app:1"), target, {"amd64": bundle}, store)
    assert not (tmp_path / "out/index.json").exists()
    assert [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".graftbox-")] == []


def test_a_token_is_fetched_for_the_right_scope_and_used(manifest: Document) -> None:
    asked: list[str] = []

    def answer(request: Asked) -> Answer:
        asked.append(request.path)
        if request.path.startswith("/token"):
            return 200, {}, json.dumps({"token": "t0ken"}).encode()
        if request.headers["Authorization"] == "Bearer t0ken":
            return 200, {"Content-Type": manifest.media_type}, manifest.data
        host = request.headers["Host"]
        challenge = f'Bearer realm="http://{host}/token",service="s",scope="repository:user/image:pull"'
        return 401, {"WWW-Authenticate": challenge}, b""

    with listening(answer) as address:
        assert resolve(address, "team/app:1").digest == manifest.digest
    assert asked[1] == "/token?scope=repository%3Ateam%2Fapp%3Apull&service=s"


def test_a_challenge_is_read_whatever_its_spelling() -> None:
    found = Challenge.read(
        'bearer realm="https://a/b" , service=x,scope="repository:a:pull repository:b:pull"'
    )
    assert found == Challenge("bearer", "https://a/b", "x", ("repository:a:pull", "repository:b:pull"))
    assert Challenge.read("Negotiate") is None
    assert Challenge.read("") is None


@pytest.mark.parametrize("kind", [[], {}, 3, "application/vnd.example"])
def test_a_config_of_an_odd_type_is_no_image(kind: object) -> None:
    body = {"schemaVersion": 2, "config": {"mediaType": kind}, "layers": []}
    with listening(lambda _: (200, {}, json.dumps(body).encode())) as address, pytest.raises(GraftboxError):
        resolve(address)


def test_what_another_image_sends_while_the_registry_refuses_is_not_sent_again(
    manifest: Document, tmp_path: Path
) -> None:
    layer = Blob(
        Document(b"layer", OCI_LAYER).descriptor, lambda: iter([b"layer"]), diff_id=digest_of(b"layer")
    )
    details = {"code": "MANIFEST_BLOB_UNKNOWN", "detail": {"digest": layer.digest}}

    def refuse(_: Asked) -> Answer:
        registries.places(address).remember(layer, "app")
        return 404, {"Connection": "keep-alive"}, json.dumps({"errors": [details]}).encode()

    with listening(refuse) as address, Access().shared(1) as registries:
        name = image_name(f"{address}/app:1")
        target = RegistryTarget(name, ["1"], Store(tmp_path), registries=registries, fresh=True)
        assert target.offer(manifest, b"", [layer], top=True) == [layer]
        assert target.put(layer) == 0
        # Refused although it was known before: the registry has lost it.
        assert target.offer(manifest, b"", [layer], top=True) == [layer]
        assert registries.places(address).of(layer.digest) == []
