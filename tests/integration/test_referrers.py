"""Provenance and SBOM attached to images: a real registry without the referrers API, and one with it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from benchmarks.planted import plant
from click.testing import CliRunner, Result
from tests.integration.conftest import Registry

from graftbox.cli import graft as command
from graftbox.cli import sbom as cli_sbom
from graftbox.errors import NotFoundError
from graftbox.image.attestation import CYCLONEDX, IN_TOTO, PROVENANCE, attest
from graftbox.image.connection import Registries
from graftbox.image.graft import Bundle
from graftbox.image.manifest import OCI_INDEX, Descriptor
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.referrers import Attachment, Referrers, fallback_tag
from graftbox.image.verify import Question, Verdict, verify
from graftbox.store import Store, digest_of

FILES = [{"etc/name": b"base"}, {"bin/tool": b"\x7fELF" * 1000}]


def sbom(bundle: Bundle) -> bytes:
    described = {"properties": [{"name": "graftbox:bundle", "value": bundle.digest}]}
    return json.dumps({"bomFormat": "CycloneDX", "metadata": {"component": described}}).encode()


@pytest.fixture
def repository(registry: Registry, tmp_path: Path) -> str:
    return f"{registry.address}/{re.sub(r'[^a-z0-9]+', '-', tmp_path.name.lower()).strip('-')}"


@pytest.fixture
def image(
    layout: Any, repository: str, store: Store, bundle: Bundle, arm_bundle: Bundle, skopeo: Callable[..., str]
) -> str:
    """A grafted image of two platforms."""
    children = {f"linux/{arch}": layout.image(FILES, tag=None, arch=arch) for arch in ("amd64", "arm64")}
    layout.index(children)
    base = f"docker://{repository}/base:1"
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout.folder}:base", base)
    name = f"{repository}/run:1"
    graft_image(parse(base), parse(name), {"amd64": bundle, "arm64": arm_bundle}, store)
    return name


@pytest.fixture
def check(store: Store, bundle: Bundle, arm_bundle: Bundle) -> Callable[[str], Verdict]:
    bundles = {one.digest: one for one in (bundle, arm_bundle)}
    return lambda image: verify(Question(parse(image), lambda digest, _: [bundles[digest]], store))


def test_provenance_and_sbom_are_attached_once_and_found(
    image: str,
    repository: str,
    bundle: Bundle,
    arm_bundle: Bundle,
    check: Callable[[str], Verdict],
    skopeo: Callable[..., str],
) -> None:
    before = check(image)
    assert before.ok
    assert not before.attached
    bundles = {"amd64": bundle, "arm64": arm_bundle}
    made = attest(parse(image), before.digest, bundles, sbom)
    assert len(set(made)) == 5
    assert attest(parse(image), before.digest, bundles, sbom) == made
    verdict = check(image)
    assert verdict.ok, verdict.all_differences
    assert verdict.digest == before.digest, "what is attached changes nothing of the image"
    assert sorted(one.artifact_type for one in verdict.attached) == [CYCLONEDX] * 2 + [IN_TOTO] * 3
    child = verdict.platforms[0]
    tag = f"docker://{repository}/run:{fallback_tag(child.digest)}"
    listed = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", tag))
    assert {entry["artifactType"] for entry in listed["manifests"]} == {CYCLONEDX, IN_TOTO}
    (entry,) = [entry for entry in listed["manifests"] if entry["artifactType"] == IN_TOTO]
    assert entry["annotations"] == {"in-toto.io/predicate-type": PROVENANCE}


def test_the_statement_names_what_the_image_was_made_of(
    image: str, bundle: Bundle, arm_bundle: Bundle, check: Callable[[str], Verdict]
) -> None:
    digest = check(image).digest
    attest(parse(image), digest, {"amd64": bundle, "arm64": arm_bundle}, sbom)
    child = check(image).platforms[0]
    with Registries() as registries:
        referrers = Referrers(registries, parse(image).image_name)
        (found,) = [one for one in referrers.find(child.digest) if one.artifact_type == IN_TOTO]
        manifest = referrers.manifest(found)
        data = referrers.file(manifest)
    assert manifest.json["subject"]["digest"] == child.digest
    statement = json.loads(data)
    assert statement["subject"][0]["digest"] == {"sha256": child.digest.removeprefix("sha256:")}
    dependencies = {
        one["name"]: one["digest"]
        for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert child.base_digest is not None
    assert dependencies["base"] == {"sha256": child.base_digest.removeprefix("sha256:")}
    assert dependencies["bundle"] == {"sha256": bundle.digest.removeprefix("sha256:")}


def test_attestations_that_lie_are_found_and_foreign_ones_are_listed(
    image: str, check: Callable[[str], Verdict]
) -> None:
    verdict = check(image)
    child = verdict.platforms[0]
    base = child.base_digest or ""
    lies = {
        "another bundle": Attachment(CYCLONEDX, sbom_of("sha256:" + "0" * 64)),
        "another image": Attachment(IN_TOTO, statement_of("sha256:" + "1" * 64, base)),
        "another base": Attachment(IN_TOTO, statement_of(child.digest, "sha256:" + "2" * 64)),
        "not JSON": Attachment(IN_TOTO, b"\xff"),
        "malformed": Attachment(IN_TOTO, b"{}"),
    }
    with Registries() as registries:
        referrers = Referrers(registries, parse(image).image_name, writing=True)
        subject = Descriptor("application/vnd.oci.image.manifest.v1+json", child.digest, 1)
        for lie in lies.values():
            referrers.attach(subject, lie)
        referrers.attach(subject, Attachment("application/vnd.example.signature", b"whatever"))
    verdict = check(image)
    assert not verdict.ok
    problems = [one.problem for one in verdict.attached]
    assert len(problems) == len(lies) + 1
    for words in lies:
        assert any(words in problem for problem in problems), words
    (foreign,) = [one for one in verdict.attached if not one.checked]
    assert foreign.problem == ""


def test_a_list_cannot_hide_what_is_attached_under_another_type(
    image: str, check: Callable[[str], Verdict], registry: Registry
) -> None:
    digest = check(image).platforms[0].digest
    subject = Descriptor("application/vnd.oci.image.manifest.v1+json", digest, 1)
    with Registries() as registries:
        referrers = Referrers(registries, parse(image).image_name, writing=True)
        referrers.attach(subject, Attachment(CYCLONEDX, sbom_of("sha256:" + "0" * 64)))
    host, _, path = image.partition("/")
    url = f"http://{host}/v2/{path.rpartition(':')[0]}/manifests/{fallback_tag(digest)}"
    listed = httpx2.get(url, headers={"Accept": OCI_INDEX}, trust_env=False).json()
    listed["manifests"][0]["artifactType"] = "text/x-note"
    httpx2.put(url, content=json.dumps(listed), headers={"Content-Type": OCI_INDEX}, trust_env=False)
    (found,) = check(image).attached
    assert (found.artifact_type, found.checked) == (CYCLONEDX, True)
    assert "another bundle" in found.problem


def sbom_of(digest: str) -> bytes:
    described = {"properties": [{"name": "graftbox:bundle", "value": digest}]}
    return json.dumps({"bomFormat": "CycloneDX", "metadata": {"component": described}}).encode()


def statement_of(subject: str, base: str) -> bytes:
    named = [{"name": "base", "digest": {"sha256": base.removeprefix("sha256:")}}]
    definition = {"buildType": "urn:graftbox:graft:1", "resolvedDependencies": named}
    return json.dumps(
        {
            "subject": [{"digest": {"sha256": subject.removeprefix("sha256:")}}],
            "predicateType": PROVENANCE,
            "predicate": {"buildDefinition": definition},
        }
    ).encode()


def test_a_bundle_that_was_not_grafted_here_is_not_attested(
    image: str, other_bundle: Bundle, check: Callable[[str], Verdict]
) -> None:
    with pytest.raises(NotFoundError, match="not grafted here"):
        attest(parse(image), check(image).digest, {"amd64": other_bundle}, sbom)


def test_the_list_under_the_fallback_tag_grows(image: str, check: Callable[[str], Verdict]) -> None:
    digest = check(image).platforms[0].digest
    subject = Descriptor("application/vnd.oci.image.manifest.v1+json", digest, 1)
    with Registries() as registries:
        referrers = Referrers(registries, parse(image).image_name, writing=True)
        for number in range(8):
            referrers.attach(subject, Attachment("application/vnd.example", str(number).encode()))
        assert len(referrers.find(digest)) == 8


class _Modern(BaseHTTPRequestHandler):
    """As much of a registry with the referrers API as an attachment needs (distribution-spec 1.1)."""

    blobs: ClassVar[dict[str, bytes]] = {}
    manifests: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.requests.append(f"{self.command} {urlsplit(self.path).path}")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        kind, name = self.path.partition("?")[0].split("/")[-2:]
        if kind == "referrers":
            found = []
            for digest, data in self.manifests.items():
                body = json.loads(data)
                if body["subject"]["digest"] == name:
                    entry = {"mediaType": body["mediaType"], "digest": digest, "size": len(data)}
                    found.append({**entry, "artifactType": body["artifactType"]})
            # Two pages: the second by a link, as the spec allows.
            second = "page=2" in self.path
            page = found[1:] if second else found[:1]
            headers = {"Content_Type": OCI_INDEX}
            if not second and found[1:]:
                headers["Link"] = f'<{self.path}?page=2>; rel="next"'
            self._answer(200, json.dumps({"schemaVersion": 2, "manifests": page}).encode(), **headers)
            return
        stored = (self.manifests if kind == "manifests" else self.blobs).get(name)
        self._answer(404 if stored is None else 200, stored or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self._answer(202, Location="/v2/x/blobs/uploads/1")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        url = urlsplit(self.path)
        if "uploads" in url.path:
            self.blobs[parse_qs(url.query)["digest"][0]] = data
            self._answer(201)
            return
        self.manifests[digest_of(data)] = data
        self._answer(201, OCI_Subject=json.loads(data)["subject"]["digest"])


@pytest.fixture
def modern() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Modern)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_registry_with_the_referrers_api_gets_no_fallback_tag(modern: str) -> None:
    subject = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "3" * 64, 1)
    with Registries() as registries:
        referrers = Referrers(registries, parse(f"{modern}/x:1").image_name, writing=True)
        first = referrers.attach(subject, Attachment("application/vnd.example.a", b"a"))
        second = referrers.attach(subject, Attachment("application/vnd.example.b", b"b"))
        found = referrers.find(subject.digest)
        assert [one.descriptor.digest for one in found] == [first, second], "both pages"
        assert referrers.file(referrers.manifest(found[1])) == b"b"
        assert referrers.attach(subject, Attachment("application/vnd.example.b", b"b")) == second
    assert not any("sha256-" in line for line in _Modern.requests)
    assert sum(line.startswith("PUT") and "manifests" in line for line in _Modern.requests) == 2


def test_what_many_threads_attach_at_once_is_all_listed(
    image: str, check: Callable[[str], Verdict], registry: Registry
) -> None:
    subject = Descriptor("application/vnd.oci.image.manifest.v1+json", check(image).platforms[0].digest, 1)
    with Registries() as registries, ThreadPoolExecutor(8) as pool:
        name = parse(image).image_name

        def attach(number: int) -> str:
            referrers = Referrers(registries, name, writing=True)
            return referrers.attach(subject, Attachment("text/x-note", f"{number}".encode()))

        made = set(pool.map(attach, range(16)))
        assert {one.descriptor.digest for one in Referrers(registries, name).find(subject.digest)} == made
    assert len(made) == 16


@pytest.fixture
def signer(tmp_path: Path) -> Path:
    """A program that signs by writing down what it was called with; it refuses what is called unlucky."""
    program = tmp_path / "signer"
    program.write_text(f'#!/bin/sh\ncase "$1" in *unlucky*) exit 3 ;; esac\necho "$1" >> {tmp_path}/signed\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def graft_list(
    registry: Registry,
    repository: str,
    store: Store,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    """Runs ``graftbox graft --from`` for three bases, on a machine whose bundle is a small one."""
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    monkeypatch.setattr(command, "bundles", lambda *_, **__: {"amd64": bundle})
    monkeypatch.setattr(cli_sbom, "sboms", lambda _: sbom)
    listed = tmp_path / "bases"
    listed.write_text("\n".join(plant(registry, f"{repository.partition('/')[2]}/bases", 3)))

    def run(name: str, *options: str) -> Result:
        arguments = ["--from", str(listed), "--to-repo", f"{repository}/{name}", "--jobs", "3", *options]
        return CliRunner().invoke(command.graft, arguments)

    return run


def outcomes_of(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_list_of_bases_is_attested_and_signed_as_it_is_grafted(
    graft_list: Callable[..., Result], repository: str, signer: Path
) -> None:
    once = graft_list("run")
    assert once.exit_code == 0, once.output
    done = graft_list("run", "--attest", "--sign-with", str(signer))
    assert done.exit_code == 0, done.output
    outcomes = outcomes_of(done)
    assert {one["status"] for one in outcomes} == {"present"}, "what was made before is attested as well"
    signed = set(signer.with_name("signed").read_text().split())
    assert signed == {f"{repository}/run@{one['digest']}" for one in outcomes}
    with Registries() as registries:
        for one in outcomes:
            found = Referrers(registries, parse(one["image"]).image_name).find(one["digest"])
            assert sorted(each.artifact_type for each in found) == [CYCLONEDX, IN_TOTO]


def test_an_image_that_cannot_be_signed_is_a_failure_of_its_own(
    graft_list: Callable[..., Result], signer: Path
) -> None:
    done = graft_list("unlucky", "--sign-with", str(signer))
    assert done.exit_code == 1
    outcomes = outcomes_of(done)
    assert [one["status"] for one in outcomes] == ["failed"] * 3
    assert all("was made but not signed" in one["error"] for one in outcomes)
