"""Properties of `graft` over generated images: what it must never lose, and that it is a function."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftbox.image.graft import (
    ANNOTATIONS,
    BASE_DIGEST,
    BASE_NAME,
    OWN_LABELS,
    Bundle,
    BundleLayer,
    Image,
    Options,
    graft,
    graft_index,
)
from graftbox.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Document,
)
from graftbox.store import digest_of


def some_bundle(salt: str = "") -> Bundle:
    layers = tuple(
        BundleLayer(n, "core", digest_of(f"{n}{salt}".encode()), digest_of(f"tar {n}{salt}".encode()), 9, 5)
        for n in ("core", "server")
    )
    return Bundle("amd64", digest_of(f"bundle{salt}".encode()), "0.1.0", ("core",), layers)


# A busy machine is slow, and that is no fault of the images.
FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BUNDLE, LATER = some_bundle(), some_bundle("later")
OURS = {BASE_NAME, BASE_DIGEST, *OWN_LABELS}

_numbers = st.integers(-(2**53), 2**53)
_values = st.recursive(
    st.none()
    | st.booleans()
    | _numbers
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_unknown = st.dictionaries(st.from_regex(r"x[a-zA-Z.]{1,8}", fullmatch=True), _values, max_size=3)
_texts = st.dictionaries(st.from_regex(r"[a-z.]{1,12}", fullmatch=True), st.text(max_size=12), max_size=3)
_words = st.lists(st.text(min_size=1, max_size=6), max_size=3)


@st.composite
def images(draw: Any) -> Image:
    """Images as registries hold them: OCI or Docker, any order of keys, fields that nobody knows."""
    docker = draw(st.booleans())
    count = draw(st.integers(0, 5))
    diff_ids = [digest_of(f"diff{draw(st.integers(0, 9))}{n}".encode()) for n in range(count)]
    process: dict[str, Any] = {"Env": draw(_words), "Labels": draw(_texts), **draw(_unknown)}
    for key in ("Entrypoint", "Cmd"):
        if draw(st.booleans()):
            process[key] = draw(_words | st.none())
    if draw(st.booleans()):
        process["User"] = draw(st.text(max_size=5))
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": diff_ids, **draw(_unknown)},
        **draw(_unknown),
    }
    if draw(st.booleans()):
        steps = [{"created_by": f"step {n}", **draw(_unknown)} for n in range(count)]
        for _ in range(draw(st.integers(0, 2))):
            steps.insert(draw(st.integers(0, len(steps))), {"created_by": "ENV", "empty_layer": True})
        config["history"] = steps
    data = _shuffled(draw, config)
    layers = []
    for number in range(count):
        foreign = draw(st.booleans()) and draw(st.booleans())
        kind = f"{DOCKER_LAYER}.gzip" if docker else f"{OCI_LAYER}+gzip"
        if foreign:
            kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        layer = {"mediaType": kind, "digest": digest_of(f"layer {number}".encode()), "size": number}
        layers.append(layer | ({"urls": ["https://elsewhere.example/x"]} if foreign else {}) | draw(_unknown))
    kind, config_kind = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else (OCI_MANIFEST, OCI_CONFIG)
    body: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": config_kind, "digest": digest_of(data), "size": len(data), **draw(_unknown)},
        "layers": layers,
        **draw(_unknown),
    }
    if not docker and draw(st.booleans()):
        body["annotations"] = draw(_texts)
    return Image(Document(_shuffled(draw, body), kind), data)


@st.composite
def sparse(draw: Any) -> Image:
    """The same with what other builders write or leave out: nulls for lists and objects, unknown fields at
    any depth, artifact types, embedded copies, a config without anything in it.
    """
    image = draw(images())
    config, body = json.loads(image.config), json.loads(image.manifest.data)
    count = len(body["layers"])
    process = config["config"]
    for key in ("Env", "Labels", "Entrypoint", "Cmd", "Volumes", "ExposedPorts", "OnBuild"):
        if draw(st.booleans()):
            process[key] = None
    process |= draw(_unknown)
    if draw(st.booleans()):
        config["config"] = draw(st.sampled_from([None, {}]))
    if draw(st.booleans()):
        config["history"] = None
    if not count:
        config["rootfs"] = draw(st.sampled_from([None, {}, {"type": "layers", "diff_ids": None}]))
        body["layers"] = draw(st.sampled_from([None, []]))
    config |= draw(
        st.fixed_dictionaries(
            {},
            optional={"os.version": st.just("10"), "os.features": st.just(["x"]), "variant": st.just("v2")},
        )
    )
    for layer in body["layers"] or []:
        layer |= draw(
            st.fixed_dictionaries({}, optional={"annotations": _texts | st.none(), "x.deep": _values})
        )
    body |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "artifactType": st.just("application/vnd.example"),
                "annotations": _texts | st.none(),
                "x.deep": _values,
            },
        )
    )
    data = _shuffled(draw, config)
    body["config"] |= {"digest": digest_of(data), "size": len(data), "data": "e30="}
    return Image(Document(_shuffled(draw, body), image.manifest.media_type), data)


def _shuffled(draw: Any, value: dict[str, Any]) -> bytes:
    """The object's bytes with its keys in any order and any indentation."""
    keys = list(value)
    random.Random(draw(st.integers(0, 99))).shuffle(keys)
    return json.dumps({key: value[key] for key in keys}, indent=draw(st.sampled_from([None, 2]))).encode()


def options(**changed: Any) -> Options:
    return Options(**{"base_name": "docker.io/library/base:1", "base_digest": digest_of(b"base"), **changed})


@FEW
@given(images(), st.booleans())
def test_every_field_layer_and_digest_of_the_base_is_kept(base: Image, keep: bool) -> None:
    image = graft(base, BUNDLE, options(keep_entrypoint=keep))
    before, after = base.manifest.json, image.manifest.json
    count = len(before["layers"])
    assert after["layers"][:count] == before["layers"]
    assert [layer["digest"] for layer in after["layers"][count:]] == [layer.digest for layer in BUNDLE.layers]
    assert _without(before, "layers", "config", "annotations") == _without(
        after, "layers", "config", "annotations"
    )
    assert _without(before["config"], "digest", "size", "data") == _without(after["config"], "digest", "size")
    assert image.manifest.config.digest == digest_of(image.config)
    assert image.manifest.config.size == len(image.config)
    annotations = after.get("annotations", {})
    assert {k: v for k, v in annotations.items() if k not in ANNOTATIONS} == before.get("annotations", {})

    old, new = json.loads(base.config), json.loads(image.config)
    assert _without(old, "config", "rootfs", "history") == _without(new, "config", "rootfs", "history")
    assert _without(old["rootfs"], "diff_ids") == _without(new["rootfs"], "diff_ids")
    assert new["rootfs"]["diff_ids"][:count] == old["rootfs"]["diff_ids"]
    assert len(new["rootfs"]["diff_ids"]) == len(after["layers"])
    process = ("Entrypoint", "Cmd", "Labels")
    assert _without(old["config"], *process) == _without(new["config"], *process)
    labels = {k: v for k, v in new["config"]["Labels"].items() if k not in OURS}
    assert labels == old["config"]["Labels"]
    if "history" in new:
        assert sum(not entry.get("empty_layer") for entry in new["history"]) == len(after["layers"])
        assert new["history"][: len(old.get("history", []))] == old.get("history", [])


def _without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in keys}


@FEW
@given(images(), st.booleans())
def test_grafting_twice_is_grafting_once(base: Image, keep: bool) -> None:
    chosen = options(keep_entrypoint=keep)
    once = graft(base, BUNDLE, chosen)
    assert graft(once, BUNDLE, chosen) == once
    assert graft(graft(base, LATER, options()), BUNDLE, chosen) == once


@FEW
@given(sparse(), st.booleans())
def test_what_is_null_or_unknown_in_the_base_does_no_harm(base: Image, keep: bool) -> None:
    chosen = options(keep_entrypoint=keep)
    image = graft(base, BUNDLE, chosen)
    before, after = base.manifest.json, image.manifest.json
    layers = before["layers"] or []
    assert after["layers"][: len(layers)] == layers
    ours = ("layers", "config", "annotations")
    assert _without(before, *ours) == _without(after, *ours)
    assert _without(before["config"], "digest", "size", "data") == _without(after["config"], "digest", "size")
    kept = {k: v for k, v in (after.get("annotations") or {}).items() if k not in ANNOTATIONS}
    assert kept == (before.get("annotations") or {})
    old, new = json.loads(base.config), json.loads(image.config)
    ours = ("config", "rootfs", "history")
    assert _without(old, *ours) == _without(new, *ours)
    assert new["rootfs"]["diff_ids"][: len(layers)] == ((old["rootfs"] or {}).get("diff_ids") or [])
    process = ("Entrypoint", "Cmd", "Labels")
    assert _without(old["config"] or {}, *process) == _without(new["config"], *process)
    assert graft(image, BUNDLE, chosen) == image
    assert graft(graft(base, LATER, options()), BUNDLE, chosen) == image


@FEW
@given(images())
def test_the_order_of_keys_and_the_spaces_of_the_base_do_not_matter(base: Image) -> None:
    """The config's and the manifest's bytes are ours: sorted keys, no spaces."""
    manifest = json.loads(base.manifest.data)
    config = json.dumps(dict(reversed(json.loads(base.config).items())), indent=1).encode()
    manifest["config"] |= {"digest": digest_of(config), "size": len(config)}
    data = json.dumps(dict(reversed(manifest.items())), indent=3).encode()
    other = Image(Document(data, base.manifest.media_type), config)
    assert graft(other, BUNDLE, options()) == graft(base, BUNDLE, options())


@FEW
@given(st.lists(images(), min_size=1, max_size=3), st.randoms(use_true_random=False), _unknown)
def test_an_index_keeps_its_order_and_its_fields_and_drops_attestations(
    bases: list[Image], chance: random.Random, unknown: dict[str, Any]
) -> None:
    entries: list[dict[str, Any]] = []
    children: dict[str, Document] = {}
    for number, base in enumerate(bases):
        digest = base.manifest.digest
        platform: dict[str, Any] = {"os": "linux", "architecture": "amd64", "variant": f"v{number}"}
        platform |= chance.choice([{}, {"os.version": "6.1"}, {"os.features": ["x"], "features": ["sse4"]}])
        entry = {"mediaType": base.manifest.media_type, "digest": digest, "size": len(base.manifest.data)}
        entries.append({**entry, "platform": platform, **unknown})
        children[digest] = graft(base, BUNDLE, options()).manifest
        attested = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest,
        }
        entries.append(
            {
                "mediaType": OCI_MANIFEST,
                "digest": digest_of(f"attestation {number}".encode()),
                "size": 1,
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": attested,
            }
        )
    chance.shuffle(entries)
    kind = chance.choice([OCI_INDEX, DOCKER_INDEX])
    body: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind, "manifests": entries, **unknown}
    body |= chance.choice([{}, {"artifactType": "application/vnd.example"}, {"annotations": None}])
    index = graft_index(Document(json.dumps(body).encode(), kind), children, BUNDLE.digest, options())
    kept = [entry for entry in entries if entry["digest"] in children]
    assert [entry["digest"] for entry in index.json["manifests"]] == [
        children[entry["digest"]].digest for entry in kept
    ]
    for before, after in zip(kept, index.json["manifests"], strict=True):
        names = ("digest", "size", "mediaType")
        assert _without(before, *names) == _without(after, *names)
    ours = ("manifests", "annotations")
    assert _without(body, *ours) == _without(index.json, *ours)
