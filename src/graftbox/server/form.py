"""The file in a multipart/form-data body, taken as it streams in."""

from __future__ import annotations

from collections.abc import AsyncIterator

from graftbox.server.request import HTTPError, InvalidRequestError

MAX_HEADER = 16 * 1024
"""Bytes of the headers of one part."""


class Form:
    """Finds the part named ``field`` in ``stream``; its file name is known once `open` has returned."""

    def __init__(self, stream: AsyncIterator[bytes], content_type: bytes, field: str = "file") -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise self.missing(field)
        self.stream, self.field = stream, field
        self.filename: str | None = None
        self.header = b""
        self.headers: dict[bytes, bytes] = {}
        self.wanted = self.taken = self.ended = False
        self.pieces: list[bytes] = []
        self.size = 0
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    @staticmethod
    def missing(field: str) -> InvalidRequestError:
        return InvalidRequestError("missing", ("body", field), "Field required", None)

    async def open(self) -> str:
        """The file's name; a body without the file is a 422."""
        while self.filename is None:
            if not await self._more():
                raise self.missing(self.field)
        return self.filename

    async def content(self) -> AsyncIterator[bytes]:
        """The file's bytes; a body that ends too early is a 400."""
        while True:
            pieces, self.pieces = self.pieces, []
            for piece in pieces:
                yield piece
            if not self.pieces and not await self._more():
                break
        if not self.ended:
            raise HTTPError(400, "The form ends in the middle of a part. Nothing was kept.")

    async def _more(self) -> bool:
        from python_multipart.exceptions import MultipartParseError

        data = await anext(self.stream, None)
        if data is None:
            return False
        try:
            self.parser.write(data)
        except MultipartParseError as error:
            raise HTTPError(400, f"The form is malformed: {error}.") from error
        return True

    def _begin(self) -> None:
        self.headers, self.header, self.size, self.wanted = {}, b"", 0, False
        self.values: dict[bytes, bytes] = {}
        self.in_value = False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        if self.in_value:
            self.header, self.in_value = b"", False
        self.header += data[start:end]
        self._count(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        name = self.header.lower()
        self.headers[name] = self.headers.get(name, b"") + data[start:end]
        self.in_value = True
        self._count(end - start)

    def _count(self, size: int) -> None:
        self.size += size
        if self.size > MAX_HEADER:
            raise HTTPError(400, f"The headers of a part are longer than {MAX_HEADER} bytes.")

    def _headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self.headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == self.field and b"filename" in options and not self.taken:
            self.wanted = self.taken = True
            self.filename = options[b"filename"].decode("utf-8", "surrogateescape")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.wanted:
            self.pieces.append(data[start:end])

    def _part_end(self) -> None:
        self.wanted = False

    def _end(self) -> None:
        self.ended = True
