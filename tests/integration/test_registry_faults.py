"""Grafts through a proxy that breaks things: the result is the same, whole, and sent no oftener than needed.

The sections that are cited are those of the OCI distribution specification 1.1, under their own titles.
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx2
import pytest
from tests.integration.faults import Faulty

from graftbox.errors import GraftboxError, TransportError, VerificationError
from graftbox.image import channel, upload
from graftbox.image.graft import Bundle
from graftbox.image.place import Report, graft_image
from graftbox.image.reference import parse
from graftbox.image.retry import Patience
from graftbox.image.reuse import obtain
from graftbox.image.tags import Choice
from graftbox.image.tags import repository as repo
from graftbox.image.transports import Access
from graftbox.store import Store, digest_of

CHUNK = 1 << 17
BIG = 5 * CHUNK + 11


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of attempts, with short pauses; chunks that fit the small layers of a test."""
    monkeypatch.setattr("graftbox.image.host.PATIENCE", Patience(first=0.01, stall=0.3))
    monkeypatch.setattr(upload, "CHUNK", CHUNK)
    monkeypatch.setattr(channel, "SLOWEST_HEAD", 0.3)


@pytest.fixture
def base(layout: Any, registry: Any, repository: str, store: Store, bundle: Bundle) -> str:
    """A base with one large layer in the registry, as ``REPOSITORY/base:1``."""
    layout.image([{"etc/name": b"base"}, {"data": os.urandom(BIG)}])
    copy(f"oci:{layout.folder}:base", f"{registry.address}/{repository}/base:1")
    return f"{repository}/base:1"


def copy(source: str, target: str) -> None:
    """Puts an image into the registry as it is, with no help of ours."""
    import subprocess

    from tests.integration.conftest import program

    command = [program("skopeo"), "copy", "-q", "--dest-tls-verify=false", source, f"docker://{target}"]
    subprocess.run(command, check=True)


def run(base: str, target: str, store: Store, bundle: Bundle) -> Report:
    return graft_image(parse(base), parse(target), {bundle.arch: bundle}, store)


def whole(registry: Any, repository: str, tag: str) -> str:
    """Reads an image back with another client and checks each byte of it; its digest."""
    url = f"http://{registry.address}/v2/{repository}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with httpx2.Client(trust_env=False) as client:
        manifest = client.get(f"{url}/manifests/{tag}", headers=accept)
        assert manifest.status_code == 200, manifest.text
        body = manifest.json()
        for entry in [body["config"], *body["layers"]]:
            blob = client.get(f"{url}/blobs/{entry['digest']}").content
            assert digest_of(blob) == entry["digest"]
            assert len(blob) == entry["size"]
    return digest_of(manifest.content)


def stored(registry: Any, repository: str) -> set[str]:
    """Every blob that the registry keeps for a repository, by digest."""
    folder = registry.root / "docker/registry/v2/repositories" / repository / "_layers/sha256"
    return {f"sha256:{link.name}" for link in folder.iterdir()}


def named(registry: Any, digest: str) -> set[str]:
    """What a manifest consists of."""
    value = digest.removeprefix("sha256:")
    path = registry.root / f"docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"
    body = json.loads(path.read_bytes())
    return {entry["digest"] for entry in (body["config"], *body["layers"])}


def tags(registry: Any, repository: str) -> list[str]:
    found = httpx2.get(f"http://{registry.address}/v2/{repository}/tags/list", trust_env=False)
    return found.json().get("tags") or [] if found.status_code == 200 else []


METADATA_FAULTS = [
    ("429", "GET .*/manifests/", "0"),
    ("429", "PUT .*/manifests/", "1"),
    ("500", "GET .*/manifests/", ""),
    ("503", "POST .*/uploads/", ""),
    ("502", "PUT .*/uploads/", ""),
    ("500", "PUT .*/manifests/", ""),
    ("reset", "GET .*/manifests/", ""),
    ("reset", "HEAD .*/manifests/", ""),
    ("reset", "POST .*/uploads/", ""),
    ("reset", "PUT .*/uploads/", ""),
    ("reset", "PUT .*/manifests/", ""),
    ("cut body", "GET .*/manifests/", ""),
    ("cut body", "GET .*/blobs/", ""),
    ("truncate", "GET .*/manifests/", ""),
    ("truncate", "GET .*/blobs/", ""),
    ("spoil body", "GET .*/manifests/", ""),
    ("spoil body", "GET .*/blobs/", ""),
    ("drip", "GET .*/manifests/", ""),
    ("drip", "GET .*/blobs/", ""),
    ("drip head", "GET .*/manifests/", ""),
    ("drip head", "HEAD .*/manifests/", ""),
    ("drip head", "PUT .*/uploads/", ""),
    ("drip head", "PUT .*/manifests/", ""),
    ("lose answer", "POST .*/uploads/", ""),
    ("lose answer", "PUT .*/uploads/", ""),
    ("lose answer", "PUT .*/manifests/", ""),
    ("spoil upload", "PUT .*/uploads/", ""),
    ("spoil upload", "PUT .*/manifests/", ""),
    ("cut upload", "PUT .*/uploads/", ""),
]


@pytest.mark.parametrize(("kind", "where", "value"), METADATA_FAULTS)
def test_a_fault_on_the_way_changes_nothing_about_the_result(
    kind: str,
    where: str,
    value: str,
    base: str,
    proxy: Faulty,
    registry: Any,
    repository: str,
    store: Store,
    bundle: Bundle,
) -> None:
    """Sections Pull and Push: what is pulled is verified against its digest, and the manifest comes
    last, so that a push that was refused or broke off leaves nothing that can be pulled.
    """
    name = f"{proxy.address}/{repository}"
    sound = run(f"{proxy.address}/{base}", f"{name}/run:sound", store, bundle)
    proxy.will(kind, where.replace(".*", f".*{repository}.*"), value=value)
    report = run(f"{proxy.address}/{base}", f"{name}/run:x", store, bundle)
    assert proxy.happened, "the fault was never met"
    assert report.digest == sound.digest == whole(registry, f"{repository}/run", "x")
    assert stored(registry, f"{repository}/run") == named(registry, report.digest)


@pytest.mark.parametrize("kind", ["cut upload", "reset", "lose answer", "spoil upload", "503", "413", "416"])
def test_a_large_layer_arrives_through_a_fault(
    kind: str, base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Sections Pushing a blob monolithically and Pushing a blob in chunks: after a refusal or a break, the
    upload goes on where the registry says that it is; a session whose state is lost is begun anew.
    """
    # The base is in a registry of another name, so its layers have to be sent.
    proxy.will(kind, f"PUT /v2/{repository}/run/blobs/uploads/.*digest=")
    proxy.will(kind, f"PUT /v2/{repository}/run/blobs/uploads/.*digest=", times=2)
    report = run(f"{registry.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    assert len(proxy.happened) == 3
    assert report.digest == whole(registry, f"{repository}/run", "x")
    assert proxy.received < 3.5 * BIG


@pytest.mark.parametrize("kind", ["cut upload", "reset", "lose answer", "503", "416"])
def test_a_chunk_that_breaks_is_gone_on_from(
    kind: str, base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Pushing a blob in chunks: each chunk begins where ``Range`` of the last answer ended, at the
    ``Location`` that it gave; after a break, GET of that location says how much has arrived.
    """
    proxy.will("413", f"PUT .*digest={big(registry, base)}")
    proxy.will(kind, "PATCH ")
    proxy.will("", "PATCH ", times=2)
    proxy.will(kind, "PATCH ")
    report = run(f"{registry.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    assert [line.split(" /")[0] for line in proxy.happened].count(f"{kind} PATCH") == 2
    assert report.digest == whole(registry, f"{repository}/run", "x")
    assert proxy.received < 2.5 * BIG


@pytest.mark.parametrize("kind", ["cut body", "truncate", "drip", "spoil body", "500"])
def test_a_large_layer_is_read_through_a_fault(
    kind: str, base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Pulling blobs: ``Range`` should work, so what has arrived is not fetched again."""
    proxy.will(kind, "GET .*/blobs/", times=3)
    target = f"{registry.address}/{repository}/run:x"
    if kind == "spoil body":
        # What is wrong at its end was verified and refused; asking again gets it right.
        proxy.faults[-1].times = 1
    report = run(f"{proxy.address}/{base}", target, store, bundle)
    assert proxy.happened
    assert report.digest == whole(registry, f"{repository}/run", "x")


@pytest.mark.parametrize("how", ["unmounted", "401", "403", "404", "405", "500"])
def test_a_refused_mount_becomes_an_upload(
    how: str, base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Mounting a blob from another repository: on 202 the upload goes on at ``Location``; any other
    refusal means that the client has to upload.
    """
    proxy.will(how, "POST .*mount=", times=-1)
    name = f"{proxy.address}/{repository}"
    report = run(f"{proxy.address}/{base}", f"{name}/run:x", store, bundle)
    assert report.digest == whole(registry, f"{repository}/run", "x")
    assert report.layers_sent == 4
    if how == "unmounted":
        # The session that the refused mount has opened is the one that is used.
        assert proxy.count("POST .*/uploads/") == 4 + 1


def test_mounted_blobs_are_not_sent(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Mounting a blob from another repository: on 201 the blob is there."""
    name = f"{proxy.address}/{repository}"
    report = run(f"{proxy.address}/{base}", f"{name}/run:x", store, bundle)
    assert report.layers_sent == 2
    assert proxy.received < 20_000
    assert report.digest == whole(registry, f"{repository}/run", "x")


def test_a_registry_that_stays_broken_is_explained_and_holds_no_part(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Pushing Manifests: one is stored only when all that it refers to is there."""
    proxy.will("500", "PUT .*/uploads/", times=-1)
    with pytest.raises(TransportError, match=r"500.*try again later"):
        run(f"{proxy.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    assert tags(registry, f"{repository}/run") == []
    assert proxy.count("PUT .*/uploads/") <= 3 * Patience().tries


def test_a_layer_that_is_always_wrong_is_never_stored(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Pulling blobs: bytes that do not have the digest are not used."""
    proxy.will("spoil body", "GET .*/blobs/", times=-1)
    with pytest.raises((VerificationError, GraftboxError)):
        run(f"{proxy.address}/{base}", f"{registry.address}/{repository}/run:x", store, bundle)
    assert tags(registry, f"{repository}/run") == []


def test_a_long_retry_after_ends_the_wait(
    base: str, proxy: Faulty, repository: str, store: Store, bundle: Bundle
) -> None:
    """RFC 9110, ``Retry-After``: an hour is not waited for, it is reported."""
    proxy.will("429", "GET .*/manifests/", times=-1, value="3600")
    with pytest.raises(TransportError, match="fewer requests"):
        run(f"{proxy.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    assert proxy.count("GET .*/manifests/") == 1


def test_a_manifest_keeps_its_bytes_and_nothing_is_sent_twice(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Sections Pushing Manifests and Checking if content exists in the registry: what is there is not sent
    again.
    """
    name = f"{proxy.address}/{repository}"
    first = run(f"{proxy.address}/{base}", f"{name}/run:x", store, bundle)
    before = proxy.received
    assert run(f"{proxy.address}/{base}", f"{name}/run:x", store, bundle).digest == first.digest
    assert proxy.received == before
    sizes = [json.dumps(line) for line in proxy.seen if line.startswith("PUT") and "digest=" in line]
    assert len(sizes) == len(set(sizes))


def test_absolute_locations_are_followed(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section POST then PUT: ``Location`` may be absolute or relative; the real registry's is relative."""
    proxy.will("absolute", "POST .*/uploads/", times=-1)
    report = run(f"{registry.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    assert report.digest == whole(registry, f"{repository}/run", "x")


def test_the_smallest_chunk_that_a_registry_takes_is_heeded(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Pushing a blob in chunks: no chunk but the last is smaller than ``OCI-Chunk-Min-Length``."""
    proxy.will("with header", "POST .*/uploads/", times=-1, value=f"OCI-Chunk-Min-Length: {2 * CHUNK}")
    sizes: list[int] = []
    proxy.will("413", f"PUT .*digest={big(registry, base)}", times=1)
    report = run(f"{registry.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    for line, headers in zip(proxy.seen, proxy.headers, strict=True):
        if line.startswith("PATCH"):
            sizes.append(int(headers["Content-Length"]))
            start, _, end = headers["Content-Range"].partition("-")
            assert int(end) - int(start) + 1 == sizes[-1]
    assert len(sizes) == 3
    assert sizes[:2] == [2 * CHUNK, 2 * CHUNK]
    assert report.digest == whole(registry, f"{repository}/run", "x")


def test_chunks_that_are_too_large_get_smaller(
    base: str,
    proxy: Faulty,
    registry: Any,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some registries and the proxies before them take a few megabytes in one request only (413, 416)."""
    monkeypatch.setattr(upload, "SMALLEST", CHUNK // 16)
    proxy.will("too large", "(PUT|PATCH) ", times=-1, value=str(CHUNK // 8))
    report = run(f"{registry.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
    assert report.digest == whole(registry, f"{repository}/run", "x")
    assert proxy.received < 1.1 * BIG


def big(registry: Any, base: str) -> str:
    """The digest of the base's large layer."""
    name, _, tag = base.partition(":")
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    manifest = httpx2.get(f"http://{registry.address}/v2/{name}/manifests/{tag}", headers=accept).json()
    return str(max(manifest["layers"], key=lambda layer: layer["size"])["digest"])


@pytest.mark.parametrize(("kind", "value"), [("405", ""), ("without header", "Docker-Content-Digest")])
def test_a_registry_that_does_not_answer_head_as_it_should(
    kind: str, value: str, base: str, proxy: Faulty, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Checking if content exists in the registry: a HEAD should give a digest; a GET tells it too."""
    proxy.will(kind, f"HEAD /v2/{repository}/base/", times=-1, value=value)
    target = repo(f"{proxy.address}/{repository}/run")
    choice = Choice({bundle.arch: bundle})
    first = obtain(parse(f"{proxy.address}/{base}"), target, choice, store, Access())
    again = obtain(parse(f"{proxy.address}/{base}"), target, choice, store, Access())
    assert (first.status, again.status, again.digest) == ("made", "present", first.digest)


def test_a_registry_that_changes_manifests_is_caught(
    base: str, proxy: Faulty, registry: Any, repository: str, store: Store, bundle: Bundle
) -> None:
    """Section Pushing Manifests: the digest that the registry answers with is the client's."""
    wrong = f"Docker-Content-Digest: sha256:{'0' * 64}"
    proxy.will("with header", "PUT .*/manifests/", times=-1, value=wrong)
    with pytest.raises(VerificationError, match="changes manifests"):
        run(f"{proxy.address}/{base}", f"{proxy.address}/{repository}/run:x", store, bundle)
