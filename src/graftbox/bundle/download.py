"""Downloads: HTTP(S) and ``file:`` addresses, resumed, retried, and measured against what is expected.

Proxies come from the usual variables (``HTTPS_PROXY``, ``NO_PROXY``, …), extra certificate authorities
from ``SSL_CERT_FILE``, ``PIP_CERT``, ``REQUESTS_CA_BUNDLE`` or pip's ``cert`` setting.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from graftbox import __version__
from graftbox.errors import ConfigurationError, NotFoundError, TransportError, VerificationError

if TYPE_CHECKING:
    import httpx2

CHUNK = 1 << 18
PAUSES = (0.3, 1.0, 3.0)
GONE = frozenset({404, 410})
AGAIN = frozenset({408, 416, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


class Interrupted(Exception):  # noqa: N818 - not an error: another part of the same work has stopped it
    """Raised inside a worker after `Downloader.cancel`; what has arrived stays for the next run."""


class _TransientError(TransportError):
    """A failure that another attempt may cure."""


@dataclass(frozen=True)
class Response:
    """What came back: bytes from ``start`` on, of a file of ``total`` bytes if the server says so."""

    start: int
    total: int | None
    media_type: str
    chunks: Iterator[bytes]


class Downloader:
    """Opens addresses, for many threads over one connection pool. Close it by ``with``.

    ``pauses`` are the seconds between attempts; there is one attempt more than pauses.
    """

    def __init__(self, authorities: Path | None = None, pauses: tuple[float, ...] = PAUSES) -> None:
        self.authorities = authorities
        self.pauses = pauses
        self._cancelled = threading.Event()
        self._client: httpx2.Client | None = None
        self._guard = threading.Lock()

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def cancel(self) -> None:
        """Makes every transfer in every thread end with `Interrupted` at its next chunk."""
        self._cancelled.set()

    def check(self, pause: float = 0) -> None:
        """Waits ``pause`` seconds; `Interrupted` as soon as the work has been cancelled."""
        if self._cancelled.wait(pause) if pause else self._cancelled.is_set():
            raise Interrupted

    def read(self, url: str, accept: str | None = None, limit: int = 256 << 20) -> Document:
        """A whole document of at most ``limit`` bytes."""

        def once() -> Document:
            with self._open(url, accept=accept) as response:
                data = bytearray()
                for chunk in response.chunks:
                    data += chunk
                    if len(data) > limit:
                        raise TransportError(
                            f"{shown(url)} is larger than {limit} bytes; is it the right address?"
                        )
                return Document(url, bytes(data), response.media_type)

        return self._attempts(once)

    def save(self, url: str, stream: IO[bytes], size: int, arrived: Callable[[int], None]) -> None:
        """Completes ``stream`` to ``size`` bytes from ``url``, going on where the stream ends.

        ``arrived`` gets every number of bytes written, negative when earlier ones are thrown away.
        A server that has a file of another size is a `VerificationError`.
        """

        def once() -> None:
            have = stream.seek(0, os.SEEK_END)
            if have == size:
                return
            with self._open(url, offset=have) as response:
                if response.total is not None and response.total != size:
                    raise VerificationError(
                        f"{shown(url)} has {response.total} bytes where {size} are locked; nothing was kept. "
                        "Use another mirror or index, or run `graftbox lock` if you trust the new file."
                    )
                if response.start != have:
                    stream.truncate(0)
                    stream.seek(0)
                    arrived(-have)
                for chunk in response.chunks:
                    self.check()
                    stream.write(chunk)
                    arrived(len(chunk))
                    if stream.tell() > size:
                        raise VerificationError(
                            f"{shown(url)} sends more than the {size} bytes that are locked."
                        )
            if stream.tell() < size:
                raise _TransientError(f"{shown(url)} ended after {stream.tell()} of {size} bytes.")

        self._attempts(once)

    def exists(self, url: str) -> bool:
        """Whether the address has a file; asks for its head only."""
        if local := local_path(url):
            return local.is_file()

        def once() -> bool:
            with self._errors(url):
                response = self.client.head(url)
                if response.status_code in GONE:
                    return False
                _raise_for_status(url, response.status_code)
                return True

        return self._attempts(once)

    @property
    def client(self) -> httpx2.Client:
        """Made on first use: importing an HTTP client takes longer than finding a cached file."""
        import httpx2

        with self._guard:
            if self._client is None:
                self._client = httpx2.Client(
                    verify=_trust(self.authorities),
                    timeout=httpx2.Timeout(30.0, pool=None),
                    limits=httpx2.Limits(max_connections=16),
                    follow_redirects=True,
                    headers={"User-Agent": f"graftbox/{__version__}", "Accept-Encoding": "identity"},
                )
            return self._client

    def _attempts(self, step: Callable[[], T]) -> T:
        for pause in (*self.pauses, None):
            try:
                return step()
            except _TransientError as error:
                if pause is None:
                    raise TransportError(
                        f"{error} Check the network and the address, and run it again."
                    ) from error
                self.check(pause)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _open(self, url: str, offset: int = 0, accept: str | None = None) -> Iterator[Response]:
        if local := local_path(url):
            with _open_file(url, local, offset) as response:
                yield response
            return
        headers = {"Accept": accept} if accept else {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._errors(url), self.client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 416:
                yield Response(0, None, "", iter(()))  # what we have is longer than the file: begin again
                return
            _raise_for_status(url, answer.status_code)
            start, total = _extent(answer.status_code, answer.headers, offset)
            media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            yield Response(
                start, total, media_type, answer.iter_raw()
            )  # unbuffered: what arrives before a break is kept

    @contextlib.contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise TransportError(
                f"{shown(url)} is not an address that packages can be fetched from ({_cause(error)}). "
                "Correct the setting that it is from: http://, https:// and file:// addresses work."
            ) from error
        except httpx2.HTTPError as error:
            cause = _cause(error)
            if "CERTIFICATE_VERIFY_FAILED" in cause:
                raise TransportError(
                    f"{shown(url)} has a certificate that this machine does not trust. If a proxy signs it, "
                    "set SSL_CERT_FILE to a file with the proxy's certificate authority."
                ) from error
            raise _TransientError(f"Cannot reach {shown(url)}: {cause}.") from error


@dataclass(frozen=True)
class Document:
    """A whole document, its address and its media type (empty for files)."""

    url: str
    data: bytes
    media_type: str


def _cause(error: Exception) -> str:
    """What a library says, as a part of a sentence."""
    return str(error).strip().rstrip(".") or type(error).__name__


def shown(url: str) -> str:
    """The address without a user name and password."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def local_path(url: str) -> Path | None:
    """The path of a ``file:`` address or an absolute path, else None."""
    if url.startswith("/"):
        return Path(url)
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.parse.unquote(parts.path)) if parts.scheme == "file" else None


@contextlib.contextmanager
def _open_file(url: str, path: Path, offset: int) -> Iterator[Response]:
    try:
        stream = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"There is no file {path}.") from error
    except OSError as error:
        raise TransportError(f"Cannot read {path}: {error.strerror}.") from error
    with stream:
        total = os.fstat(stream.fileno()).st_size
        stream.seek(offset)
        yield Response(offset, total, "", iter(lambda: stream.read(CHUNK), b""))


def _raise_for_status(url: str, status: int) -> None:
    if status < 300:
        return
    if status in GONE:
        raise NotFoundError(f"{shown(url)} does not exist (HTTP {status}).")
    kind = _TransientError if status in AGAIN else TransportError
    raise kind(f"{shown(url)} answered HTTP {status}.")


def _extent(status: int, headers: httpx2.Headers, offset: int) -> tuple[int, int | None]:
    """Where the answer starts and how long the whole file is, from status and headers."""
    if status == 206:
        place, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = place.partition("-")[0]
        return int(start) if start.isdigit() else offset, int(total) if total.isdigit() else None
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _trust(authorities: Path | None) -> ssl.SSLContext:
    """The machine's certificate authorities, pip's own list, and the given file's."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        with contextlib.suppress(ImportError, OSError):
            from pip._vendor import certifi

            context.load_verify_locations(certifi.where())
    if authorities is not None:
        try:
            context.load_verify_locations(
                cafile=None if authorities.is_dir() else authorities,
                capath=authorities if authorities.is_dir() else None,
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"Cannot load certificate authorities from {authorities} ({error}). Correct SSL_CERT_FILE, "
                "PIP_CERT, REQUESTS_CA_BUNDLE or pip's `cert` setting."
            ) from error
    return context
