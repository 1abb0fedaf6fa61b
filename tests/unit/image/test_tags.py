"""Tags made of content: which input decides which, and that every one is legal."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftbox.errors import UsageError
from graftbox.image.graft import Bundle, BundleLayer
from graftbox.image.reference import image_name, parse
from graftbox.image.tags import Choice, Tags, repository, repository_for, tags_of
from graftbox.store import digest_of

LEGAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = digest_of(b"base")


def some_bundle(
    core: str = "core", server: str = "server", lock: str = "lock", arch: str = "amd64"
) -> Bundle:
    layers = [
        BundleLayer(name, "core", digest_of(text.encode()), digest_of(text.encode() * 2), 1, 1)
        for name, text in (("core", core), ("server", server))
    ]
    return Bundle(arch, digest_of(b"bundle"), "0.1.0", ("core",), tuple(layers), digest_of(lock.encode()))


CHOICE = Choice({"amd64": some_bundle()})
FROZEN = dataclasses.replace(some_bundle(), flavor="pyinstaller")


def made(name: str = "ubuntu:22.04", digest: str = DIGEST, choice: Choice = CHOICE) -> Tags:
    return tags_of(parse(name), digest, choice)


def test_the_three_tags_as_they_are_written() -> None:
    tags = made()
    assert re.fullmatch(r"oh_v0\.1\.0_[0-9a-z]{16}", tags.lock)
    assert re.fullmatch(re.escape(tags.lock) + r"_[0-9a-z]{16}", tags.source)
    assert tags.versioned == "oh_v0.1.0_ubuntu_t_22.04"
    assert tags.in_order[-1] == tags.source


@pytest.mark.parametrize(
    ("changed", "changes"),
    [
        ({"name": "docker.io/library/ubuntu:22.04"}, set()),
        ({"name": "ubuntu:24.04"}, {"versioned"}),
        ({"digest": digest_of(b"other")}, {"source", "lock"}),
        ({"choice": Choice({"amd64": some_bundle(server="other")})}, {"source"}),
        ({"choice": Choice({"amd64": some_bundle(core="other")})}, {"source", "lock"}),
        ({"choice": Choice({"amd64": some_bundle(lock="other")})}, {"source", "lock"}),
        ({"choice": Choice({"amd64": FROZEN})}, {"versioned"}),
        ({"choice": dataclasses.replace(CHOICE, user="7")}, {"source", "lock"}),
        ({"choice": dataclasses.replace(CHOICE, keep_entrypoint=True)}, {"source", "lock"}),
        ({"choice": dataclasses.replace(CHOICE, platform="linux/amd64")}, {"source", "lock"}),
    ],
)
def test_each_input_changes_the_tags_it_decides_and_no_other(
    changed: dict[str, Any], changes: set[str]
) -> None:
    before, after = made(), made(**changed)
    names = {"source", "lock", "versioned"}
    assert {name for name in names if getattr(before, name) != getattr(after, name)} == changes
    told = {item.name: item.value for item in before.inputs}
    differing = [item for item in after.inputs if told[item.name] != item.value]
    assert set().union(*(item.decides for item in differing)) == changes


def test_the_usual_flavour_is_not_named_another_one_is() -> None:
    assert made().versioned == "oh_v0.1.0_ubuntu_t_22.04"
    assert made(choice=Choice({"amd64": FROZEN})).versioned == "oh_v0.1.0-pyinstaller_ubuntu_t_22.04"


def test_the_order_of_bundles_does_not_matter() -> None:
    arm = some_bundle(arch="arm64")
    both = [Choice({"amd64": some_bundle(), "arm64": arm}), Choice({"arm64": arm, "amd64": some_bundle()})]
    assert made(choice=both[0]) == made(choice=both[1])


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("nikolaik/python-nodejs:python3.12-nodejs22", "nikolaik_s_python-nodejs_t_python3.12-nodejs22"),
        ("Registry.Example:5000/a/b:V1", "registry.example_t_5000_s_a_s_b_t_V1"),
        (f"ubuntu@{DIGEST}", f"ubuntu_d_{DIGEST[7:]}"),
        ("scratch", "scratch"),
    ],
)
def test_the_base_can_be_read_in_the_versioned_tag(name: str, slug: str) -> None:
    assert made(name).versioned == f"oh_v0.1.0_{slug}"


def test_names_that_would_look_alike_are_told_apart() -> None:
    names = ["x/a/b:1", "x/a_s_b:1", "oci:/tmp/a b:1", "oci:/tmp/a-b:1", "x/a:1", "x/a:1_t_1"]
    assert len({made(name).versioned for name in names}) == len(names)


_WORD = st.text("abz09", min_size=1, max_size=40)
_PART = st.builds(lambda a, joint, b: a + joint + b, _WORD, st.sampled_from([".", "_", "__", "---"]), _WORD)
_HOST = st.sampled_from(
    ["docker.io/", "localhost/", "LOCALHOST:5000/", "[::1]:5000/", "Ghcr.IO/", "10.0.0.1:65535/"]
)
_TAG = st.just("") | st.text("aZ0_.-", max_size=126).map(lambda text: f":T{text}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_HOST, st.lists(_PART, min_size=1, max_size=5), _TAG, st.booleans())
def test_every_legal_reference_has_legal_tags_and_repositories(
    host: str, parts: list[str], tag: str, pinned: bool
) -> None:
    text = f"{host}{'/'.join(parts)}{tag}" + (f"@{DIGEST}" if pinned else "")
    tags = made(text)
    for found in tags.in_order:
        assert LEGAL.fullmatch(found)
    target = repository_for(parse(text), repository("registry:5000/team/rt"), "repos")
    assert image_name(str(target)).repository == target.repository
    assert len(target.repository) <= 255


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_characters="\0:@", exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_folder_name_has_a_legal_tag(name: str) -> None:
    tags = made(f"oci:/tmp/x{name}x:1")
    assert LEGAL.fullmatch(tags.versioned)
    target = repository_for(parse(f"oci:/tmp/x{name}x:1"), repository("team/rt"), "repos")
    assert image_name(str(target)).repository == target.repository


@pytest.mark.parametrize("text", ["team/rt:1", f"team/rt@{DIGEST}", "localhost:5000", "Team/rt!"])
def test_a_target_repository_has_no_tag(text: str) -> None:
    with pytest.raises(UsageError):
        repository(text)


def test_a_target_repository_is_normalised() -> None:
    assert str(repository("docker://Registry.Example:5000/team/rt")) == "registry.example:5000/team/rt"
    assert str(repository("team/rt")) == "docker.io/team/rt"
