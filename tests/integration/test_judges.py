"""What others say of images made here: crane and oras read them, cosign and notation sign them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.integration.conftest import Registry
from tests.integration.judges import judge

from graftbox.cli import graft as command
from graftbox.cli import sbom as cli_sbom
from graftbox.image.attestation import CYCLONEDX, IN_TOTO, attest
from graftbox.image.bundle_image import push_bundle
from graftbox.image.graft import Bundle
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.verify import Question, verify
from graftbox.store import Store, digest_of

FILES = [{"etc/name": b"base"}, {"bin/tool": b"\x7fELF" * 1000}]


def said(name: str, *arguments: str) -> str:
    """What a judge prints; it fails the test by failing."""
    done = subprocess.run([judge(name), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr or done.stdout}"
    return done.stdout


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No log-in, key or trust of the machine's user."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("COSIGN_PASSWORD", "")


@pytest.fixture
def repository(registry: Registry, tmp_path: Path) -> str:
    """A repository that no other test uses."""
    return f"{registry.address}/{re.sub(r'[^a-z0-9]+', '-', tmp_path.name.lower()).strip('-')}"


def of_two_platforms(layout: Any, docker: bool = False) -> str:
    """A base image in a layout."""
    arches = ("amd64", "arm64")
    children = {f"linux/{arch}": layout.image(FILES, tag=None, arch=arch, docker=docker) for arch in arches}
    layout.index(children, docker=docker)
    return f"oci:{layout.folder}:base"


@pytest.mark.parametrize("docker", [False, True])
def test_crane_finds_nothing_wrong_with_an_image_of_two_platforms(
    docker: bool, layout: Any, repository: str, store: Store, bundle: Bundle, arm_bundle: Bundle
) -> None:
    """It reads every layer, and checks sizes, digests, diff IDs and media types."""
    base, name = of_two_platforms(layout, docker), f"{repository}/run:1"
    report = graft_image(parse(base), parse(name), {"amd64": bundle, "arm64": arm_bundle}, store)
    assert "PASS" in said("crane", "validate", "--remote", name)
    assert said("crane", "digest", name).strip() == report.digest
    assert digest_of(said("crane", "manifest", name).encode()) == report.digest
    children = json.loads(said("crane", "manifest", name))["manifests"]
    assert [child["platform"]["architecture"] for child in children] == ["amd64", "arm64"]
    for child in children:
        assert "PASS" in said("crane", "validate", "--remote", f"{repository}/run@{child['digest']}")
        config = json.loads(said("crane", "config", f"{repository}/run@{child['digest']}"))
        assert config["architecture"] == child["platform"]["architecture"]


def test_crane_finds_nothing_wrong_with_the_bundles_own_image(
    repository: str, store: Store, bundle: Bundle, arm_bundle: Bundle
) -> None:
    name = f"{repository}/bundle:1"
    push_bundle({"amd64": bundle, "arm64": arm_bundle}, parse(name), store)
    assert "PASS" in said("crane", "validate", "--remote", name)


def sbom(bundle: Bundle) -> bytes:
    described = {"properties": [{"name": "graftbox:bundle", "value": bundle.digest}]}
    return json.dumps({"bomFormat": "CycloneDX", "metadata": {"component": described}}).encode()


def test_oras_discovers_what_is_attached_and_graftbox_what_oras_attaches(
    layout: Any, repository: str, store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path
) -> None:
    base, name = of_two_platforms(layout), f"{repository}/run:1"
    bundles = {"amd64": bundle, "arm64": arm_bundle}
    report = graft_image(parse(base), parse(name), bundles, store)
    attest(parse(name), report.digest, bundles, sbom)
    assert digest_of(said("oras", "manifest", "fetch", "--plain-http", name).encode()) == report.digest

    def discovered(image: str) -> dict[str, str]:
        found = json.loads(said("oras", "discover", "--plain-http", "--format", "json", image))
        return {one["artifactType"]: one["reference"] for one in found["referrers"]}

    assert set(discovered(name)) == {IN_TOTO}
    index = json.loads(said("oras", "manifest", "fetch", "--plain-http", name))
    first = f"{repository}/run@{index['manifests'][0]['digest']}"
    attached = discovered(first)
    assert set(attached) == {IN_TOTO, CYCLONEDX}
    artifact = json.loads(said("oras", "manifest", "fetch", "--plain-http", attached[CYCLONEDX]))
    blob = f"{repository}/run@{artifact['layers'][0]['digest']}"
    assert said("oras", "blob", "fetch", "--plain-http", "--output", "-", blob).encode() == sbom(bundle)

    (tmp_path / "note").write_text("tested")
    note = ["--artifact-type", "text/x-note", "--disable-path-validation", first, f"{tmp_path / 'note'}"]
    said("oras", "attach", "--plain-http", *note)
    # One that has no file is as good.
    said(
        "oras", "attach", "--plain-http", "--artifact-type", "text/x-mark", "--annotation", "seen=yes", first
    )
    assert set(discovered(first)) == {IN_TOTO, CYCLONEDX, "text/x-note", "text/x-mark"}
    known = {one.digest: one for one in bundles.values()}
    verdict = verify(Question(parse(name), lambda digest, _: [known[digest]], store, base=parse(base)))
    assert verdict.ok, verdict.all_differences
    assert {"text/x-note", "text/x-mark"} < {one.artifact_type for one in verdict.attached}


@pytest.fixture
def signed(
    layout: Any,
    repository: str,
    store: Store,
    bundle: Bundle,
    skopeo: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], str]:
    """Grafts with ``--attest --sign-with PROGRAM``, twice; gives the image's name."""
    layout.image(FILES)
    base = f"{repository}/base:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.folder}:base", f"docker://{base}")
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    monkeypatch.setattr(command, "bundles", lambda *_, **__: {"amd64": bundle})
    monkeypatch.setattr(cli_sbom, "sboms", lambda _: sbom)

    def run(program: str) -> str:
        arguments = [base, "--to-repo", f"{repository}/run", "--json", "--attest", "--sign-with", program]
        found = []
        for _ in range(2):
            done = CliRunner().invoke(command.graft, arguments, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            found.append(json.loads(done.stdout))
        assert [one["status"] for one in found] == ["made", "present"]
        image = f"{repository}/run@{found[0]['digest']}"
        verdict = verify(Question(parse(image), lambda *_: [bundle], store))
        assert verdict.ok, verdict.all_differences
        signatures = [one for one in verdict.attached if not one.checked]
        assert len(signatures) == 1, "what is signed is not signed again"
        assert len(verdict.attached) == 3, "the signature, the provenance and the SBOM are in one list"
        return image

    return run


def test_an_image_signed_by_cosign_is_verified_by_it(signed: Callable[[str], str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    said("cosign", "generate-key-pair", "--output-key-prefix", str(key))
    # No log of a public service: nothing leaves the machine.
    offline = "--yes --tlog-upload=false --use-signing-config=false --allow-http-registry"
    image = signed(f"{judge('cosign')} sign {offline} --key {key}.key")
    check = ["verify", "--key", f"{key}.pub", "--insecure-ignore-tlog", "--allow-http-registry"]
    assert image.partition("@")[2] in said("cosign", *check, image)


def test_an_image_signed_by_notation_is_verified_by_it(signed: Callable[[str], str], tmp_path: Path) -> None:
    said("notation", "cert", "generate-test", "graftbox.test", "--default")
    image = signed(f"{judge('notation')} sign --insecure-registry")
    trust: dict[str, Any] = {"name": "all", "registryScopes": ["*"], "trustedIdentities": ["*"]}
    trust |= {"signatureVerification": {"level": "strict"}, "trustStores": ["ca:graftbox.test"]}
    (tmp_path / "policy.json").write_text(json.dumps({"version": "1.0", "trustPolicies": [trust]}))
    said("notation", "policy", "import", str(tmp_path / "policy.json"))
    assert "Successfully verified" in said("notation", "verify", "--insecure-registry", image)
