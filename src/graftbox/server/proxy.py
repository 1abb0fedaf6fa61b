"""The reverse proxy to plugins and ports: one request or upgraded connection, streamed both ways.

Below `graftbox.server.gate`, which says who may come in. Nothing that lets a client in to this server is
passed on: not its key, not the gate's cookie, not the token. The connection to the upstream is made anew for
each request; nothing is buffered beyond some hundred kilobytes, and a side that does not read holds the other
one back.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import h11

from graftbox.server.http import Message, Receive, Send
from graftbox.server.upstream import Link, Upstream

NOTICE = 1.0
"""Seconds in which the end of a program is noticed that has closed its connections."""
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_CHUNK = 256 * 1024
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110, section 7.6.1."""
_OURS = frozenset((b"x-session-api-key", b"expect", b"x-forwarded-prefix", b"idempotency-key"))
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Way:
    """One request's way to an upstream. ``prefix`` is the path that it does not see, without a slash at its
    end; ``target`` what it sees instead, with the query; ``cookie`` the name of the gate's cookie, and
    ``key`` the server's key, neither of which it gets.
    """

    upstream: Upstream
    prefix: bytes
    target: bytes
    cookie: bytes
    key: bytes | None


async def serve(way: Way, scope: Message, receive: Receive, send: Send) -> None:
    """Answer from the upstream; raises `plugin.UnavailableError` where it gives no answer, and
    `ConnectionResetError` where it or the client went away in the middle of one.

    What only asks is asked once more of one that has died meanwhile: it may have been dying before.
    """
    if scope["method"] in _SAFE and not _has_body(scope):
        with contextlib.suppress(_BrokeOffError):
            return await _serve(way, scope, receive, send)
    try:
        await _serve(way, scope, receive, send)
    except _BrokeOffError as error:
        raise way.upstream.broke_off() from error


async def _serve(way: Way, scope: Message, receive: Receive, send: Send) -> None:
    link = await way.upstream.connect()
    try:
        if scope["type"] == "upgrade":
            await _tunnel(way, scope, receive, send, link)
        else:
            await _exchange(way, scope, receive, send, link)
    except _BrokeOffError:
        # Its end is known a moment later; whoever asks again then finds it starting, not dying.
        if link.ended is not None:
            await asyncio.wait({link.ended}, timeout=NOTICE)
        raise
    finally:
        link.writer.close()


async def _exchange(way: Way, scope: Message, receive: Receive, send: Send, link: Link) -> None:
    reader, writer = link.reader, link.writer
    http = h11.Connection(h11.CLIENT)
    headers = request_headers(way, scope)
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        headers.append((b"transfer-encoding", b"chunked"))
    headers.append((b"connection", b"close"))
    writer.write(http.send(h11.Request(method=scope["method"], target=way.target, headers=headers)) or b"")
    if not _has_body(scope):
        http.send(h11.EndOfMessage())
    up = asyncio.ensure_future(_upload(http, writer, receive))
    down = asyncio.ensure_future(_download(way, http, reader, send))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        if up.done() and not down.done():
            if up.exception() is None:
                raise ConnectionResetError("The client went away before it had its answer.")
            # The upstream takes no more of the body: it may have answered already.
            await asyncio.wait({down})
        down.result()
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _upload(http: h11.Connection, writer: asyncio.StreamWriter, receive: Receive) -> None:
    """Send the body; returns when the client has gone away."""
    while (message := await receive())["type"] != "http.disconnect":
        if http.our_state is not h11.SEND_BODY:
            continue
        data = http.send(h11.Data(data=message["body"])) if message["body"] else b""
        if not message["more_body"]:
            data = (data or b"") + (http.send(h11.EndOfMessage()) or b"")
        writer.write(data or b"")
        await writer.drain()


async def _download(way: Way, http: h11.Connection, reader: asyncio.StreamReader, send: Send) -> None:
    begun = False
    while True:
        try:
            event = await _event(http, reader)
        except (OSError, h11.RemoteProtocolError) as error:
            if begun:
                # The client must not take it for complete.
                raise ConnectionResetError("The answer was broken off.") from error
            raise _BrokeOffError from error
        if isinstance(event, h11.Response):
            begun = True
            headers = response_headers(way, list(event.headers))
            await send({"type": "http.response.start", "status": event.status_code, "headers": headers})
        elif isinstance(event, h11.Data):
            await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        elif isinstance(event, h11.EndOfMessage):
            await send({"type": "http.response.body", "body": b""})
            return
        elif isinstance(event, h11.ConnectionClosed):
            raise _BrokeOffError


def _has_body(scope: Message) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _event(http: h11.Connection, reader: asyncio.StreamReader) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(_CHUNK))
    return event


class _BrokeOffError(Exception):
    """The upstream closed the connection before anything of its answer had come, or it was none in HTTP."""


async def _tunnel(way: Way, scope: Message, receive: Receive, send: Send, link: Link) -> None:
    reader, writer = link.reader, link.writer
    headers = request_headers(way, scope)
    headers += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(method=b"GET", target=way.target, headers=headers)
    writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    while True:
        try:
            event = await _event(http, reader)
        except (OSError, h11.RemoteProtocolError) as error:
            raise _BrokeOffError from error
        if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            break
        if isinstance(event, h11.Response):
            await _refused(way, event, http, reader, send)
            return
        if isinstance(event, h11.ConnectionClosed):
            raise _BrokeOffError
    answer = response_headers(way, list(event.headers))
    answer += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    lines = (b"%s: %s\r\n" % header for header in answer)
    head = b"HTTP/1.1 101 Switching Protocols\r\n%s\r\n" % b"".join(lines)
    await send({"type": "upgrade.accept", "head": head + http.trailing_data[0]})
    both = (asyncio.ensure_future(_pump_up(writer, receive)), asyncio.ensure_future(_pump_down(reader, send)))
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _refused(
    way: Way, response: h11.Response, http: h11.Connection, reader: asyncio.StreamReader, send: Send
) -> None:
    """Pass on an answer that is no upgrade."""
    headers = response_headers(way, list(response.headers))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    with contextlib.suppress(OSError, h11.RemoteProtocolError):
        while isinstance(event := await _event(http, reader), h11.Data):
            await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _pump_up(writer: asyncio.StreamWriter, receive: Receive) -> None:
    while (message := await receive())["type"] != "http.disconnect":
        writer.write(message["body"])
        await writer.drain()


async def _pump_down(reader: asyncio.StreamReader, send: Send) -> None:
    while data := await reader.read(_CHUNK):
        await send({"type": "upgrade.data", "body": data})


def request_headers(way: Way, scope: Message) -> Headers:
    """What the upstream gets: without what concerns this server or this connection alone."""
    given: Headers = scope["headers"]
    dropped = _HOP_BY_HOP | _OURS | _listed(given)
    host = next((value for name, value in given if name == b"host"), b"")
    headers: Headers = []
    before = b""
    for name, value in given:
        if name == b"x-forwarded-prefix":
            before = value.rstrip(b"/")
        if name in dropped:
            continue
        if name == b"authorization" and _is_key(value, way.key):
            continue
        if name == b"cookie":
            value = _without_cookie(value, way.cookie)
        elif name == b"sec-websocket-protocol":
            offers = (each.strip() for each in value.split(b","))
            value = b", ".join(each for each in offers if not each.startswith(b"graftbox."))
        elif name == b"host" and way.upstream.host:
            value = way.upstream.host
        elif name == b"origin" and way.upstream.host and value.rpartition(b"//")[2] == host:
            # It compares this with the host that it knows.
            value = b"http://" + way.upstream.host
        if value or name not in (b"cookie", b"sec-websocket-protocol"):
            headers.append((name, value))
    names = {name for name, _ in headers}
    if b"x-forwarded-host" not in names and host:
        headers.append((b"x-forwarded-host", host))
    if b"x-forwarded-proto" not in names:
        headers.append((b"x-forwarded-proto", b"http"))
    headers.append((b"x-forwarded-prefix", before + way.prefix))
    return headers


def response_headers(way: Way, headers: Headers) -> Headers:
    """What the client gets: addresses and cookies of the upstream's root moved to where it stands here."""
    dropped = _HOP_BY_HOP | _listed(headers)
    found: Headers = []
    for name, value in headers:
        if name in dropped:
            continue
        if name in (b"location", b"content-location"):
            value = _moved(value, way)
        elif name == b"set-cookie":
            value = _cookie_moved(value, way.prefix)
        elif name == b"service-worker-allowed":
            value = _moved(value, way)
            # Its worker may not answer for the rest of this server.
            if not value.startswith(way.prefix + b"/"):
                continue
        found.append((name, value))
    return found


def _listed(headers: Headers) -> frozenset[bytes]:
    """The headers that a Connection header names as this connection's alone."""
    values = (value for name, value in headers if name == b"connection")
    return frozenset(each.strip().lower() for value in values for each in value.split(b","))


def _is_key(value: bytes, key: bytes | None) -> bool:
    import hmac

    return key is not None and value[:7].lower() == b"bearer " and hmac.compare_digest(value[7:], key)


def _without_cookie(value: bytes, name: bytes) -> bytes:
    pairs = (each.strip() for each in value.split(b";"))
    return b"; ".join(each for each in pairs if each.partition(b"=")[0] != name)


def _moved(address: bytes, way: Way) -> bytes:
    """An address as the client sees it; those of other hosts, and relative ones, are as they are."""
    parts = urlsplit(address.decode("latin-1"))
    if way.upstream.host and parts.scheme == "http" and parts.netloc.encode("latin-1") == way.upstream.host:
        parts = parts._replace(scheme="", netloc="", path=parts.path or "/")
        address = urlunsplit(parts).encode("latin-1")
    if parts.scheme or parts.netloc or not parts.path.startswith("/"):
        return address
    if address == way.prefix or address.startswith(way.prefix + b"/"):
        return address
    return way.prefix + address


def _cookie_moved(cookie: bytes, prefix: bytes) -> bytes:
    """A cookie for the upstream's root, or for no path, must not go to the rest of this server."""
    attributes = [each.strip() for each in cookie.split(b";")]
    for index, attribute in enumerate(attributes):
        name, _, value = attribute.partition(b"=")
        if index and name.lower() == b"path" and value.startswith(b"/"):
            if value != prefix and not value.startswith(prefix + b"/"):
                attributes[index] = b"Path=" + prefix + value
            break
    else:
        attributes.append(b"Path=" + prefix + b"/")
    # Of this host alone, whatever it says.
    return b"; ".join(each for each in attributes if each.partition(b"=")[0].lower() != b"domain")
