"""The sandbox's files as MCP resources: those of the working folder are listed, each file can be read."""

from __future__ import annotations

import os
from base64 import b64encode
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

import mcp_types as types
from mcp.shared.exceptions import MCPError

from graftbox.errors import GraftboxError
from graftbox.server.disk import open_regular
from graftbox.server.entries import listing, told
from graftbox.server.request import HTTPError

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

PAGE = 500
MAX_SIZE = 8 * 1024 * 1024
"""Bytes of a file that is read as a resource."""
TEMPLATE = types.ResourceTemplate(
    uri_template="file://{+path}",
    name="file",
    title="A file of the sandbox",
    description=f"Any file by its absolute path, up to {MAX_SIZE} bytes.",
)


async def listed(sandbox: Sandbox, cursor: str | None) -> types.ListResourcesResult:
    """A page of the files right in the working folder; ``cursor`` is the last name of the page before."""
    folder = Path(sandbox.settings.working_dir)
    after = os.fsdecode(unquote_to_bytes(cursor or ""))
    try:
        with told(folder):
            entries, following = await sandbox.identity.call(listing, folder, False, False, PAGE, after)
    except HTTPError as error:
        raise MCPError(types.INVALID_PARAMS, str(error)) from error
    resources = [
        types.Resource(
            uri=(folder / entry["path"]).as_uri(),
            name=entry["path"],
            size=entry["size"],
            mime_type=guess_type(entry["path"])[0],
        )
        for entry in entries
        # A name that is not UTF-8 can't be told in JSON.
        if entry["type"] == "file" and "path_encoded" not in entry
    ]
    return types.ListResourcesResult(resources=resources, next_cursor=following)


async def read(sandbox: Sandbox, uri: str) -> types.ReadResourceResult:
    """The file that ``uri`` names, as text where it is UTF-8; raises `MCPError`."""
    parts = urlsplit(uri)
    path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise MCPError(types.INVALID_PARAMS, f"Unknown resource {uri}: name a file as file:///absolute/path.")
    try:
        with told(path):
            data = await sandbox.identity.call(_bytes, path)
    except (HTTPError, GraftboxError, ValueError) as error:
        raise MCPError(types.INVALID_PARAMS, str(error)) from error
    if len(data) > MAX_SIZE:
        raise MCPError(types.INVALID_PARAMS, f"{path} has more than {MAX_SIZE} bytes; use the read tool.")
    kind = guess_type(path.name)[0]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    contents: types.TextResourceContents | types.BlobResourceContents
    if "\0" in text:
        blob = b64encode(data).decode()
        contents = types.BlobResourceContents(uri=uri, blob=blob, mime_type=kind)
    else:
        contents = types.TextResourceContents(uri=uri, text=text, mime_type=kind or "text/plain")
    return types.ReadResourceResult(contents=[contents])


def _bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(MAX_SIZE + 1)
