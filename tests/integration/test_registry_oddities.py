"""What registries and the proxies before them may do, and few do: the result is the same, or it is explained.

The sections that are cited are those of the OCI distribution specification 1.1, under their own titles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.planted import plant
from tests.integration.conftest import Registry, free_port, running_registry
from tests.integration.faults import Faulty, faulty

from graftbox.errors import TransportError, VerificationError
from graftbox.image import batch, prune
from graftbox.image.connection import Registries
from graftbox.image.graft import Bundle
from graftbox.image.host import Settings
from graftbox.image.manifest import Descriptor
from graftbox.image.place import Report, graft_image
from graftbox.image.reference import image_name, parse
from graftbox.image.referrers import Attachment, Referrers
from graftbox.image.retry import Patience
from graftbox.image.reuse import obtain
from graftbox.image.tags import Choice
from graftbox.image.tags import repository as repo
from graftbox.image.transports import Access
from graftbox.store import Store


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of attempts, with short pauses."""
    monkeypatch.setattr("graftbox.image.host.PATIENCE", Patience(first=0.01))


@pytest.fixture
def base(registry: Registry, proxy: Faulty, repository: str) -> str:
    """A base, as the proxy calls it."""
    (base,) = plant(registry, f"{repository}/base", 1)
    return base.replace(registry.address, proxy.address)


def run(base: str, target: str, store: Store, bundle: Bundle) -> Report:
    return graft_image(parse(base), parse(target), {bundle.arch: bundle}, store)


def beside(base: str, name: str = "run") -> str:
    """Another repository of the same test."""
    return f"{base.rpartition('/')[0]}/{name}"


@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_a_proxy_that_compresses_answers_though_nobody_asked(
    what: str, base: str, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    """RFC 9110 section 8.4: the digest is of what the encoding was applied to."""
    sound = run(base, f"{beside(base)}:sound", store, bundle)
    proxy.will("gzip", f"GET .*/{what}/", times=-1)
    assert run(base, f"{beside(base)}:x", store, bundle).digest == sound.digest
    assert proxy.happened


def test_a_storage_that_calls_compressed_layers_encoded(
    base: str, proxy: Faulty, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    """Section Pulling blobs: the digest is of the bytes as they were stored."""
    sound = run(base, f"oci:{tmp_path / 'sound'}:x", store, bundle)
    proxy.will("with header", "GET .*/blobs/", times=-1, value="Content-Encoding: gzip")
    assert run(base, f"oci:{tmp_path / 'out'}:x", store, bundle).digest == sound.digest
    assert len(proxy.happened) == 2


@pytest.mark.parametrize(("kind", "value"), [("405", ""), ("without header", "Docker-Content-Digest")])
def test_a_registry_of_the_target_that_does_not_answer_head_as_it_should(
    kind: str, value: str, base: str, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    """Section Checking if content exists in the registry: a GET tells the same."""
    proxy.will(kind, "HEAD .*/manifests/", times=-1, value=value)
    target, choice = repo(beside(base)), Choice({bundle.arch: bundle})
    first = obtain(parse(base), target, choice, store, Access())
    again = obtain(parse(base), target, choice, store, Access())
    assert (first.status, again.status) == ("made", "present")
    assert again.digest == first.digest != ""


def test_a_registry_that_does_not_say_what_it_has_stored(
    base: str, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    """Section Pushing Manifests: the digest in the answer is a SHOULD."""
    proxy.will("without header", "PUT .*/manifests/", times=-1, value="Docker-Content-Digest")
    report = run(base, f"{beside(base)}:x", store, bundle)
    assert run(base, f"{beside(base)}:y", store, bundle).digest == report.digest


def test_a_registry_that_sees_what_it_was_given_a_moment_later(
    base: str, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    """Storage of several machines: the manifest's own may not know yet of a blob that another one took."""
    layer = bundle.layers[0].digest
    proxy.will("lacks", "PUT .*/manifests/", times=3, value=layer)
    report = run(base, f"{beside(base)}:x", store, bundle)
    assert run(base, f"{beside(base)}:x", store, bundle).digest == report.digest
    proxy.will("lacks", "PUT .*/manifests/", times=-1, value=layer)
    with pytest.raises(VerificationError, match="says that it lacks it"):
        run(base, f"{beside(base, 'other')}:x", store, bundle)


def test_an_upload_that_goes_on_at_another_host(
    base: str, registry: Registry, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    """Section POST then PUT: ``Location`` may be on another host; so may that of a mount that was not."""
    with faulty(registry.address) as other:
        proxy.will("unmounted", "POST .*mount=", times=-1, value=other.address)
        proxy.will("absolute", "POST .*/uploads/", times=-1, value=other.address)
        report = run(base, f"{beside(base)}:x", store, bundle)
        assert other.count("PUT .*digest=") == 4
    proxy.faults.clear()
    assert run(base, f"{beside(base)}:y", store, bundle).digest == report.digest


def test_a_registry_that_redirects_in_a_circle(
    base: str, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    repository = base.partition("/")[2].rpartition(":")[0]
    loop = f"/v2/{repository}/manifests/b0"
    proxy.will("redirect", "GET .*/manifests/", times=-1, value=loop)
    with pytest.raises(TransportError, match="redirects in a circle"):
        run(base, f"{beside(base)}:x", store, bundle)
    assert proxy.count("GET .*/manifests/") < 10


def test_a_page_of_html_where_referrers_would_be(
    base: str, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    """Section Listing Referrers: 404 means that the fallback tag counts, whatever the page says."""
    report = run(base, f"{beside(base)}:x", store, bundle)
    for status in ("404", "200"):
        proxy.will("html", "GET .*/referrers/", times=-1, value=status)
        with Registries() as registries:
            referrers = Referrers(registries, parse(f"{beside(base)}:x").image_name, writing=True)
            subject = Descriptor("application/vnd.oci.image.manifest.v1+json", report.digest, 1)
            made = referrers.attach(subject, Attachment("text/x-test", status.encode()))
            assert made in {one.descriptor.digest for one in referrers.find(report.digest)}
        proxy.faults.clear()


@pytest.mark.parametrize("how", ["relative", "absolute"])
def test_long_lists_of_tags_are_read_page_by_page(
    how: str, registry: Registry, proxy: Faulty, repository: str
) -> None:
    """Section Listing Tags: ``Link`` names the next page, by a relative address or a whole one."""
    bases = list(plant(registry, repository, 8))
    proxy.will("pages", "GET .*/tags/list", times=-1, value=proxy.address if how == "absolute" else "")
    with Registries() as registries:
        found = list(prune.tags(registries, image_name(f"{proxy.address}/{repository}")))
    assert sorted(found) == sorted(base.rpartition(":")[2] for base in bases)
    assert proxy.count("GET .*/tags/list") == 3


def test_a_registry_with_an_ipv6_address(tmp_path: Path, store: Store, bundle: Bundle) -> None:
    """RFC 3986 section 3.2.2: such an address is written in brackets."""
    with running_registry(tmp_path / "six", host="[::1]") as six:
        (base,) = plant(six, "base", 1)
        assert base.startswith("[::1]:")
        report = run(base, f"{six.address}/run:x", store, bundle)
        assert run(base, f"{six.address}/run:x", store, bundle).digest == report.digest


def test_a_batch_outlives_a_restart_of_its_registry(tmp_path: Path, store: Store, bundle: Bundle) -> None:
    """Killed in the middle of requests, with a new secret and so without its open uploads afterwards."""
    port, count = free_port(), 60
    patience = Patience(first=0.05, tries=12)
    with Registries(Settings(parallel=4, patience=patience)) as registries:
        access = replace(Access(), registries=registries)
        work = batch.worker(repo(f"127.0.0.1:{port}/run"), "tags", Choice({"amd64": bundle}), store, access)
        outcomes = []
        with running_registry(tmp_path / "registry", port) as first:
            bases = list(plant(first, "base", count))
            results = batch.run(bases, work, 4, registries)
            outcomes += [next(results) for _ in range(count // 4)]
        with running_registry(tmp_path / "registry", port, secret="another"):
            outcomes += list(results)
    assert {outcome.base for outcome in outcomes} == set(bases)
    assert {outcome.status for outcome in outcomes} == {"made"}, outcomes
