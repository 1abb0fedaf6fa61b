"""Whole folders in and out of the sandbox: the model's three endpoints, and archives under /v1."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast
from urllib.parse import quote

from graftbox.server import transfer, workspace
from graftbox.server.api.files import FLAG, PATH, place
from graftbox.server.api.model import decoded
from graftbox.server.entries import named, told
from graftbox.server.feed import Feed
from graftbox.server.form import Form
from graftbox.server.identity import Identity
from graftbox.server.openapi import Media, Operation
from graftbox.server.packing import CONTENT_TYPES, FORMATS, check_readable, packed, steps
from graftbox.server.request import HTTPError, InvalidRequestError, Request, Response, answer
from graftbox.server.schema import Schema
from graftbox.server.unpacking import members, unpack_tar, unpack_zip

UPLOADS = 2
"""Archives that are unpacked as they come in, at the same time: each holds a thread."""
_FORMAT: Schema = {"type": "string", "enum": list(FORMATS), "default": "tar.gz"}
DOWNLOAD: dict[str, Schema] = {"path": PATH, "format": _FORMAT}
UPLOAD: dict[str, Schema] = {"path": PATH, "format": _FORMAT}
UNPACKED: Schema = {
    "title": "Unpacked",
    "type": "object",
    "required": ["path", "members"],
    "properties": {"path": {"type": "string"}, "members": {"type": "integer"}},
}
_ABSOLUTE: Schema = {"type": "string", "pattern": r"^/[^\x00]*$", "x-bytes": True}
_ARCHIVE = Media("application/octet-stream")
_FORM: Schema = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}},
}
OPENAPI = {
    "list_files": Operation(
        "Names in a folder",
        "Folders first, with a slash; relative paths start at the working directory. What can't be listed is "
        "empty.",
        body={
            "type": "object",
            "properties": {"path": {"type": ["string", "null"], "x-bytes": True}},
        },
        body_required=False,
        answers={200: {"type": "array", "items": {"type": "string"}}},
    ),
    "upload_file": Operation(
        "Put a file into a folder, or unpack a zip archive there",
        "A file whose name ends in .zip is unpacked, and must be one with `recursive`. All of it arrives, or "
        "nothing.",
        query={"destination": {**_ABSOLUTE, "default": "/"}, "recursive": FLAG},
        body=Media("multipart/form-data", _FORM),
        answers={
            200: {
                "title": "Uploaded",
                "type": "object",
                "required": ["filename", "destination", "recursive"],
                "properties": {
                    "filename": {"type": "string"},
                    "destination": {"type": "string"},
                    "recursive": {"type": "boolean"},
                },
            }
        },
        errors=(400, 404, 409, 507),
    ),
    "download_files": Operation(
        "A folder, or a file, as a zip archive",
        "Links to files are followed.",
        query={"path": {**_ABSOLUTE, "x-required": True}},
        answers={200: Media("application/zip")},
        errors=(400, 404, 409),
    ),
    "read_archive": Operation(
        "A folder, or a file, as an archive",
        "Made while it is sent. Modes, links, times and empty folders are kept, in tar also hard links; "
        "pipes, sockets and devices are left out. Names are relative to the folder. What the sandbox's user "
        "may not read is a 403 before anything is sent.",
        query=DOWNLOAD,
        answers={200: tuple(Media(kind) for kind in CONTENT_TYPES.values())},
        errors=(400, 404, 409),
    ),
    "write_archive": Operation(
        "Unpack an archive into a folder",
        "The folder is made if need be; files that are there are replaced, others stay. All of the archive "
        "arrives, or nothing: it is refused, with the member's name, where a name or link leads out of the "
        "folder, or where it holds a device, pipe or socket. Owners are not taken over, modes and times are.",
        query=UPLOAD,
        body=_ARCHIVE,
        answers={200: UNPACKED},
        errors=(400, 404, 409, 507),
    ),
}
_unpacking = asyncio.Semaphore(UPLOADS)


async def list_files(request: Request) -> Response:
    given = decoded(await request.body() or b"{}")
    if not isinstance(given, dict):
        raise InvalidRequestError("dict_type", ("body",), "Input should be a valid dictionary", given)
    path = given.get("path")
    if path is not None and not isinstance(path, str):
        raise InvalidRequestError("string_type", ("body", "path"), "Input should be a valid string", path)
    folder = os.path.join(request.sandbox.settings.working_dir, path or "")  # noqa: PTH118 - may hold a NUL
    return answer(await request.sandbox.identity.call(_names, folder))


def _names(folder: str) -> list[str]:
    """Folders, then files; what does not exist, as a broken link, is left out."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name + "/")
                elif not entry.is_symlink() or Path(entry.path).exists():
                    files.append(entry.name)
    except (OSError, ValueError):
        return []
    return sorted(folders, key=str.lower) + sorted(files, key=str.lower)


async def upload_file(request: Request) -> Response:
    query = request.query
    destination, recursive = query.get("destination", "/"), _flag(query.get("recursive", "false"))
    form = Form(request.stream(), request.header(b"content-type") or b"")
    if not destination.startswith("/") or "\0" in destination:
        raise HTTPError(400, "Destination must be an absolute path")
    folder = place(request, destination)
    # Some clients send a whole path; only its last part is a name.
    given = await form.open()
    name = given.replace("\0", "").rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        raise HTTPError(400, f"The file's name {given!r} can't be used. Send one that names a file.")
    packed = name.endswith(".zip")
    if recursive and not packed:
        raise HTTPError(400, "Recursive uploads must be zip files")
    identity = request.sandbox.identity
    with told(folder if packed else folder / name):
        if identity.switched:
            await asyncio.to_thread(workspace.claim, _working_dir(request), [folder / name], identity)
        if packed:
            await _unpack_spooled(form.content(), folder, identity, _working_dir(request))
        else:
            terms = transfer.Terms(replacing=True)
            await transfer.received(form.content(), folder / name, terms, identity)
    return answer({"filename": name, "destination": destination, "recursive": recursive})


def _flag(text: str) -> bool:
    """As the model reads it."""
    known = {"true": True, "1": True, "yes": True, "on": True, "t": True, "y": True}
    known |= {"false": False, "0": False, "no": False, "off": False, "f": False, "n": False}
    if text.lower() not in known:
        said = "Input should be a valid boolean, unable to interpret input"
        raise InvalidRequestError("bool_parsing", ("query", "recursive"), said, text)
    return known[text.lower()]


def _working_dir(request: Request) -> str:
    return request.sandbox.settings.working_dir


async def _unpack_spooled(
    stream: AsyncIterator[bytes], folder: Path, identity: Identity, working_dir: str | None = None
) -> int:
    """For zip, whose list of members comes last. The spool has no name, so that nothing can be left of it.

    ``working_dir``: what is in the members' way there is handed over to the user.
    """
    spool = await identity.call(_spool, folder)
    try:
        async for piece in transfer.gathered(stream):
            await identity.call(spool.write, piece)
        if working_dir is not None and identity.switched:
            places = await identity.call(members, spool, folder)
            await asyncio.to_thread(workspace.claim, working_dir, places, identity)
        return await identity.call(unpack_zip, spool, folder)
    finally:
        # Giving a large file's space back takes its time.
        await asyncio.shield(identity.call(spool.close))


def _spool(folder: Path) -> BinaryIO:
    nearest = next(each for each in (folder, *folder.parents) if each.is_dir())
    return cast("BinaryIO", tempfile.TemporaryFile(dir=nearest))


async def download_files(request: Request) -> Response:
    path = request.query.get("path")
    if path is None:
        raise InvalidRequestError("missing", ("query", "path"), "Field required", None)
    if not path.startswith("/") or "\0" in path:
        raise HTTPError(400, "Path must be an absolute path")
    found = place(request, path)
    if not await request.sandbox.identity.call(os.path.exists, found):
        raise HTTPError(404, "File not found")
    return await _archive(request, found, "zip", follow_files=True)


async def read_archive(request: Request) -> Response:
    query = request.arguments(DOWNLOAD)
    return await _archive(request, place(request, query["path"]), query["format"])


async def _archive(request: Request, path: Path, form: str, follow_files: bool = False) -> Response:
    identity = request.sandbox.identity
    with told(path):
        await identity.call(check_readable, path, follow_files)
    name = f"{path.name or 'root'}.{form}"
    shown = quote(os.fsencode(name), safe="")
    value = f'filename="{name}"' if shown == name else f"filename*=utf-8''{shown}"
    headers = ((b"content-disposition", f"attachment; {value}".encode()),)
    body = _sent(packed(path, form, follow_files=follow_files), identity)
    return Response(200, body, CONTENT_TYPES[form], headers)


async def _sent(pieces: Iterator[bytes], identity: Identity) -> AsyncGenerator[bytes]:
    step = steps(pieces)
    while piece := await identity.call(step):
        yield piece


async def write_archive(request: Request) -> Response:
    query = request.arguments(UPLOAD)
    folder, form = place(request, query["path"]), query["format"]
    identity = request.sandbox.identity
    with told(folder):
        if form == "zip":
            count = await _unpack_spooled(request.stream(), folder, identity)
        else:
            async with _unpacking:
                feed = Feed(transfer.gathered(request.stream()))
                unpack = partial(
                    unpack_tar,
                    cast("IO[bytes]", feed),
                    folder,
                    lambda: feed.size,
                    compressed=form == "tar.gz",
                )
                count = await feed.using(identity.call(unpack))
    return answer({**named(folder), "members": count})
