"""Several machines attach something to one image at the same moment: nothing that one has attached is lost.

Debian's docker-registry has no referrers API and heeds no conditions, so its clients share one list
(distribution-spec 1.1, "Referrers Tag Schema"); another registry heeds ``If-Match`` (RFC 9110 section 13).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.answering import Answer, Asked, listening
from tests.integration.conftest import Registry

from graftbox.errors import TransportError
from graftbox.image import referrers
from graftbox.image.connection import Registries
from graftbox.image.manifest import OCI_INDEX, Descriptor
from graftbox.image.reference import parse
from graftbox.image.referrers import Attachment, Referrers, fallback_tag
from graftbox.store import digest_of

IMAGES = 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MACHINE = """
import sys
from tests.integration.test_referrers_at_once import IMAGES, subject
from graftbox.image.connection import Registries
from graftbox.image.reference import parse
from graftbox.image.referrers import Attachment, Referrers
repository, name = sys.argv[1:]
with Registries() as registries:
    attached = Referrers(registries, parse(repository).image_name, writing=True)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(IMAGES):
        print(attached.attach(subject(number), Attachment("text/x-note", f"{name} {number}".encode())))
    attached.settle()
"""


def subject(number: int) -> Descriptor:
    """One image of many; the registry takes what is attached to one that it does not have."""
    return Descriptor(MANIFEST, f"sha256:{hashlib.sha256(b'%d' % number).hexdigest()}", 100)


def listed(registry: Registry, repository: str, number: int) -> set[str]:
    """What any client reads in the list of an image."""
    tag = fallback_tag(subject(number).digest)
    url = f"http://{registry.address}/v2/{repository}/manifests/{tag}"
    found = httpx2.get(url, headers={"Accept": OCI_INDEX}, trust_env=False).json()
    return {entry["digest"] for entry in found["manifests"]}


def test_two_machines_attach_to_twenty_images_at_once(registry: Registry) -> None:
    repository = "at-once/two"
    command = [sys.executable, "-c", MACHINE, f"{registry.address}/{repository}:1"]
    machines = [
        subprocess.Popen(
            [*command, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
            cwd=Path(__file__).parents[2],
        )
        for name in ("one", "two")
    ]
    for machine in machines:
        assert machine.stdout is not None
        assert machine.stdout.readline() == "ready\n"
    for machine in machines:
        assert machine.stdin is not None
        machine.stdin.write("go\n")
        machine.stdin.flush()
    made = [machine.communicate(timeout=120)[0].split() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    for number, both in enumerate(zip(*made, strict=True)):
        assert listed(registry, repository, number) == set(both)


@pytest.fixture
def attached(registry: Registry) -> Iterator[Referrers]:
    with Registries() as registries:
        yield Referrers(registries, parse(f"{registry.address}/at-once/alone:1").image_name, writing=True)


def overwritten(registry: Registry, tag: str, entries: list[dict[str, Any]]) -> None:
    """What another client does that has read the list too early."""
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    url = f"http://{registry.address}/v2/at-once/alone/manifests/{tag}"
    sent = httpx2.put(url, content=json.dumps(body), headers={"Content-Type": OCI_INDEX}, trust_env=False)
    assert sent.status_code == 201, sent.text


def test_a_list_that_was_overwritten_with_an_older_one_is_mended(
    registry: Registry, attached: Referrers
) -> None:
    one, tag = subject(100), fallback_tag(subject(100).digest)
    first = attached.attach(one, Attachment("text/x-note", b"a"))
    second = attached.attach(one, Attachment("text/x-note", b"b"))
    with Registries() as registries:
        other = Referrers(registries, attached.name, writing=True)
        foreign = other.attach(one, Attachment("text/x-note", b"c"))
        (entry,) = [found for found in other.find(one.digest) if found.descriptor.digest == foreign]
        facts = {"mediaType": MANIFEST, "digest": foreign, "size": entry.descriptor.size}
        overwritten(registry, tag, [facts])
        assert {found.descriptor.digest for found in other.find(one.digest)} == {foreign}
        attached.settle()
        assert {found.descriptor.digest for found in other.find(one.digest)} == {first, second, foreign}


def test_a_list_that_others_never_leave_alone_is_an_error_in_the_end(
    registry: Registry, attached: Referrers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, tag = subject(101), fallback_tag(subject(101).digest)
    monkeypatch.setattr(referrers, "SETTLING", 0.001)
    attached.attach(one, Attachment("text/x-note", b"a"))
    monkeypatch.setattr(attached, "_slowest", 0.0)
    pause = time.sleep

    def meanwhile(seconds: float) -> None:
        overwritten(registry, tag, [])
        pause(0)

    monkeypatch.setattr(time, "sleep", meanwhile)
    with pytest.raises(TransportError, match=f"Others keep writing the tag {tag}"):
        attached.settle()


class Conditional:
    """As much of a registry as an attachment needs: no referrers API, but conditions on its one list."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        """It takes no condition at all."""
        self.entries: list[str] = []
        self.puts: list[tuple[str, str]] = []
        """Of each list that was sent: its condition, and the answer."""

    def document(self) -> bytes:
        manifests = [{"mediaType": MANIFEST, "digest": digest, "size": 1} for digest in self.entries]
        return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()

    def answer(self, request: Asked) -> Answer:
        url = urlsplit(request.path)
        if "/blobs/" in url.path:
            return (202 if request.command == "POST" else 201), {"Location": "/v2/x/blobs/uploads/1"}, b""
        if "/manifests/sha256-" not in url.path:
            return (404 if "/referrers/" in url.path else 201), {}, b""
        if request.command != "PUT":
            if not self.entries:
                return 404, {}, b""
            data = self.document()
            return 200, {"ETag": f'"{digest_of(data)}"', "Content-Type": OCI_INDEX}, data
        return self.written(request)

    def written(self, request: Asked) -> Answer:
        body = json.loads(request.body)
        if not self.puts:
            # Another client comes in between.
            self.entries.append(f"sha256:{'f' * 64}")
        none, match = request.headers.get("If-None-Match"), request.headers.get("If-Match")
        now = f'"{digest_of(self.document())}"'
        failed = bool(self.entries) if none else match is not None and match != now
        if self.refuses:
            failed = bool(none or match)
        self.puts.append((none or match or "", "412" if failed else "201"))
        if failed:
            return 412, {}, b""
        self.entries = [entry["digest"] for entry in body["manifests"]]
        return 201, {}, b""


@pytest.mark.parametrize("refuses", [False, True])
def test_a_registry_that_heeds_conditions_loses_nothing(refuses: bool) -> None:
    held = Conditional(refuses)
    with listening(held.answer) as address, Registries() as registries:
        attached = Referrers(registries, parse(f"{address}/x:1").image_name, writing=True)
        made = attached.attach(subject(1), Attachment("text/x-note", b"a"))
        attached.settle()
    assert held.entries == [f"sha256:{'f' * 64}", made]
    conditions, answers = zip(*held.puts, strict=True)
    assert conditions[0] == "*", "the list was not there when it was read"
    assert conditions[1].startswith('"sha256:')
    assert answers == (("412", "412", "412", "201") if refuses else ("412", "201"))
    assert (conditions[-1] == "") is refuses, "a condition that is never met is left out"
