"""OpenHands' file viewer: a picture or PDF of the sandbox as a page, as the browser shows neither alone."""

from __future__ import annotations

import html
import json
import os
import re
from base64 import b64encode
from pathlib import Path

from graftbox.errors import GraftboxError
from graftbox.server.disk import open_regular
from graftbox.server.environment import BUNDLE
from graftbox.server.identity import Identity

MAX_FILE = 64 * 1024 * 1024
"""Bytes of a file that is shown."""
PDFJS = BUNDLE / "browser/pdfjs"
"""Mozilla's pdf.js, where the bundle has it."""
PDFJS_KINDS = {
    ".mjs": b"text/javascript",
    ".wasm": b"application/wasm",
    ".bcmap": b"application/octet-stream",
    ".pfb": b"application/octet-stream",
}
"""What is served of it: its scripts, decoders of pictures, character maps and symbol fonts."""
KINDS = {
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
}
_HTML = b"text/html; charset=utf-8"
_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="UTF-8">
<title>File Viewer - {name}</title>
<style>
body {{ margin: 0; padding: 0; font-family: sans-serif; overflow: auto; }}
#content {{ width: 100%; min-height: 100vh; display: flex; flex-direction: column; align-items: center; }}
#content canvas {{ display: block; margin: 10px auto; }}
#content img {{ max-width: 100%; }}
#error {{ color: #a00; white-space: pre-wrap; }}
</style>
</head>
<body>
<div id="content">{content}</div>
</body>
</html>
"""
_NO_PDFJS = "PDFs are drawn by pdf.js of the bundle's component browser, which is not here. Add it."
_PICTURE = '<img src="data:{kind};base64,{data}" alt="{name}">'
_PDF = """<p id="error"></p>
<iframe hidden></iframe>
<script type="module">
const shown = document.getElementById('content'), told = document.getElementById('error');
// The page has loaded when it is drawn, or after ten seconds: not while a document in it is being written.
const unfinished = document.querySelector('iframe').contentDocument.open();
setTimeout(() => unfinished.close(), 10000);
try {{
  const pdfjs = await import('/pdfjs/pdf.min.mjs');
  pdfjs.GlobalWorkerOptions.workerSrc = '/pdfjs/pdf.worker.min.mjs';
  const data = Uint8Array.from(atob('{data}'), letter => letter.charCodeAt(0));
  const cMapUrl = '/pdfjs/cmaps/', standardFontDataUrl = '/pdfjs/standard_fonts/', wasmUrl = '/pdfjs/wasm/';
  const pdf = await pdfjs.getDocument({{data, cMapUrl, standardFontDataUrl, wasmUrl}}).promise;
  for (let number = 1; number <= pdf.numPages; number++) {{
    const page = await pdf.getPage(number), viewport = page.getViewport({{scale: 1}});
    const canvas = document.createElement('canvas');
    canvas.width = viewport.width;
    canvas.height = viewport.height;
    shown.appendChild(canvas);
    await page.render({{canvasContext: canvas.getContext('2d'), viewport}}).promise;
    // For those who read the page and do not look at it.
    const text = await page.getTextContent();
    canvas.textContent = text.items.map(item => item.str + (item.hasEOL ? '\\n' : '')).join('');
  }}
}} catch (error) {{
  told.textContent = 'This PDF could not be shown: ' + error;
}} finally {{
  unfinished.close();
}}
</script>"""

Answer = tuple[int, bytes, bytes]
"""Status, content type and body."""


def denied() -> Answer:
    return _error(403, "Access Denied", "This endpoint is only accessible from localhost")


async def respond(identity: Identity, method: str, route: str, path: str | None) -> Answer:
    """The answer to a request for ``route`` with the query parameter ``path``, read as that user."""
    if method not in ("GET", "HEAD"):
        return 405, b"application/json", b'{"detail":"Method Not Allowed"}'
    if route == "/":
        return 200, b"application/json", b'{"status":"File viewer server is running"}'
    if route.startswith("/pdfjs/"):
        return await identity.call(_part_of_pdfjs, route.removeprefix("/pdfjs/"))
    if route != "/view":
        return 404, b"application/json", b'{"detail":"Not Found"}'
    if path is None:
        detail = [{"type": "missing", "loc": ["query", "path"], "msg": "Field required", "input": None}]
        return 422, b"application/json", json.dumps({"detail": detail}).encode()
    return await identity.call(view, path)


def view(path: str) -> Answer:
    """The file as a page; blocking."""
    shown = html.escape(os.fsencode(path).decode("utf-8", "replace"))
    if not path.startswith("/"):
        return _error(400, "Error: Path must be absolute", shown)
    try:
        file = Path(path)
        if "\0" in path or not file.exists():
            return _error(404, "Error: File not found", shown)
        if file.is_dir():
            return _error(400, "Error: Path is a directory", shown)
        kind = KINDS.get(file.suffix.lower())
        if kind is None:
            known = ", ".join(KINDS)
            text = f"Unsupported file extension: {file.suffix.lower()}. Supported extensions are: {known}"
            return _error(500, "Error viewing file", shown, html.escape(text))
        with open_regular(file) as opened:
            data = opened.read(MAX_FILE + 1)
    except (OSError, GraftboxError) as error:
        return _error(500, "Error viewing file", shown, html.escape(str(error)))
    if len(data) > MAX_FILE:
        return _error(500, "Error viewing file", shown, f"The file is larger than {MAX_FILE} bytes.")
    name = html.escape(file.name.encode("utf-8", "replace").decode())
    fill = {"kind": kind, "name": name, "data": b64encode(data).decode()}
    if kind == "application/pdf":
        if not PDFJS.is_dir():
            return _error(500, "Error viewing file", shown, _NO_PDFJS)
        content = _PDF.format(**fill)
    else:
        content = _PICTURE.format(**fill)
    return 200, _HTML, _PAGE.format(name=name, content=content).encode()


def _part_of_pdfjs(name: str) -> Answer:
    kind = PDFJS_KINDS.get(Path(name).suffix)
    if kind and re.fullmatch(r"([a-z_]+/)?\w[\w.-]*", name, re.ASCII):
        try:
            return 200, kind, (PDFJS / name).read_bytes()
        except OSError:
            pass
    return 404, b"application/json", b'{"detail":"Not Found"}'


def _error(status: int, title: str, *lines: str) -> Answer:
    text = f"<h1>{title}</h1>" + "".join(f"<p>{line}</p>" for line in lines)
    return status, _HTML, text.encode()
