"""Many bases at once against a real registry: interrupted, resumed, and right in the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from benchmarks.planted import plant
from benchmarks.relay import relay
from tests.conftest import make_bundle
from tests.integration.conftest import free_port
from tests.integration.faults import Faulty, faulty

from graftbox.image import batch
from graftbox.image.graft import Bundle, Image, Options, graft
from graftbox.image.manifest import OCI_MANIFEST, Document
from graftbox.image.reference import parse
from graftbox.image.retry import Patience
from graftbox.image.reuse import MADE, PRESENT, Outcome, obtain
from graftbox.image.tags import Choice, repository, tags_of
from graftbox.image.transports import Access
from graftbox.store import Store, digest_of

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from tests.conftest import make_bundle
from graftbox.cli import batch
from graftbox.image.tags import Choice
from graftbox.image.transports import Access
from graftbox.store import Store, digest_of
store = Store()
choice = Choice({"amd64": make_bundle(store)})
sys.exit(batch.many(sys.argv[1], sys.argv[2], choice, store, Access(), 4, "1/1", sys.argv[3]))
"""


@pytest.fixture
def own(start_registry: Any, tmp_path: Path) -> Iterator[Any]:
    """A registry of the test's own: what it stores is counted."""
    with start_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def proxy(own: Any) -> Iterator[Faulty]:
    with faulty(own.address) as running:
        yield running


def started(listed: Path, target: str, cache: Path, naming: str = "tags") -> subprocess.Popen[str]:
    environment = {**os.environ, "GRAFTBOX_CACHE": str(cache), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-c", PROGRAM, str(listed), target, naming]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def expected(own: Any, base: str, named: str, bundle: Bundle) -> tuple[str, str]:
    """The source tag and digest that a base's runtime image must have, from what the registry has on disk."""
    name = parse(base).image_name
    document = Document(blob(own, current(own, name.repository, str(name.tag))), OCI_MANIFEST)
    options = Options(parse(named).portable, base_digest=document.digest)
    image = graft(Image(document, blob(own, document.config.digest)), bundle, options)
    return tags_of(parse(named), document.digest, Choice({"amd64": bundle})).source, image.manifest.digest


def current(own: Any, name: str, tag: str) -> str:
    """What a tag stands for in docker-registry's storage."""
    tags = own.root / "docker/registry/v2/repositories" / name / "_manifests/tags"
    return str((tags / tag / "current/link").read_text())


def blob(own: Any, digest: str) -> bytes:
    value = digest.removeprefix("sha256:")
    data: bytes = (own.root / f"docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data").read_bytes()
    assert digest_of(data) == digest
    return data


def test_a_thousand_images_are_right_though_the_batch_is_killed_three_times(own: Any, tmp_path: Path) -> None:
    """What is finished is never made again, nothing is half there, and each run goes on from the last."""
    count, jobs, made = 1000, 4, 0
    with relay(own.address) as counting:
        bases = [base.replace(own.address, counting.address) for base in plant(own, "bases", count)]
        listed = tmp_path / "list"
        listed.write_text("# bases\n\n" + "\n".join(bases) + "\n")
        target, cache = f"{counting.address}/team/runtime", tmp_path / "cache"
        for _ in range(3):
            process = started(listed, target, cache)
            assert process.stdout is not None
            for number, line in enumerate(process.stdout):
                made += json.loads(line)["status"] == MADE
                if number >= made // 2 + count // 5:
                    break
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        process = started(listed, target, cache)
        output, errors = process.communicate(timeout=600)
    outcomes = [json.loads(line) for line in output.splitlines()]
    assert process.returncode == 0, errors
    assert f"{count} images: " in errors
    assert {outcome["base"] for outcome in outcomes} == set(bases)
    assert sum(outcome["status"] == PRESENT for outcome in outcomes) >= made

    bundle = make_bundle(Store(cache))
    for base in bases:
        tag, digest = expected(own, base.replace(counting.address, own.address), base, bundle)
        assert current(own, "team/runtime", tag) == digest
        for entry in json.loads(blob(own, digest))["layers"][-2:]:
            assert len(blob(own, entry["digest"])) == entry["size"]
    tags = own.root / "docker/registry/v2/repositories/team/runtime/_manifests/tags"
    assert len(list(tags.iterdir())) == 3 * count
    # Headers and all, 6.7 kB for each image: its manifest three times, its config, the looks at what is
    # finished in four runs; of what was under way at a kill, all once more; the bundle's two small layers.
    assert counting.sent < (count + 3 * jobs) * 8_000
    # Each base is a config and a manifest, and so is its runtime image; one base layer, two of the bundle.
    blobs = list((own.root / "docker/registry/v2/blobs/sha256").glob("*/*/data"))
    assert len(blobs) == 4 * count + 3


def test_finished_work_costs_one_request_for_the_base_and_one_for_the_image(
    own: Any, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    (base,) = [item.replace(own.address, proxy.address) for item in plant(own, "bases", 1)]
    outcomes = list(run([base], proxy, store, bundle))
    assert [outcome.status for outcome in outcomes] == [MADE]
    proxy.seen.clear()
    again = list(run([base], proxy, store, bundle))
    assert [outcome.status for outcome in again] == [PRESENT]
    assert (again[0].digest, again[0].tags) == (outcomes[0].digest, outcomes[0].tags)
    assert [line.split(" ")[0] for line in proxy.seen] == ["HEAD", "HEAD"]
    pinned = f"{base.rpartition(':')[0]}@{pinned_digest(own)}"
    proxy.seen.clear()
    (found,) = run([pinned], proxy, store, bundle)
    assert found.status == PRESENT
    assert [line.split(" ")[0] for line in proxy.seen] == ["HEAD"]


def pinned_digest(own: Any) -> str:
    url = f"http://{own.address}/v2/bases/manifests/b0"
    return str(httpx2.head(url, headers={"Accept": OCI_MANIFEST}).headers["Docker-Content-Digest"])


def run(
    bases: list[str], registry: Any, store: Store, bundle: Bundle, jobs: int = 4, naming: str = "tags"
) -> Iterator[Outcome]:
    target = repository(f"{registry.address}/team/runtime")
    with Access().shared(jobs) as registries:
        access = replace(Access(), registries=registries)
        work = batch.worker(target, naming, Choice({"amd64": bundle}), store, access)
        yield from batch.run(bases, work, jobs, registries)


def test_a_base_that_fails_does_not_touch_the_others(
    own: Any, proxy: Faulty, store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftbox.image.host.PATIENCE", Patience(first=0.01))
    bases = [item.replace(own.address, proxy.address) for item in plant(own, "bases", 6)]
    proxy.will("500", "GET /v2/bases/manifests/.*", times=8)
    bad = ["127.0.0.1:1/nobody/there:1", "Not A Name", f"{own.address}/bases:missing"]
    outcomes = {outcome.base: outcome for outcome in run([*bases, *bad], proxy, store, bundle)}
    assert {base for base, outcome in outcomes.items() if outcome.status == "failed"} == set(bad)
    assert "Cannot reach" in outcomes[bad[0]].error
    assert "does not exist" in outcomes[bad[2]].error


def test_the_bundle_is_sent_once_however_many_images_want_it_at_once(
    own: Any, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    bases = [item.replace(own.address, proxy.address) for item in plant(own, "bases", 12)]
    outcomes = list(run(bases, proxy, store, bundle, jobs=8))
    assert sum(outcome.layers_sent for outcome in outcomes) == 2
    for layer in bundle.layers:
        assert proxy.count(f"PUT .*digest={layer.digest}") == 1


def test_one_repository_for_each_base_mounts_the_bundle(
    own: Any, proxy: Faulty, store: Store, bundle: Bundle
) -> None:
    bases = [item.replace(own.address, proxy.address) for item in plant(own, "one", 2)]
    bases += [item.replace(own.address, proxy.address) for item in plant(own, "two/deep", 2)]
    outcomes = list(run(bases, proxy, store, bundle, naming="repos", jobs=1))
    assert sum(outcome.layers_sent for outcome in outcomes) == 2
    repositories = {outcome.image.rpartition(":")[0] for outcome in outcomes}
    host = proxy.address.replace(".", "-").replace(":", "-")
    assert repositories == {
        f"{proxy.address}/team/runtime/{host}/one",
        f"{proxy.address}/team/runtime/{host}/two/deep",
    }


def test_a_second_name_of_a_base_gets_its_versioned_tag(
    own: Any, store: Store, bundle: Bundle, skopeo: Any
) -> None:
    (base,) = plant(own, "bases", 1)
    other = f"{own.address}/bases:other"
    skopeo(
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        *(f"docker://{n}" for n in (base, other)),
    )
    first, second = run([base, other], own, store, bundle, jobs=1)
    assert (first.status, second.status) == (MADE, PRESENT)
    assert first.digest == second.digest
    tags = httpx2.get(f"http://{own.address}/v2/team/runtime/tags/list").json()["tags"]
    assert set(tags) == {*first.tags, *second.tags}
    assert len(tags) == 4
    # One at a time, too.
    choice, target = Choice({"amd64": bundle}), repository(f"{own.address}/team/alone")
    assert [obtain(parse(name), target, choice, store, Access()).status for name in (base, other)] == [
        MADE,
        PRESENT,
    ]
    tags = httpx2.get(f"http://{own.address}/v2/team/alone/tags/list").json()["tags"]
    assert len(tags) == 4


def test_other_code_other_options_and_other_content_are_other_images(
    own: Any, store: Store, bundle: Bundle, other_bundle: Bundle
) -> None:
    bases = list(plant(own, "bases", 2))
    target = repository(f"{own.address}/team/runtime")

    def made(base: str, choice: Choice) -> Outcome:
        return obtain(parse(base), target, choice, store, Access())

    plain, later = Choice({"amd64": bundle}), Choice({"amd64": other_bundle})
    outcomes = [made(bases[0], plain), made(bases[1], plain), made(bases[0], later)]
    outcomes.append(made(bases[0], replace(plain, user="7")))
    outcomes.append(made(bases[0], replace(plain, keep_entrypoint=True)))
    assert [outcome.status for outcome in outcomes] == [MADE] * 5
    assert len({outcome.digest for outcome in outcomes}) == 5
    assert len({outcome.tags[2] for outcome in outcomes}) == 5
    back = made(bases[0], plain)
    assert (back.status, back.digest) == (PRESENT, outcomes[0].digest)


def test_an_interrupted_batch_says_so_and_ends_at_once(own: Any, proxy: Faulty, tmp_path: Path) -> None:
    bases = [base.replace(own.address, proxy.address) for base in plant(own, "bases", 40)]
    proxy.will("503", "PUT .*/manifests/", times=-1)
    listed = tmp_path / "list"
    listed.write_text("\n".join(bases))
    process = started(listed, f"{proxy.address}/team/runtime", tmp_path / "cache")
    while not proxy.count("PUT .*/manifests/"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    assert [line for line in output.splitlines() if json.loads(line)["status"] != "failed"] == []


def test_a_target_that_refuses_everything_ends_the_run(own: Any, proxy: Faulty, tmp_path: Path) -> None:
    bases = [base.replace(own.address, proxy.address) for base in plant(own, "bases", 60)]
    proxy.will("403", "POST .*", times=-1)
    listed = tmp_path / "list"
    listed.write_text("\n".join(bases))
    process = started(listed, f"{proxy.address}/team/runtime", tmp_path / "cache")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Stopped: the last 20 images failed for the same reason" in errors
    assert len(output.splitlines()) == 20


def test_a_registry_that_is_restarted_under_a_batch_is_waited_for(
    start_registry: Any, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    folder, port = tmp_path / "registry", free_port()
    with contextlib.ExitStack() as first:
        running = first.enter_context(start_registry(folder, port))
        bases = list(plant(running, "bases", 30))
        outcomes = run(bases, running, store, bundle)
        found = [next(outcomes) for _ in range(5)]
        first.close()
        with start_registry(folder, port):
            found += list(outcomes)
    assert [outcome.error for outcome in found if outcome.status != MADE] == []
    assert len(found) == 30
