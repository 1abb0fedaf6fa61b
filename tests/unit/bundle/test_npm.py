from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import lock as locks
from graftbox.bundle import locking, npm, tgz
from graftbox.bundle.download import Downloader
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import LockedModule
from graftbox.bundle.recipe import NpmPackage, Recipe
from graftbox.bundle.sources import Sources
from graftbox.errors import FormatError, NotFoundError, UsageError, VerificationError
from graftbox.store import Store


def tarball(files: Mapping[str, bytes], top: str = "package") -> bytes:
    """An npm package; files below bin/ are executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mode = len(data), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def integrity(data: bytes, algorithm: str = "sha512") -> str:
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


@dataclasses.dataclass
class Registry:
    """An npm registry on the tests' own web site."""

    site: Any
    folder: Path

    def publish(self, name: str, version: str, files: Mapping[str, bytes] | None = None) -> dict[str, Any]:
        """Adds a release; returns what a shrinkwrap says of it."""
        data = tarball(files or {"package.json": f"{name} {version}".encode()})
        path = f"/npm/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
        self.site.files[path] = data
        about = f"/npm/{name.replace('/', '%2F')}"
        document = json.loads(self.site.files.get(about, b'{"versions": {}, "dist-tags": {}}'))
        dist = {"integrity": integrity(data), "tarball": f"{self.site.url}{path}"}
        document["versions"][version] = {"dist": dist}
        document["dist-tags"]["latest"] = version
        self.site.files[about] = json.dumps(document).encode()
        return {"version": version, "integrity": integrity(data)}

    @property
    def sources(self) -> Sources:
        return Sources.find(
            {"HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)},
            npm_registry=f"{self.site.url}/npm",
        )


@pytest.fixture
def registry(site: Any, tmp_path: Path) -> Registry:
    return Registry(site, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def resolver(registry: Registry, store: Store) -> Iterator[npm.Resolver]:
    with Downloader(pauses=(0.0,)) as downloader:
        yield npm.Resolver(store, registry.sources, downloader)


def publish_editor(registry: Registry, packages: Mapping[str, Any], version: str = "4.2.0") -> None:
    """A package ``editor`` whose folder ``server`` has this shrinkwrap."""
    shrinkwrap = json.dumps({"lockfileVersion": 3, "packages": packages}).encode()
    files = {"package.json": b"{}", "bin/edit": b"#!", "server/npm-shrinkwrap.json": shrinkwrap}
    registry.publish("editor", version, files)


EDITOR = {"editor": (NpmPackage("editor", "4", ("server",), ("chat",)),)}


def test_a_tree_is_locked_as_its_shrinkwrap_dictates_without_development_tools_and_what_is_cut(
    registry: Registry, resolver: npm.Resolver
) -> None:
    packages = {
        "": {"dependencies": {"ws": "^8", "chat": "*"}, "devDependencies": {"lint": "*"}},
        "node_modules/ws": registry.publish("ws", "8.1.0") | {"dependencies": {"buffer": "^1"}},
        "node_modules/buffer": registry.publish("buffer", "2.0.0"),
        "node_modules/ws/node_modules/buffer": registry.publish("buffer", "1.5.0"),
        "node_modules/chat": registry.publish("chat", "1.0.0") | {"dependencies": {"model": "*"}},
        "node_modules/model": registry.publish("model", "1.0.0"),
        "node_modules/lint": registry.publish("lint", "1.0.0") | {"dev": True},
    }
    publish_editor(registry, packages)
    found = resolver.resolve(EDITOR, "amd64")
    assert {(one.name, one.version, one.places) for one in found} == {
        ("editor", "4.2.0", ("editor",)),
        ("ws", "8.1.0", ("editor/server/node_modules/ws",)),
        ("buffer", "1.5.0", ("editor/server/node_modules/ws/node_modules/buffer",)),
    }
    assert all(one.components == ("editor",) for one in found)


def test_each_architecture_gets_the_packages_made_for_it(registry: Registry, resolver: npm.Resolver) -> None:
    def platform(name: str, **facts: Any) -> dict[str, Any]:
        return registry.publish(name, "1.0.0") | facts

    packages = {
        "": {"dependencies": {"chat": "*"}, "optionalDependencies": dict.fromkeys(("a", "b", "c", "d"), "1")},
        "node_modules/chat": registry.publish("chat", "1.0.0"),
        "node_modules/a": platform("a", os=["linux"], cpu=["x64"]),
        "node_modules/b": platform("b", os=["linux"], cpu=["arm64"], libc=["glibc"]),
        "node_modules/c": platform("c", os=["linux"], cpu=["arm64"], libc=["musl"]),
        "node_modules/d": platform("d", os=["darwin"]),
    }
    publish_editor(registry, packages)
    assert [one.name for one in resolver.resolve(EDITOR, "amd64")] == ["a", "editor"]
    assert [one.name for one in resolver.resolve(EDITOR, "arm64")] == ["b", "editor"]


def test_the_newest_release_that_the_recipe_allows_is_taken(registry: Registry) -> None:
    versions = ["3.9.9", "4.2.0", "4.10.1", "4.11.0-rc.1", "5.0.0", "40.0.0"]
    assert npm.newest(dict.fromkeys(versions), "4") == "4.10.1"
    assert npm.newest(dict.fromkeys(versions), "4.2") == "4.2.0"
    assert npm.newest(dict.fromkeys(versions), "6") is None


def test_a_locked_version_is_kept_when_a_newer_one_appears(
    registry: Registry, resolver: npm.Resolver
) -> None:
    registry.publish("tool", "1.0.0")
    registry.publish("tool", "1.1.0")
    wanted = {"core": (NpmPackage("tool"),)}
    assert [one.version for one in resolver.resolve(wanted, "amd64")] == ["1.1.0"]
    assert [one.version for one in resolver.resolve(wanted, "amd64", {"tool": "1.0.0"})] == ["1.0.0"]


def test_bytes_that_the_shrinkwrap_does_not_promise_are_refused(
    registry: Registry, resolver: npm.Resolver, store: Store
) -> None:
    registry.publish("tool", "1.0.0")
    registry.site.files["/npm/tool/-/tool-1.0.0.tgz"] += b"more"
    with pytest.raises(VerificationError, match="not what its registry or shrinkwrap promises"):
        resolver.resolve({"core": (NpmPackage("tool"),)}, "amd64")
    assert not list((store.root / "blobs" / "sha256").glob("*")) if (store.root / "blobs").exists() else True


def test_the_weaker_hashes_of_old_shrinkwraps_are_checked_and_a_strong_one_is_locked(
    registry: Registry, resolver: npm.Resolver
) -> None:
    old = registry.publish("old", "0.2.0")
    data = registry.site.files["/npm/old/-/old-0.2.0.tgz"]
    packages = {
        "": {"dependencies": {"old": "*", "chat": "*"}},
        "node_modules/old": old | {"integrity": integrity(data, "sha1")},
        "node_modules/chat": registry.publish("chat", "1.0.0"),
    }
    publish_editor(registry, packages)
    found = {one.name: one for one in resolver.resolve(EDITOR, "amd64")}
    assert found["old"].integrity == integrity(data)
    assert npm.strongest(f"sha1-x {integrity(data)}") == integrity(data)


def test_what_a_recipe_cuts_in_vain_or_names_wrongly_is_said(
    registry: Registry, resolver: npm.Resolver
) -> None:
    publish_editor(registry, {"": {"dependencies": {}}})
    with pytest.raises(UsageError, match="cuts 'chat', which nothing in editor needs"):
        resolver.resolve(EDITOR, "amd64")
    with pytest.raises(UsageError, match=r"editor 4\.2\.0 has no file elsewhere/npm-shrinkwrap\.json"):
        resolver.resolve({"x": (NpmPackage("editor", "", ("elsewhere",)),)}, "amd64")
    with pytest.raises(NotFoundError, match="No npm registry has editor 7"):
        resolver.resolve({"x": (NpmPackage("editor", "7"),)}, "amd64")


def test_a_package_from_elsewhere_than_a_registry_is_refused() -> None:
    packages = {
        "": {"dependencies": {"x": "*"}},
        "node_modules/x": {"version": "1", "resolved": "git+ssh://x"},
    }
    with pytest.raises(FormatError, match="takes x from elsewhere than a registry"):
        list(npm.closure(packages, "amd64"))


def locked(registry: Registry, name: str, version: str) -> LockedModule:
    data = registry.site.files[f"/npm/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"]
    sha256 = hashlib.sha256(data).hexdigest()
    return LockedModule(name, version, integrity(data), len(data), sha256, (name,), ("core",))


def test_a_locked_package_is_fetched_from_the_usual_place_or_from_where_its_registry_says(
    registry: Registry, store: Store
) -> None:
    registry.publish("@scope/tool", "1.0.0")
    entry = locked(registry, "@scope/tool", "1.0.0")
    assert fetch([entry], store, registry.sources)[entry].stat().st_size == entry.size
    moved = registry.site.files.pop("/npm/@scope/tool/-/tool-1.0.0.tgz")
    registry.site.files["/elsewhere.tgz"] = moved
    about = registry.site.files["/npm/@scope%2Ftool"].decode()
    registry.site.files["/npm/@scope%2Ftool"] = about.replace(
        "/npm/@scope/tool/-/tool-1.0.0.tgz", "/elsewhere.tgz"
    ).encode()
    store.blob_path(f"sha256:{entry.sha256}").unlink()
    assert fetch([entry], store, registry.sources, downloader=Downloader(pauses=()))[entry].is_file()


def test_packages_that_no_registry_has_any_more_are_named_with_what_to_do(
    registry: Registry, store: Store
) -> None:
    registry.publish("tool", "1.0.0")
    entry = locked(registry, "tool", "1.0.0")
    registry.site.files.clear()
    with pytest.raises(NotFoundError, match=r"No npm registry has tool 1\.0\.0\. Run .*--update-missing"):
        fetch([entry], store, registry.sources, downloader=Downloader(pauses=()))


RECIPE = """
[debian]
suites = ["trixie"]
keyring = "keyring.gpg"
[component.core]
packages = ["bash"]
[[component.core.npm]]
name = "tool"
"""


def test_update_missing_replaces_only_what_is_gone(
    archive: Any, registry: Registry, store: Store, tmp_path: Path
) -> None:
    archive.add("trixie", "bash")
    archive.publish("trixie")
    (tmp_path / "r.toml").write_text(RECIPE)
    recipe = Recipe.read(tmp_path / "r.toml")
    registry.publish("tool", "1.0.0")
    sources = archive.sources(tmp_path, npm_registry=f"{registry.site.url}/npm")
    workshop = locking.Workshop(store, sources, keyring=archive.keyring)
    first = locking.make(recipe, workshop)
    registry.publish("tool", "1.1.0")
    assert locking.update_missing(recipe, first, workshop).architectures == first.architectures
    del registry.site.files["/npm/tool/-/tool-1.0.0.tgz"]
    about = json.loads(registry.site.files["/npm/tool"])
    del about["versions"]["1.0.0"]
    registry.site.files["/npm/tool"] = json.dumps(about).encode()
    second = locking.update_missing(recipe, first, workshop)
    assert [str(change) for change in locking.changes(first, second)] == [
        "amd64 tool: 1.0.0 -> 1.1.0",
        "arm64 tool: 1.0.0 -> 1.1.0",
    ]
    assert locks.parse(second.to_json(), "test") == second
    assert registry.site.url.encode() not in second.to_json()


def test_a_lock_cannot_name_a_place_outside_of_the_bundle(registry: Registry) -> None:
    registry.publish("tool", "1.0.0")
    entry = dataclasses.replace(locked(registry, "tool", "1.0.0"), places=("../../etc",))
    lock = locks.Lock("sha256:x", {}, {"amd64": locks.LockedArchitecture(modules=(entry,))})
    with pytest.raises(FormatError, match="not a plain relative path"):
        locks.parse(lock.to_json(), "test")


def test_a_packages_files_are_found_below_its_one_top_folder(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(tarball({"bin/run": b"#!", "lib/a.js": b"a"}, top="oddly-named"))
    found = dict(tgz.nodes(path, "x 1.0"))
    assert {name: file.executable for name, file in found.items()} == {"bin/run": True, "lib/a.js": False}
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FormatError, match=r"x 1\.0 .* is damaged"):
        list(tgz.nodes(path, "x 1.0"))


def test_a_file_that_a_package_holds_under_two_spellings_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(tarball({"dist/index.js": b"a", "./dist/index.js": b"a"}))
    assert {name for name, _ in tgz.nodes(path, "x 1.0")} == {"dist/index.js"}
