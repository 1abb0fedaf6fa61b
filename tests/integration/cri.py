"""A kubelet's side of the Container Runtime Interface, as far as tests need it: unary gRPC, by hand.

Sources: the CRI's ``runtime.v1`` protocol (numbers of fields), RFC 9113 (HTTP/2), RFC 7541 (HPACK) and gRPC
over HTTP/2. One connection for each call; nothing is compressed; of an answer only its message is read.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

Message = dict[int, Any]
"""A message by numbers of fields: text, bytes, a number, another message, or a list of these."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def encoded(message: Message) -> bytes:
    """A message in the wire format of protocol buffers."""
    return b"".join(_field(number, value) for number, value in message.items())


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(_field(number, one) for one in value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, dict):
        value = encoded(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def decoded(data: bytes) -> dict[int, Any]:
    """The numbers and bytes of a message; of a field that comes more than once, the last."""
    found: dict[int, Any] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            found[key >> 3] = varint()
            continue
        assert key & 7 == 2, key
        size = varint()
        found[key >> 3] = data[position : position + size]
        position += size
    return found


class CriError(Exception):
    """The runtime has refused a call; its log says why."""


def call(endpoint: Path, method: str, message: Message, seconds: float = 120) -> dict[int, Any]:
    """Calls ``runtime.v1.METHOD`` (such as ``ImageService/PullImage``); the answer's fields."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(seconds)
        link.connect(str(endpoint))
        body = encoded(message)
        link.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, _headers(f"/runtime.v1.{method}"))
            + _frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(body)) + body)
        )
        return decoded(_answer(link, method))


def _headers(path: str) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    # Each a literal without indexing, and shorter than 127 bytes.
    pairs = ((name.encode(), value.encode()) for name, value in fields.items())
    return b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _answer(link: socket.socket, method: str) -> bytes:
    data, stream = b"", link.makefile("rb")
    while head := stream.read(9):
        size, (kind, flags, number) = int.from_bytes(head[:3], "big"), struct.unpack(">BBI", head[3:])
        payload = stream.read(size)
        if kind == _DATA:
            data += payload
        elif kind == _PING and not flags & _ACK:
            link.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            link.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _GOAWAY:
            break
        if number == 1 and kind in {_DATA, _HEADERS} and flags & _END_STREAM:
            if len(data) < 5:
                raise CriError(method)
            return data[5 : 5 + struct.unpack(">I", data[1:5])[0]]
    raise CriError(f"{method}: the connection ended")
