"""The graft function: what changes, what stays, and that it is the same every time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftbox.errors import FormatError, GraftboxError, UnsupportedError
from graftbox.image.graft import SERVER, Bundle, BundleLayer, Image, Options, graft, graft_index, scratch
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
    document,
    layer_type,
    serialise,
)
from graftbox.store import digest_of


def some_digest(text: str) -> str:
    return digest_of(text.encode())


def some_bundle(name: str = "one", arch: str = "amd64") -> Bundle:
    layers = tuple(
        BundleLayer(layer, "core", some_digest(name + layer), some_digest(name + layer + "d"), 2048, 700)
        for layer in ("core", "server")
    )
    return Bundle(arch, some_digest(name), "0.1.0", ("core",), layers)


def some_base(
    layers: int = 2, docker: bool = False, manifest: dict[str, Any] | None = None, **config: Any
) -> Image:
    data = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "User": "jo", "WorkingDir": "/w"},
            "history": [{"created_by": f"layer {n}"} for n in range(layers)],
            "rootfs": {"type": "layers", "diff_ids": [some_digest(f"diff {n}") for n in range(layers)]},
        }
        | config
    ).encode()
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    layer = f"{DOCKER_LAYER}.gzip" if docker else f"{OCI_LAYER}+gzip"
    body = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
            "digest": digest_of(data),
            "size": len(data),
        },
        "layers": [
            {"mediaType": layer, "digest": some_digest(f"layer {n}"), "size": n + 1} for n in range(layers)
        ],
    }
    return Image(Document(json.dumps(body | (manifest or {})).encode(), kind), data)


OPTIONS = Options("docker.io/library/base:1", some_digest("base"))
BUNDLE = some_bundle()


def config_of(image: Image) -> dict[str, Any]:
    parsed = json.loads(image.config)
    assert image.manifest.config.digest == digest_of(image.config)
    assert image.manifest.config.size == len(image.config)
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("docker", [True, False])
def test_base_layers_come_first_and_ours_follow_in_the_manifests_own_types(docker: bool) -> None:
    base = some_base(docker=docker)
    image = graft(base, BUNDLE, OPTIONS)
    assert image.manifest.json["layers"][:2] == base.manifest.json["layers"]
    ours = image.manifest.layers[2:]
    assert [layer.digest for layer in ours] == [layer.digest for layer in BUNDLE.layers]
    assert {layer.media_type for layer in image.manifest.layers} == {
        f"{DOCKER_LAYER}.gzip" if docker else f"{OCI_LAYER}+gzip"
    }
    assert image.manifest.config.media_type == (DOCKER_CONFIG if docker else OCI_CONFIG)
    config = config_of(image)
    assert config["rootfs"]["diff_ids"][2:] == [layer.diff_id for layer in BUNDLE.layers]
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 4
    assert ("annotations" in image.manifest.json) is not docker


def test_environment_user_and_folder_stay_and_the_server_is_started() -> None:
    process = config_of(graft(some_base(), BUNDLE, OPTIONS))["config"]
    assert process["Env"] == ["PATH=/bin"]
    assert (process["User"], process["WorkingDir"]) == ("jo", "/w")
    assert process["Entrypoint"] == list(SERVER)
    assert "Cmd" not in process


def test_labels_and_annotations_record_the_base() -> None:
    image = graft(some_base(), BUNDLE, OPTIONS)
    labels = config_of(image)["config"]["Labels"]
    assert labels["org.opencontainers.image.base.name"] == "docker.io/library/base:1"
    assert labels["org.opencontainers.image.base.digest"] == some_digest("base")
    assert labels["io.graftbox.base.entrypoint"] == "[]"
    assert labels["io.graftbox.base.cmd"] == '["/bin/sh"]'
    assert labels["io.graftbox.bundle"] == BUNDLE.digest
    shared = {"org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"}
    assert image.manifest.json["annotations"] == {name: labels[name] for name in shared}


def test_the_bases_own_program_can_be_kept_as_a_child() -> None:
    base = some_base(config={"Entrypoint": ["/entry", "-x"], "Cmd": ["serve"]})
    process = config_of(graft(base, BUNDLE, Options("b", None, keep_entrypoint=True)))["config"]
    assert process["Entrypoint"] == [*SERVER, "--", "/entry", "-x"]
    assert process["Cmd"] == ["serve"]


def test_a_runtime_image_of_the_first_version_is_known_by_its_entrypoint() -> None:
    first = graft(some_base(), BUNDLE, OPTIONS)
    config = json.loads(first.config)
    config["config"]["Entrypoint"] = ["/openhands/bin/init", "--", *SERVER]
    again = graft(Image(first.manifest, json.dumps(config).encode()), BUNDLE, OPTIONS)
    assert config_of(again)["config"]["Labels"]["io.graftbox.base.entrypoint"] == "[]"


def test_a_base_without_any_program_has_nothing_to_keep() -> None:
    process = config_of(graft(some_base(config={}), BUNDLE, Options("b", None, keep_entrypoint=True)))[
        "config"
    ]
    assert process["Entrypoint"] == list(SERVER)


def test_a_user_may_be_chosen() -> None:
    process = config_of(graft(some_base(), BUNDLE, Options("b", user="12345:12345")))["config"]
    assert process["User"] == "12345:12345"


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("user", [None, "12345"])
@pytest.mark.parametrize("docker", [True, False])
def test_grafting_a_grafted_image_gives_the_same_image(keep: bool, user: str | None, docker: bool) -> None:
    base = some_base(docker=docker)
    options = Options("base:1", base.manifest.digest, user, keep)
    once = graft(base, BUNDLE, options)
    again = graft(once, BUNDLE, Options("run:1", once.manifest.digest, user, keep))
    assert again == once


def test_a_newer_bundle_replaces_the_older_one() -> None:
    newer = some_bundle("two")
    assert graft(graft(some_base(), BUNDLE, OPTIONS), newer, OPTIONS) == graft(some_base(), newer, OPTIONS)


def test_layers_that_an_earlier_version_labelled_one_by_one_are_replaced_too() -> None:
    once = graft(some_base(), BUNDLE, OPTIONS)
    config = json.loads(once.config)
    listed = ",".join(layer.diff_id[7:19] for layer in BUNDLE.layers)
    config["config"]["Labels"]["io.graftbox.layers"] = listed
    again = graft(Image(once.manifest, serialise(config)), some_bundle("two"), OPTIONS)
    assert again == graft(some_base(), some_bundle("two"), OPTIONS)


@pytest.mark.parametrize(
    "label", ["", ",", "0:", "2:", "-1:x", "9:abc", "x:y", ":", "99999999999999999999:a"]
)
def test_a_label_that_fits_no_layers_removes_none(label: str) -> None:
    base = some_base()
    config = json.loads(base.config)
    config["config"]["Labels"] = {"io.graftbox.layers": label}
    image = graft(Image(base.manifest, serialise(config)), BUNDLE, OPTIONS)
    assert len(image.manifest.layers) == len(base.manifest.layers) + len(BUNDLE.layers)


def test_an_image_built_on_a_grafted_one_keeps_its_own_entrypoint_and_layers() -> None:
    grafted = graft(some_base(), BUNDLE, OPTIONS)
    config, manifest = config_of(grafted), dict(grafted.manifest.json)
    config["config"]["Entrypoint"] = ["/mine"]
    config["rootfs"]["diff_ids"].append(some_digest("mine"))
    config["history"].append({"created_by": "mine"})
    manifest["layers"] = [*manifest["layers"], {"mediaType": "x", "digest": some_digest("ml"), "size": 1}]
    data = serialise(config)
    manifest["config"] = {**manifest["config"], "digest": digest_of(data), "size": len(data)}
    again = config_of(graft(Image(Document(serialise(manifest), OCI_MANIFEST), data), BUNDLE, OPTIONS))
    assert again["config"]["Labels"]["io.graftbox.base.entrypoint"] == '["/mine"]'
    assert [entry["created_by"] for entry in again["history"]][:3] == ["layer 0", "layer 1", "mine"]
    assert len(again["rootfs"]["diff_ids"]) == 5


@pytest.mark.parametrize("history", [None, [], [{"created_by": "one only"}], "nonsense"])
def test_a_history_that_cannot_be_right_is_left_out(history: object) -> None:
    assert "history" not in config_of(graft(some_base(history=history), BUNDLE, OPTIONS))


def test_empty_history_entries_do_not_count_as_layers() -> None:
    history: Any = [{"created_by": "a"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "b"}]
    entries = config_of(graft(some_base(history=history), BUNDLE, OPTIONS))["history"]
    assert sum(not entry.get("empty_layer") for entry in entries) == 4


def test_scratch_becomes_an_image_of_our_layers_only() -> None:
    image = graft(scratch("amd64"), BUNDLE, Options("scratch"))
    assert len(image.manifest.layers) == len(config_of(image)["history"]) == 2
    assert "org.opencontainers.image.base.digest" not in config_of(image)["config"]["Labels"]


def test_an_embedded_copy_of_the_old_config_does_not_survive() -> None:
    base = some_base()
    config = {**base.manifest.json["config"], "data": "e30="}
    image = graft(some_base(manifest={"config": config}), BUNDLE, OPTIONS)
    assert "data" not in image.manifest.json["config"]


@pytest.mark.parametrize(
    ("facts", "hint"), [({"os": "windows"}, "windows"), ({"architecture": "s390x"}, "s390x")]
)
def test_another_platform_is_refused_by_name(facts: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnsupportedError, match=hint):
        graft(some_base(**facts), BUNDLE, OPTIONS)


@pytest.mark.parametrize(
    "damage",
    [
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:1"]}},
        {"rootfs": None},
        {"rootfs": []},
        {"config": []},
        {"config": {"Entrypoint": [1]}},
        {"config": {"Labels": ["x"]}},
    ],
)
def test_a_damaged_base_is_a_format_error(damage: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        graft(some_base(**damage), BUNDLE, OPTIONS)


def test_zstd_layers_do_not_go_into_docker_manifests() -> None:
    assert layer_type(OCI_MANIFEST, "zstd") == f"{OCI_LAYER}+zstd"
    with pytest.raises(UnsupportedError):
        layer_type(DOCKER_MANIFEST, "zstd")


def test_schema_1_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="schema 1"):
        document(b'{"schemaVersion": 1, "fsLayers": []}', None, "old")


def test_an_artifact_is_no_image() -> None:
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}
    body["config"] = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": "d", "size": 1}
    with pytest.raises(UnsupportedError, match=r"helm"):
        document(serialise(body), OCI_MANIFEST, "chart")


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_INDEX])
def test_an_index_keeps_its_type_and_what_it_says_of_platforms(kind: str) -> None:
    base, foreign = some_base(), some_digest("windows")
    entry = {"mediaType": base.manifest.media_type, "digest": base.manifest.digest, "size": 1, "x-more": 5}
    entry["platform"] = {"os": "linux", "architecture": "amd64", "os.version": "6"}
    others = [{"mediaType": OCI_MANIFEST, "digest": foreign, "size": 1}]
    index = Document(serialise({"schemaVersion": 2, "manifests": [entry, *others], "y-more": 1}), kind)
    grafted = graft(base, BUNDLE, OPTIONS)
    result = graft_index(index, {base.manifest.digest: grafted.manifest}, BUNDLE.digest, OPTIONS)
    assert result.media_type == kind
    assert result.json["y-more"] == 1
    assert result.json["manifests"] == [
        {**entry, "digest": grafted.manifest.digest, "size": len(grafted.manifest.data)}
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
unknown = st.dictionaries(st.text(min_size=1).map(lambda key: f"x-{key}"), json_values, max_size=4)


@given(unknown, unknown, unknown, st.integers(0, 4), st.booleans())
@settings(deadline=None)
def test_unknown_fields_survive_and_a_second_graft_changes_nothing(
    in_manifest: dict[str, Any],
    in_config: dict[str, Any],
    in_process: dict[str, Any],
    layers: int,
    docker: bool,
) -> None:
    process = {"Env": ["A=b"], "Cmd": ["c"], **in_process}
    base = some_base(layers, docker, in_manifest, config=process, **in_config)
    image = graft(base, BUNDLE, OPTIONS)
    assert in_manifest.items() <= image.manifest.json.items()
    assert in_config.items() <= config_of(image).items()
    assert in_process.items() <= config_of(image)["config"].items()
    assert graft(base, BUNDLE, OPTIONS) == image
    assert graft(image, BUNDLE, Options("other", some_digest("other"))) == image


@given(st.dictionaries(st.sampled_from(["config", "rootfs", "history", "os", "architecture"]), json_values))
@settings(deadline=None)
def test_any_config_is_grafted_or_refused_in_words(facts: dict[str, Any]) -> None:
    try:
        graft(some_base(**facts), BUNDLE, OPTIONS)
    except GraftboxError:
        return
