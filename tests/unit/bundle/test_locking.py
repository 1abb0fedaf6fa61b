from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import locking, recipe
from graftbox.bundle.lock import Lock
from graftbox.bundle.recipe import Recipe
from graftbox.errors import ConfigurationError, TransportError, UsageError, VerificationError
from graftbox.store import Store

TEXT = """
[debian]
suites = ["trixie", "trixie-security"]
keyring = "keyring.gpg"
[component.core]
packages = ["git"]
without = ["perl"]
[component.extra]
packages = ["tmux"]
"""


@pytest.fixture
def box(archive: Any) -> Any:
    """An archive with git -> libc, perl (cut), libz in two suites; and tmux -> libc."""
    archive.add("trixie", "git", "1", "Depends: libc (>= 1), perl, libz\n")
    archive.add("trixie", "libc", "1")
    archive.add("trixie", "libz", "1")
    archive.add("trixie", "perl", "1")
    archive.add("trixie", "tmux", "1", "Depends: libc\n")
    archive.add("trixie-security", "libz", "1+deb13u1")
    archive.publish("trixie")
    archive.publish("trixie-security")
    return archive


def parsed(tmp_path: Path, text: str = TEXT) -> Recipe:
    return recipe.parse(text.encode(), tmp_path / "my.toml")


def workshop(box: Any, tmp_path: Path, **options: Any) -> locking.Workshop:
    return locking.Workshop(Store(tmp_path / "cache"), box.sources(tmp_path), **options)


def versions(lock: Lock, arch: str = "amd64") -> dict[str, str]:
    return {entry.name: entry.version for entry in lock.entries(arch)}


def test_a_recipe_becomes_a_lock_for_every_architecture(box: Any, tmp_path: Path) -> None:
    lock = locking.make(parsed(tmp_path), workshop(box, tmp_path))
    expected = {"git": "1", "libc": "1", "libz": "1+deb13u1", "tmux": "1"}
    assert versions(lock) == versions(lock, "arm64") == expected
    libc, libz = (p for p in lock.architecture("amd64").packages if p.name.startswith("lib"))
    assert (libc.components, libz.components) == (("core", "extra"), ("core",))
    assert (libc.archive, libz.archive) == ("debian", "debian-security")
    assert lock.suites == {"trixie": "2026-11-01T00:00:00Z", "trixie-security": "2026-11-01T00:00:00Z"}
    assert b"127.0.0.1" not in lock.to_json()


def test_the_same_archive_gives_the_same_lock(box: Any, tmp_path: Path) -> None:
    first = locking.make(parsed(tmp_path), workshop(box, tmp_path))
    second = locking.make(
        parsed(tmp_path), locking.Workshop(Store(tmp_path / "other"), box.sources(tmp_path))
    )
    assert first.to_json() == second.to_json()


def test_a_stale_mirror_is_refused_and_accepted_when_asked(box: Any, tmp_path: Path) -> None:
    box.publish("trixie-security", days=-1)
    with pytest.raises(VerificationError, match="--allow-expired"):
        locking.make(parsed(tmp_path), workshop(box, tmp_path))
    assert versions(locking.make(parsed(tmp_path), workshop(box, tmp_path, allow_expired=True)))


def test_a_suite_signed_by_a_stranger_is_refused(box: Any, tmp_path: Path, other_key: Any) -> None:
    box.publish("trixie", key=other_key)
    with pytest.raises(VerificationError, match="does not verify"):
        locking.make(parsed(tmp_path), workshop(box, tmp_path))
    keyring = tmp_path / "both.gpg"
    keyring.write_bytes(bytes(other_key.extract_certificate()) + box.keyring.read_bytes())
    locking.make(parsed(tmp_path), workshop(box, tmp_path, keyring=keyring))


def test_one_suite_replayed_as_another_is_refused(box: Any, tmp_path: Path) -> None:
    box.publish("trixie-security", signed_suite="trixie")
    with pytest.raises(VerificationError, match="not trixie-security"):
        locking.make(parsed(tmp_path), workshop(box, tmp_path))


def test_a_changed_packages_file_is_refused(box: Any, tmp_path: Path) -> None:
    for path, data in box.site.files.items():
        if "/binary-amd64/" in path:
            box.site.files[path] = data[:-1] + b"?"
    with pytest.raises(VerificationError, match="sha256 differs"):
        locking.make(parsed(tmp_path), workshop(box, tmp_path))


def test_a_mirror_in_the_middle_of_an_update_says_so(box: Any, tmp_path: Path) -> None:
    for path in [path for path in box.site.files if "/by-hash/" in path]:
        del box.site.files[path]
    with pytest.raises(TransportError, match="being updated"):
        locking.make(parsed(tmp_path), workshop(box, tmp_path))


def test_a_machine_without_a_security_mirror_is_told_so(box: Any, tmp_path: Path) -> None:
    sources = box.sources(tmp_path, security_mirror="")
    object.__setattr__(sources, "apt_root", tmp_path)
    with pytest.raises(ConfigurationError, match="--security-mirror"):
        locking.make(parsed(tmp_path), locking.Workshop(Store(tmp_path / "cache"), sources))


def lose(box: Any, name: str, version: str) -> None:
    """A new point release: the old version leaves index and pool."""
    for arch in ("amd64", "arm64"):
        for suite in ("trixie", "trixie-security"):
            stanzas = box.stanzas[suite, arch]
            box.stanzas[suite, arch] = [
                s for s in stanzas if f"Package: {name}\nVersion: {version}\n" not in s
            ]
    for path in [path for path in box.site.files if path.endswith(f"/{name}_{version}_all.deb")]:
        del box.site.files[path]


def republish(box: Any) -> None:
    box.publish("trixie")
    box.publish("trixie-security")


def test_nothing_changes_while_everything_is_there_even_if_newer_versions_are(
    box: Any, tmp_path: Path
) -> None:
    place = workshop(box, tmp_path)
    old = locking.make(parsed(tmp_path), place)
    box.add("trixie-security", "libc", "2")
    republish(box)
    new = locking.update_missing(parsed(tmp_path), old, place)
    assert locking.changes(old, new) == []
    assert versions(locking.make(parsed(tmp_path), place))["libc"] == "2"


def test_only_what_is_gone_is_replaced(box: Any, tmp_path: Path) -> None:
    place = workshop(box, tmp_path)
    old = locking.make(parsed(tmp_path), place)
    box.add("trixie-security", "libc", "2")
    lose(box, "libz", "1+deb13u1")
    box.add("trixie-security", "libz", "1+deb13u2")
    republish(box)
    new = locking.update_missing(parsed(tmp_path), old, place)
    assert list(map(str, locking.changes(old, new))) == [
        "amd64 libz: 1+deb13u1 -> 1+deb13u2",
        "arm64 libz: 1+deb13u1 -> 1+deb13u2",
    ]


def test_what_the_new_version_forces_changes_too(box: Any, tmp_path: Path) -> None:
    place = workshop(box, tmp_path)
    old = locking.make(parsed(tmp_path), place)
    lose(box, "git", "1")
    box.add("trixie-security", "git", "2", "Depends: libc (>= 2), libnew, libz\n")
    box.add("trixie-security", "libc", "2")
    box.add("trixie-security", "libnew", "1")
    box.add("trixie-security", "tmux", "2")
    republish(box)
    new = locking.update_missing(parsed(tmp_path), old, place)
    assert versions(new) == {"git": "2", "libc": "2", "libnew": "1", "libz": "1+deb13u1", "tmux": "1"}


def test_a_superseded_version_that_the_pool_still_has_stays(box: Any, tmp_path: Path) -> None:
    place = workshop(box, tmp_path)
    old = locking.make(parsed(tmp_path), place)
    pool = dict(box.site.files)
    lose(box, "git", "1")
    box.site.files |= pool
    box.add("trixie-security", "git", "2", "Depends: libc (>= 2), libz\n")
    republish(box)
    assert versions(locking.update_missing(parsed(tmp_path), old, place)) == versions(old)


def wheel(
    name: str, version: str = "1.0", requires: str = "", tag: str = "py3-none-any"
) -> tuple[str, bytes]:
    """A file name and the bytes of a wheel that pip can read."""
    data = io.BytesIO()
    folder = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(
            f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
        )
        archive.writestr(f"{folder}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{folder}/RECORD", "")
    return f"{name}-{version}-{tag}.whl", data.getvalue()


def serve(site: Any, *wheels: tuple[str, bytes]) -> None:
    for filename, data in wheels:
        page = f"/simple/{filename.partition('-')[0]}/"
        link = f'<a href="/files/{filename}#sha256={hashlib.sha256(data).hexdigest()}">{filename}</a>\n'
        site.files[page] = site.files.get(page, b"") + link.encode()
        site.types[page] = "text/html"
        site.files[f"/files/{filename}"] = data


PYTHON = TEXT.replace("[component.core]", '[python]\nversion = "3.13"\n[component.core]\nwheels = ["app"]')


@pytest.fixture
def wheels(box: Any) -> None:
    """app -> old (only before Python 3.12), new (only on arm64), native per platform."""
    requires = (
        'Requires-Dist: old; python_version < "3.12"\nRequires-Dist: native\n'
        'Requires-Dist: arm; platform_machine == "aarch64"\n'
    )
    serve(
        box.site,
        wheel("app", requires=requires),
        wheel("old"),
        wheel("arm"),
        wheel("native", tag="cp313-cp313-manylinux_2_28_x86_64"),
        wheel("native", tag="cp313-cp313-manylinux_2_28_aarch64"),
        wheel("native", "2.0", tag="cp313-cp313-manylinux_2_99_x86_64"),
        wheel("native", "2.0", tag="cp312-cp312-manylinux_2_28_x86_64"),
    )


@pytest.mark.usefixtures("wheels")
def test_wheels_are_chosen_for_the_guest_and_not_for_this_machine(box: Any, tmp_path: Path) -> None:
    lock = locking.make(parsed(tmp_path, PYTHON), workshop(box, tmp_path))
    chosen = {arch: [w.filename for w in lock.architecture(arch).wheels] for arch in lock.architectures}
    assert chosen == {
        "amd64": ["app-1.0-py3-none-any.whl", "native-1.0-cp313-cp313-manylinux_2_28_x86_64.whl"],
        "arm64": [
            "app-1.0-py3-none-any.whl",
            "arm-1.0-py3-none-any.whl",
            "native-1.0-cp313-cp313-manylinux_2_28_aarch64.whl",
        ],
    }
    app = lock.architecture("amd64").wheels[0]
    data = box.site.files["/files/app-1.0-py3-none-any.whl"]
    assert (app.size, app.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert app.components == ("core",)


@pytest.mark.usefixtures("wheels")
def test_a_wheel_that_is_gone_is_replaced_and_the_others_stay(box: Any, tmp_path: Path) -> None:
    place = workshop(box, tmp_path)
    old = locking.make(parsed(tmp_path, PYTHON), place)
    del box.site.files["/simple/app/"]
    serve(box.site, wheel("app", "1.1", "Requires-Dist: native"))
    serve(box.site, wheel("native", "1.5", tag="cp313-cp313-manylinux_2_28_x86_64"))
    new = locking.update_missing(parsed(tmp_path, PYTHON), old, place)
    assert [str(change) for change in locking.changes(old, new) if change.arch == "amd64"] == [
        "amd64 app: 1.0 -> 1.1"
    ]


@pytest.mark.usefixtures("wheels")
def test_a_changed_recipe_is_solved_again_even_if_nothing_is_gone(box: Any, tmp_path: Path) -> None:
    place = workshop(box, tmp_path)
    old = locking.make(parsed(tmp_path, PYTHON), place)
    changed = parsed(tmp_path, PYTHON.replace('"app"', '"app>=1.1"'))
    serve(box.site, wheel("app", "1.1"))
    new = locking.update_missing(changed, old, place)
    assert (versions(old)["app"], versions(new)["app"]) == ("1.0", "1.1")
    assert new.recipe == changed.resolution_digest


CUT = PYTHON.replace('wheels = ["app"]', 'wheels = ["app"]\nwithout-wheels = ["Mid.Dle"]').replace(
    'packages = ["tmux"]', 'packages = ["tmux"]\nwheels = ["leaf[more]"]'
)


@pytest.fixture
def chain(box: Any) -> None:
    """app -> mid-dle -> deep; app -> leaf, which needs deep with its extra "more"."""
    serve(
        box.site,
        wheel("app", requires="Requires-Dist: mid.dle\nRequires-Dist: leaf\n"),
        wheel("mid_dle", requires="Requires-Dist: deep\n"),
        wheel("leaf", requires="Provides-Extra: more\nRequires-Dist: deep; extra == 'more'\n"),
        wheel("deep"),
    )
    box.site.files["/simple/mid-dle/"] = box.site.files.pop("/simple/mid_dle/")
    box.site.types["/simple/mid-dle/"] = "text/html"


@pytest.mark.usefixtures("chain")
def test_wheels_that_are_cut_go_with_all_that_only_they_need(box: Any, tmp_path: Path) -> None:
    lock = locking.make(parsed(tmp_path, CUT), workshop(box, tmp_path))
    chosen = {wheel.name: wheel.components for wheel in lock.architecture("amd64").wheels}
    assert chosen == {"app": ("core",), "leaf": ("core", "extra"), "deep": ("extra",)}


@pytest.mark.usefixtures("chain")
def test_cutting_a_wheel_that_nothing_needs_is_a_mistake(box: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cuts 'deeper', which no wheel of core needs"):
        locking.make(parsed(tmp_path, CUT.replace("Mid.Dle", "deeper")), workshop(box, tmp_path))


def test_a_requirement_that_no_wheel_satisfies_is_named(box: Any, tmp_path: Path) -> None:
    serve(box.site, wheel("app", tag="cp312-cp312-manylinux_2_28_x86_64"))
    with pytest.raises(Exception, match=r"wheels for Python 3\.13 on amd64 of app: .*--index-url"):
        locking.make(parsed(tmp_path, PYTHON), workshop(box, tmp_path))
