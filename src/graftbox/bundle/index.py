"""Looks a wheel up by its file name in simple indexes (PEP 503 HTML, PEP 691 JSON) and wheel folders."""

from __future__ import annotations

import html.parser
import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle.download import Document, Downloader, local_path, shown
from graftbox.bundle.pypi import Indexes
from graftbox.errors import NotFoundError, TransportError

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True)
class IndexFile:
    """One file that an index offers; ``sha256`` (bare hex) and ``size`` where it says so."""

    filename: str
    url: str
    sha256: str | None = None
    size: int | None = None


def normalized(name: str) -> str:
    """A project's name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locate(
    downloader: Downloader, indexes: Indexes, project: str, filename: str, sha256: str
) -> list[IndexFile]:
    """Every address of that file that is not known to hold other bytes, local folders first.

    `NotFoundError` if no index has it, `TransportError` if none has it and one could not be asked.
    """
    found: list[IndexFile] = []
    trouble: TransportError | None = None
    for place in sorted(_places(indexes, project), key=lambda place: local_path(place) is None):
        try:
            offers = list(_offers(downloader, place))
        except NotFoundError:
            continue
        except TransportError as error:
            trouble = error
            continue
        found += [o for o in offers if o.filename == filename and o.sha256 in {None, sha256}]
        if found:
            return found
    if trouble is not None:
        raise trouble
    raise NotFoundError(
        f"No package index has {filename} with the locked hash. Run `graftbox lock` to lock what there is."
    )


def _places(indexes: Indexes, project: str) -> Iterator[str]:
    yield from indexes.find_links
    for url in indexes.urls:
        yield f"{url}/{normalized(project)}/"


def _offers(downloader: Downloader, place: str) -> Iterator[IndexFile]:
    local = local_path(place)
    if local is not None and local.is_dir():
        page = local / "index.html"
        if not page.is_file():
            yield from (IndexFile(p.name, str(p.absolute())) for p in local.glob("*.whl"))
            return
        place = page.absolute().as_uri()
    yield from parse(downloader.read(place, accept=ACCEPT))


def parse(document: Document) -> Iterator[IndexFile]:
    """The files that a project's page lists, with absolute addresses."""
    if document.media_type.endswith("json"):
        try:
            for facts in json.loads(document.data)["files"]:
                url = urllib.parse.urljoin(document.url, facts["url"])
                yield IndexFile(
                    facts["filename"], url, facts.get("hashes", {}).get("sha256"), facts.get("size")
                )
        except (ValueError, KeyError, TypeError) as error:
            raise TransportError(
                f"{shown(document.url)} is not a package index's answer: {error}."
            ) from error
        return
    page = _Links()
    page.feed(document.data.decode(errors="replace"))
    for link in page.links:
        url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(document.url, link))
        name = urllib.parse.unquote(Path(urllib.parse.urlsplit(url).path).name)
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        yield IndexFile(name, url, sha256)


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for key, value in attrs if tag == "a" and key == "href" and value]
