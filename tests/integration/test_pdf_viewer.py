"""PDFs in the file viewer, drawn by the bundle's pdf.js: locked down, without a network, on an empty base."""

from __future__ import annotations

import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import program
from tests.integration.test_base_matrix import LOCKED_DOWN, sandbox

from graftbox.sandbox.client import Client
from graftbox.server.browser.png import decode

PAGE = "data:text/html,<h1 style='font-size:60px'>HELLO PRINTED WORLD</h1>"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with sandbox("scratch", "--engine", "embedded", *LOCKED_DOWN.split()) as client:
        yield client


def ask(client: Client, method: str, path: str, **more: Any) -> Any:
    answer = client._http.request(method, path, timeout=120, **more)
    assert answer.is_success, answer.text
    return answer


def seen(client: Client, document: bytes) -> tuple[str, bytes]:
    """What `browse` says of a PDF document, and its picture of it."""
    ask(client, "PUT", "/v1/files/content?path=/tmp/a.pdf", content=document)
    answer = client.execute({"action": "browse", "args": {"url": "/tmp/a.pdf"}, "timeout": 120}, 125)
    assert answer["observation"] == "browse", answer
    assert not answer["extras"]["error"], answer
    return answer["content"], b64decode(answer["extras"]["screenshot"].partition(",")[2])


def pdf(font: str, more: str, text: bytes) -> bytes:
    """A document of one page with ``text``, a hexadecimal string, in a font that is not in the document."""
    stream = b"BT /F 60 Tf 50 600 Td <" + text + b"> Tj ET"
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 700] /Contents 4 0 R /Resources 8 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        f"<< /Type /Font /BaseFont /{font} {more} >>".encode(),
        f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /{font} /FontDescriptor 7 0 R"
        " /CIDSystemInfo << /Registry (Adobe) /Ordering (Japan1) /Supplement 2 >> >>".encode(),
        f"<< /Type /FontDescriptor /FontName /{font} /Flags 4 /FontBBox [0 0 1000 1000] >>".encode(),
        b"<< /Font << /F 5 0 R >> >>",
    ]
    written, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(bodies, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    tail = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, len(written))
    return bytes(written) + head + table + tail


def dark(picture: bytes) -> int:
    """How many pixels of the picture have little red in them."""
    found = decode(picture)
    return sum(red < 100 for row in range(found.height) for red in found.row(row)[:: found.channels])


def test_a_printed_page_is_read_and_seen(client: Client, tmp_path: Path) -> None:
    page = ask(client, "POST", "/v1/browser/pages", json={"url": PAGE}).json()["id"]
    text, picture = seen(client, ask(client, "GET", f"/v1/browser/pages/{page}/pdf").content)
    assert "HELLO PRINTED WORLD" in text
    (tmp_path / "seen.png").write_bytes(picture)
    words = [program("tesseract", "tesseract-ocr"), str(tmp_path / "seen.png"), "-"]
    read = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    assert "PRINTED" in read


def test_symbols_are_drawn_without_a_font_in_the_document(client: Client) -> None:
    _, picture = seen(client, pdf("ZapfDingbats", "/Subtype /Type1", b"6e6e"))
    assert dark(picture) > 2500, "two black squares, not letters"


def test_japanese_text_is_read_by_its_character_map(client: Client) -> None:
    more = "/Subtype /Type0 /Encoding /90ms-RKSJ-H /DescendantFonts [6 0 R]"
    assert "日本語" in seen(client, pdf("HeiseiMin-W3", more, "日本語".encode("shift_jis").hex().encode()))[0]


def test_a_damaged_document_says_so(client: Client) -> None:
    assert "This PDF could not be shown" in seen(client, b"%PDF-1.4\nnothing")[0]
