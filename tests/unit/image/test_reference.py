"""References: what users type, and what it means."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftbox.errors import UsageError
from graftbox.image.reference import Transport, parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/library/ubuntu", "docker.io/library/ubuntu:latest"),
        ("docker://ghcr.io/a/b/c:1.2", "ghcr.io/a/b/c:1.2"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry:5000/team/app:v1", "registry:5000/team/app:v1"),
        ("Registry.Example.COM/app:V1", "registry.example.com/app:V1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"ubuntu@{DIGEST}", f"docker.io/library/ubuntu@{DIGEST}"),
        (f"host:1/a:tag@{DIGEST}", f"host:1/a:tag@{DIGEST}"),
    ],
)
def test_a_name_means_what_docker_takes_it_for(text: str, meaning: str) -> None:
    reference = parse(text)
    assert reference.transport is Transport.REGISTRY
    assert str(reference.name) == meaning
    assert parse(str(reference)) == reference


def test_a_digest_beats_a_tag() -> None:
    assert parse(f"ubuntu:24.04@{DIGEST}").image_name.selector == DIGEST


@pytest.mark.parametrize(
    ("text", "transport", "path", "selector"),
    [
        ("oci:dir", Transport.LAYOUT, "dir", None),
        ("oci:/a/b:v1", Transport.LAYOUT, "/a/b", "v1"),
        ("oci:/a/b:host:5000/x:1", Transport.LAYOUT, "/a/b", "host:5000/x:1"),
        (f"oci:/a/b@{DIGEST}", Transport.LAYOUT, "/a/b", DIGEST),
        ("oci-archive:a.tar:v1", Transport.OCI_ARCHIVE, "a.tar", "v1"),
        ("docker-archive:a.tar", Transport.DOCKER_ARCHIVE, "a.tar", None),
        ("docker-archive:a.tar:app:1", Transport.DOCKER_ARCHIVE, "a.tar", "docker.io/library/app:1"),
    ],
)
def test_paths_are_read_as_skopeo_reads_them(
    text: str, transport: Transport, path: str, selector: str | None
) -> None:
    reference = parse(text)
    assert (reference.transport, reference.path, reference.selector) == (transport, Path(path), selector)
    assert parse(str(reference)) == reference


def test_a_docker_daemon_image_has_a_short_name() -> None:
    assert str(parse("docker-daemon:ubuntu")) == "docker-daemon:ubuntu:latest"
    assert parse("docker-daemon:ghcr.io/a/b:1").image_name.familiar == "ghcr.io/a/b:1"


def test_podman_and_containerd_keep_whole_names() -> None:
    assert str(parse("containers-storage:ubuntu")) == "containers-storage:docker.io/library/ubuntu:latest"
    assert str(parse("containerd:a/b:1")) == "containerd:docker.io/a/b:1"
    inside = parse("containerd:[k8s.io]ubuntu")
    assert (inside.selector, str(inside.name)) == ("k8s.io", "docker.io/library/ubuntu:latest")
    assert parse(str(inside)) == inside


def test_scratch_is_the_empty_image() -> None:
    assert parse("scratch").transport is Transport.SCRATCH


def test_labels_do_not_record_folders_of_the_machine() -> None:
    assert parse("oci:/home/jo/images/base:v1").portable == "oci:base:v1"
    assert parse("ubuntu").portable == "docker.io/library/ubuntu:latest"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "not an image name"),
        ("Ubuntu", "lower-case"),
        ("ubuntu:", "not a tag"),
        ("ubuntu:a b", "not a tag"),
        ("ubuntu@sha256:12", "64 lower-case hex digits"),
        ("host:port/app", "name of a registry"),
        ("host:70000/app", "name of a registry"),
        ("a..b/app", "name of a registry"),
        ("[:::]/app", "name of a registry"),
        (f"{'a' * 64}.example/app", "name of a registry"),
        ("a//b", "not an image name"),
        ("./image", "oci:DIR"),
        ("/image.tar", "docker-archive:FILE"),
        ("oci:", "no path"),
        ("oci:out:bad tag", "'bad tag' cannot name an image there"),
        ("oci:out:a//b", "cannot name"),
        ("oci-archive:x.tar:-", "oci-archive:x.tar:TAG"),
        ("dir:/x", "docker://NAME"),
        ("containerd:[k8s.io:x", "NAMESPACE"),
        ("containerd:[]x", "k8s.io"),
    ],
)
def test_a_mistake_is_explained(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = parse(text)
    except UsageError:
        return
    assert parse(str(reference)) == reference
