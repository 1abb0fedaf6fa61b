"""Skills that print the text of documents. Those that need a library say which one, if it is not there."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"


def parse_pdf(file_path: str) -> None:
    """Print the text of a PDF file, page by page; needs the library pypdf."""
    library = _library("pypdf", "PyPDF2")
    print(f"[Reading PDF file from {file_path}]")
    if library is not None:
        pages = library.PdfReader(file_path).pages
        texts = (f"@@ Page {number} @@\n{page.extract_text()}" for number, page in enumerate(pages, 1))
        print("\n\n".join(texts).strip())


def parse_docx(file_path: str) -> None:
    """Print the text of a Word document, paragraph by paragraph."""
    print(f"[Reading DOCX file from {file_path}]")
    with zipfile.ZipFile(file_path) as archive:
        body = ElementTree.fromstring(archive.read("word/document.xml"))
    for number, paragraph in enumerate(body.iterfind(f"*/{_WORD}p"), 1):
        print(f"@@ Page {number} @@\n{_text(paragraph, _WORD)}\n")


def parse_pptx(file_path: str) -> None:
    """Print the text of a PowerPoint presentation, slide by slide."""
    print(f"[Reading PowerPoint file from {file_path}]")
    with zipfile.ZipFile(file_path) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", name)]
        for number, name in enumerate(sorted(names, key=_number), 1):
            slide = ElementTree.fromstring(archive.read(name))
            lines = [_text(paragraph, _DRAWING) for paragraph in slide.iter(f"{_DRAWING}p")]
            print("\n".join([f"@@ Slide {number} @@", *lines]))


def parse_latex(file_path: str) -> None:
    """Print the text of a LaTeX file, without its commands; needs the library pylatexenc."""
    library = _library("pylatexenc.latex2text")
    print(f"[Reading LaTex file from {file_path}]")
    if library is not None:
        source = Path(file_path).read_text(encoding="utf-8", errors="replace")
        print(library.LatexNodes2Text().latex_to_text(source).strip())


def _library(*names: str) -> Any:
    """The first of these modules that can be imported; None, with a word to the user, without one."""
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    project = names[0].partition(".")[0]
    print(f"ERROR: This needs the library {project}. Install it with: %pip install {project}")
    return None


def _text(paragraph: ElementTree.Element, space: str) -> str:
    parts: dict[str, Callable[[ElementTree.Element], str]] = {
        f"{space}t": lambda node: node.text or "",
        f"{space}tab": lambda node: "\t",
        f"{space}br": lambda node: "\n",
    }
    return "".join(parts[node.tag](node) for node in paragraph.iter() if node.tag in parts)


def _number(name: str) -> int:
    return int("".join(filter(str.isdigit, name)))
