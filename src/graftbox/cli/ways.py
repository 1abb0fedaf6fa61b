"""The ways to a runtime image in an engine: a graft, or a build that copies or installs. Knows all sides."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftbox.cli.status import say
from graftbox.errors import NotFoundError, TransportError, UnsupportedError
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.image.build_context import File, Link
    from graftbox.image.builders import Builder
    from graftbox.image.dockerfile import Image, Start
    from graftbox.image.graft import Bundle
    from graftbox.image.reference import Reference
    from graftbox.image.tags import Choice, Tags
    from graftbox.image.transports import Access

METHODS = ("graft", "copy", "install", "pyinstaller")
REPOSITORY = "graftbox-runtime"
BUNDLE_REPOSITORY = "graftbox-bundle"


@dataclass(frozen=True)
class Wanted:
    """One image to make, as a user asks for it."""

    base: str
    access: Access
    method: str = "graft"
    engine: str = "docker"
    repository: str = REPOSITORY
    components: tuple[str, ...] = ()
    platform: str | None = None
    user: str | None = None
    keep_entrypoint: bool = False
    extra_deps: str | None = None
    bundle_image: str | None = None
    options: tuple[str, ...] = ()
    """Passed on to the builder as they are."""
    force: bool = False
    folder: Path | None = None
    """Only write the build context there."""


@dataclass(frozen=True)
class Made:
    """What became of it; ``image`` has the source tag. ``status``: made, present, or written (a folder)."""

    image: str
    status: str
    method: str
    tags: tuple[str, ...]
    start: str | None = None
    folder: str | None = None
    seconds: float = 0.0


def make(wanted: Wanted, store: Store) -> Made:
    """Makes the image, unless it is there, or writes its build context."""
    from graftbox.image.builders import Builder
    from graftbox.image.reference import parse
    from graftbox.image.tags import repository

    repository(wanted.repository)
    started = time.perf_counter()
    if wanted.folder is not None and wanted.method == "graft":
        # A graft is not built: what can be built is the image with the same files.
        wanted = dataclasses.replace(wanted, method="copy")
    if wanted.method == "graft" and wanted.extra_deps:
        raise UnsupportedError(
            "A graft runs nothing in the image, so it takes no --extra-deps; use --method copy."
        )
    base = parse(wanted.base)
    builder = None if wanted.folder is not None else Builder(wanted.engine)
    bundle = bundle_for(wanted, store)
    tags = _tags(base, bundle, wanted, builder, store)
    names = [f"{wanted.repository}:{tag}" for tag in (tags.source, tags.lock, tags.versioned)]
    made = Made(names[0], "made", wanted.method, (tags.source, tags.lock, tags.versioned))
    if builder is None:
        assert wanted.folder is not None
        _write_folder(wanted.folder, base, bundle, wanted, tags, store)
        made = dataclasses.replace(made, status="written", folder=str(wanted.folder.absolute()))
    else:
        names = [builder.local(name) for name in names]
        made = dataclasses.replace(made, image=names[0])
        if not wanted.force and builder.inspect(names[0]):
            for name in names[1:]:
                builder.tag(names[0], name)
            made = dataclasses.replace(made, status="present")
        elif wanted.method == "graft":
            _graft(base, bundle, names, wanted, builder, store)
        else:
            start = _build(base, bundle, names, wanted, builder, store)
            made = dataclasses.replace(made, start=start.value if start else None)
    return dataclasses.replace(made, seconds=round(time.perf_counter() - started, 3))


# --- what goes in, and the tags that follow from it ---


def bundle_for(wanted: Wanted, store: Store) -> Bundle:
    """The bundle that is added; for an install, what stands for one in tags and labels."""
    from graftbox.cli.graft import bundles
    from graftbox.image.graft import BundleLayer
    from graftbox.image.platforms import architecture, machine_architecture

    arch = architecture(wanted.platform) if wanted.platform else machine_architecture()
    if wanted.method == "install":
        bundle = _installed(arch, wanted.components)
    else:
        flavor = "pyinstaller" if wanted.method == "pyinstaller" else "tree"
        bundle = bundles(wanted.components, f"linux/{arch}", store, flavor=flavor)[arch]
    if wanted.extra_deps:
        # What else is run in the image decides what it is.
        extra = BundleLayer("extra-deps", "extra-deps", "", _digest(wanted.extra_deps.encode()), 0, 0)
        return dataclasses.replace(bundle, layers=(*bundle.layers, extra))
    return bundle


def _installed(arch: str, components: tuple[str, ...]) -> Bundle:
    from graftbox import __version__
    from graftbox.bundle.recipe import Recipe
    from graftbox.image.dockerfile import PACKAGES
    from graftbox.image.graft import Bundle, BundleLayer

    names = Recipe.builtin().chosen(components)
    lock = _digest(requirements(names) + "\n".join(PACKAGES).encode())
    code = hashlib.sha256()
    for name, file in sorted(server_files().items()):
        content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        code.update(f"{name} {len(content)}\n".encode() + content)
    layers = (
        BundleLayer("packages", "core", "", lock, 0, 0),
        BundleLayer("server", "core", "", f"sha256:{code.hexdigest()}", 0, 0),
    )
    digest = _digest("\n".join(layer.diff_id for layer in layers).encode())
    return Bundle(arch, digest, __version__, names, layers, lock)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def requirements(components: tuple[str, ...] = ()) -> bytes:
    """What pip installs in the traditional way: what the bundle's components are made of."""
    from graftbox.bundle.recipe import Recipe

    recipe = Recipe.builtin()
    names = recipe.chosen(components)
    lines = sorted({wheel for name in names for wheel in recipe.component(name).wheels})
    return "".join(f"{line}\n" for line in lines).encode()


def server_files() -> dict[str, File]:
    """``openhands/…`` for the traditional way: the server's code and the commands that clients call."""
    from graftbox.bundle import own_code
    from graftbox.bundle.recipe import Recipe
    from graftbox.image.build_context import File

    found: dict[str, File] = {}
    for name in own_code.SERVER:
        top = own_code.PACKAGE / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"openhands/code/graftbox/{path.relative_to(own_code.PACKAGE)}"] = File(
                    path.read_bytes()
                )
    scripts = (Recipe.builtin().component("core").stage or {})["scripts"]
    server = scripts["bin/action-execution-server"].removeprefix("#!/openhands/libexec/python3.13")
    client = scripts["micromamba/bin/micromamba"].removeprefix("#!/openhands/libexec/dash")
    commands = {
        "bin/action-execution-server": f"#!/openhands/venv/bin/python{server}",
        "bin/oh-python": '#!/bin/sh\nexec /openhands/venv/bin/python -E -s "$@"\n',
        "micromamba/bin/micromamba": f"#!/bin/sh{client}",
    }
    return found | {f"openhands/{name}": File(text.encode(), True) for name, text in commands.items()}


def _tags(base: Reference, bundle: Bundle, wanted: Wanted, builder: Builder | None, store: Store) -> Tags:
    from graftbox.image.dockerfile import from_name
    from graftbox.image.reuse import base_digest
    from graftbox.image.tags import tags_of

    try:
        digest = base_digest(base, store, wanted.access)
    except (NotFoundError, TransportError):
        # Then it may be one that only the engine has.
        found = builder.inspect(from_name(base)) if builder and base.name else None
        if found is None:
            raise
        digest = found.digest
    return tags_of(base, digest, _choice(bundle, wanted))


def _choice(bundle: Bundle, wanted: Wanted) -> Choice:
    from graftbox.image.tags import Choice

    return Choice({bundle.arch: bundle}, wanted.user, wanted.keep_entrypoint, wanted.platform)


# --- building ---


def image_facts(
    base: Reference, wanted: Wanted, bundle: Bundle | None, begins: Mapping[str, Any] | None = None
) -> Image:
    """What the Dockerfile says beside the way itself. ``bundle`` None: only its builder will know which.

    ``begins`` is what `beginning` found; without it nothing is said of the base but its name.
    """
    from graftbox import __version__
    from graftbox.image.dockerfile import METHOD, Image, from_name
    from graftbox.image.graft import BASE_LABELS, BASE_NAME, BUNDLE, COMPONENTS, SERVER, VERSION

    begins = begins or {}
    labels = {name: value for name, value in begins.get("Labels", {}).items() if name in BASE_LABELS}
    labels = {BASE_NAME: base.portable, **labels, VERSION: __version__, METHOD: wanted.method}
    if bundle is not None:
        labels[COMPONENTS] = ",".join(bundle.components)
        if wanted.method != "install":
            labels[BUNDLE] = bundle.digest
    return Image(
        from_name(base),
        labels,
        wanted.user,
        wanted.extra_deps,
        begins.get("Entrypoint") or tuple(SERVER),
        begins.get("Cmd") or (),
    )


def _build(
    base: Reference, bundle: Bundle, names: list[str], wanted: Wanted, builder: Builder, store: Store
) -> Start | None:
    from graftbox.cli.beginning import beginning
    from graftbox.image import build_context, dockerfile
    from graftbox.image.dockerfile import Start

    image = image_facts(base, wanted, bundle, beginning(base, bundle, wanted, store))
    start = None
    files: Mapping[str, File | Link] = {}
    if wanted.method == "copy":
        text = dockerfile.copy(image, _bundle_image(bundle, wanted, builder, store))
    elif wanted.method == "pyinstaller":
        text, files = dockerfile.pyinstaller(image), binary_files(wanted, store)
    else:
        start = Start.SCRATCH if wanted.force else _start(names, builder)
        built_on = {Start.LOCK: names[1], Start.VERSIONED: names[2]}.get(start)
        text = dockerfile.install(image, start, built_on)
        files = install_files(wanted)
    with _temporary_folder(store) as folder:
        build_context.write(folder, text, files)
        builder.build(folder, names, wanted.platform, wanted.options)
    return start


def _start(names: list[str], builder: Builder) -> Start:
    """The furthest that an earlier install got. Images of the other ways have no Python that pip knows."""
    from graftbox.image.dockerfile import METHOD, Start

    for name, start in ((names[1], Start.LOCK), (names[2], Start.VERSIONED)):
        found = builder.inspect(name)
        if found and found.labels.get(METHOD) == "install":
            return start
    return Start.SCRATCH


def install_files(wanted: Wanted) -> dict[str, File]:
    from graftbox.image.build_context import File

    return {"requirements.txt": File(requirements(wanted.components)), **server_files()}


def binary_files(wanted: Wanted, store: Store) -> dict[str, File | Link]:
    """``openhands/…``: the bundle of the flavour pyinstaller, for this machine's architecture."""
    from graftbox.cli.bases import bundle_tree
    from graftbox.image.build_context import File, Link

    top = bundle_tree(wanted.components, store, "pyinstaller")
    found: dict[str, File | Link] = {}
    for path in sorted((top / "openhands").rglob("*")):
        name = path.relative_to(top).as_posix()
        if path.is_symlink():
            found[name] = Link(str(path.readlink()))
        elif path.is_file():
            found[name] = File(path, executable=os.access(path, os.X_OK))
    return found


def bundle_name(bundle: Bundle) -> str:
    """The name of the bundle's own image in an engine."""
    return f"{BUNDLE_REPOSITORY}:{bundle.digest.removeprefix('sha256:')[:24]}"


def _bundle_image(bundle: Bundle, wanted: Wanted, builder: Builder, store: Store) -> str:
    """The bundle's image as ``COPY --from`` takes it, loaded into the engine if it is not there."""
    from graftbox.image.bundle_image import push_bundle
    from graftbox.image.reference import image_name, parse

    if wanted.bundle_image:
        return str(image_name(wanted.bundle_image))
    name = builder.local(bundle_name(bundle))
    if builder.inspect(name) is None:
        say(f"loading the bundle into {wanted.engine} as {name}")
        ours = dataclasses.replace(
            bundle, layers=tuple(layer for layer in bundle.layers if layer.name != "extra-deps")
        )
        with _temporary_folder(store) as folder:
            archive = folder / "bundle.tar"
            push_bundle({bundle.arch: ours}, parse(f"docker-archive:{archive}:{name}"), store)
            builder.load(archive)
    return name


def _write_folder(
    folder: Path, base: Reference, bundle: Bundle, wanted: Wanted, tags: Tags, store: Store
) -> None:
    """The context, ``tags.json``, and ``config.sh`` as the scripts of OpenHands read it."""
    from graftbox.cli.beginning import beginning
    from graftbox.image import build_context, dockerfile
    from graftbox.image.build_context import File
    from graftbox.image.dockerfile import Start
    from graftbox.image.reference import image_name

    image = image_facts(base, wanted, bundle, beginning(base, bundle, wanted, store))
    files: dict[str, File | Link] = {}
    if wanted.method == "install":
        text, files = dockerfile.install(image, Start.SCRATCH), {**install_files(wanted)}
    elif wanted.method == "pyinstaller":
        text, files = dockerfile.pyinstaller(image), binary_files(wanted, store)
    elif wanted.bundle_image:
        text = dockerfile.copy(image, str(image_name(wanted.bundle_image)))
    else:
        layers = [layer for layer in bundle.layers if layer.digest]
        files = {
            f"{number}-{layer.name}.tar.gz": File(store.blob_path(layer.digest))
            for number, layer in enumerate(layers)
        }
        text = dockerfile.add(image, list(files))
    facts = {"source": tags.source, "lock": tags.lock, "versioned": tags.versioned}
    listing = json.dumps({"repository": wanted.repository, **facts}, indent=1) + "\n"
    files["tags.json"] = File(listing.encode())
    build_context.write(folder, text, files)
    with (folder / "config.sh").open("a") as config:
        config.write(f"\nDOCKER_IMAGE_TAG={tags.versioned}\nDOCKER_IMAGE_SOURCE_TAG={tags.source}\n")


def _graft(
    base: Reference, bundle: Bundle, names: list[str], wanted: Wanted, builder: Builder, store: Store
) -> None:
    from graftbox.image.place import graft_image
    from graftbox.image.reference import parse

    more = [name.rpartition(":")[2] for name in names[1:]]
    graft = functools.partial(
        graft_image,
        base,
        bundles={bundle.arch: bundle},
        store=store,
        user=wanted.user,
        keep_entrypoint=wanted.keep_entrypoint,
        platform=wanted.platform,
        access=wanted.access,
        progress=say,
    )
    if wanted.engine == "docker":
        graft(parse(f"docker-daemon:{names[0]}"), tags=more)
        return
    with _temporary_folder(store) as folder:
        archive = folder / "image.tar"
        graft(parse(f"docker-archive:{archive}:{names[0]}"))
        builder.load(archive)
    for name in names[1:]:
        builder.tag(names[0], name)


@contextlib.contextmanager
def _temporary_folder(store: Store) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=store.folder("tmp")) as folder:
        yield Path(folder)
