"""Who may come in to a plugin or a port of the sandbox, and how a browser does: ``/v1/proxy/…``, or at VS
Code's own port.

A program sends the server's key, as to any other endpoint. A browser can't add headers to what a page loads
nor to its WebSockets, so a person opens a link that ends in ``?tkn=TOKEN``. The token is for one plugin or
port: it opens nothing else, and does not tell the key. It is exchanged at once for a cookie (and a redirect
to the address without it, so that it does not stay in the history nor in a Referer) that is

- ``HttpOnly``: no page can read it; ``SameSite=Lax``: other sites' pages can't use it, but may link here;
- for its path only, and named after its token: sandboxes on other ports of one host, which share a
  browser's cookies, do not overwrite each other's;
- taken for WebSockets and for requests that change something only with an ``Origin`` of this very host, which
  also holds off pages of the same site, as those of other ports are.

A page behind the gate has this server's origin. It can't use the server's API, which takes no cookies.
"""

from __future__ import annotations

import contextlib
import hmac
import re
from html import escape
from urllib.parse import parse_qsl

from graftbox.server import proxy
from graftbox.server.app import refusal
from graftbox.server.http import Message, Receive, Send
from graftbox.server.plugins.plugin import UnavailableError
from graftbox.server.request import HTTPError, Response, answer
from graftbox.server.upstream import PortUpstream, Upstream, port_of

TOKEN = b"tkn"
"""The query parameter; VS Code's own is called so too."""
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_WEEK = 7 * 24 * 3600
_PORT = re.compile(rb"/proxy/([0-9]+)(?=/|$)")
"""As code-server has it, which is what its VS Code expects below its own path."""


class Gate:
    """The way in to one upstream. ``prefix``: the path it stands at, without a slash at the end; ``key``: the
    server's own; ``ports``: whether the sandbox's ports are to be had below its ``/proxy/``.
    """

    def __init__(
        self, upstream: Upstream, token: str, prefix: str, key: bytes | None, *, ports: bool = False
    ) -> None:
        self.upstream = upstream
        self.ports = ports
        self.token = token.encode()
        self.prefix = prefix.encode()
        self.key = key
        self.cookie = b"graftbox-" + hmac.digest(self.token, b"cookie", "sha256").hex()[:12].encode()

    async def serve(self, scope: Message, receive: Receive, send: Send, *, trusted: bool) -> None:
        """Answer one request; ``trusted``: it came with the server's key, or none is asked for."""
        try:
            if response := self._at_the_door(scope, trusted=trusted):
                await whole(send, response)
                return
            await proxy.serve(self._way(scope), scope, receive, self._introduced(scope, send))
        except ConnectionResetError:
            raise
        except UnavailableError as error:
            await whole(send, _unavailable(error, scope))
        except Exception as error:
            await whole(send, refusal(error, f"{scope['method']} {scope['path']}"))

    def _at_the_door(self, scope: Message, *, trusted: bool) -> Response | None:
        """An answer for whoever may not come in, or not as it is; None: come in."""
        raw: bytes = scope["raw_path"]
        given = self._given_token(scope)
        if not (trusted or given or self._has_cookie(scope)):
            raise HTTPError(
                403,
                f"This needs the server's key, or in a browser the link that {self.upstream.way_in} gives.",
            )
        if raw == self._target(scope)[1] and scope["method"] in ("GET", "HEAD"):
            # Relative addresses in a page begin at its last slash.
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            return _redirect(raw.rpartition(b"/")[2] + b"/" + query)
        if given and scope["method"] == "GET" and scope["type"] == "http" and _navigates(scope):
            rest = _without_token(scope["query_string"])
            here = b"./" + raw.rpartition(b"/")[2]
            response = _redirect(here + (b"?" + rest if rest else b""))
            response.headers += (self._set_cookie(scope),)
            return response
        return None

    def _given_token(self, scope: Message) -> bool:
        query = scope["query_string"]
        if TOKEN not in query:
            return False
        given = dict(parse_qsl(query, keep_blank_values=True)).get(TOKEN, b"")
        return hmac.compare_digest(given, self.token)

    def _has_cookie(self, scope: Message) -> bool:
        """Whether a browser has been let in before, and it is not another page that makes use of that."""
        values = (value for name, value in scope["headers"] if name == b"cookie")
        pairs = (each.strip().partition(b"=") for value in values for each in value.split(b";"))
        if not any(
            name == self.cookie and hmac.compare_digest(value, self.token) for name, _, value in pairs
        ):
            return False
        if scope["type"] == "http" and scope["method"] in _SAFE and not _cross_site(scope):
            return True
        return _same_origin(scope)

    def _set_cookie(self, scope: Message) -> tuple[bytes, bytes]:
        parts = [self.cookie + b"=" + self.token, b"HttpOnly", b"SameSite=Lax", b"Max-Age=%d" % _WEEK]
        # At its root the browser's own default is right, also behind a proxy that hides a prefix.
        if scope["raw_path"] != self.prefix + b"/":
            parts.append(b"Path=" + self.prefix + b"/")
        if _header(scope, b"x-forwarded-proto") == b"https":
            parts.append(b"Secure")
        return b"set-cookie", b"; ".join(parts)

    def _introduced(self, scope: Message, send: Send) -> Send:
        """``send``, with the cookie for a client that came with the token."""
        if not self._given_token(scope):
            return send

        async def introduce(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], self._set_cookie(scope)]
            await send(message)

        return introduce

    def _target(self, scope: Message) -> tuple[Upstream, bytes]:
        """What a request is for, and the path that it stands at."""
        found = _PORT.match(scope["raw_path"], len(self.prefix)) if self.ports else None
        if found is None:
            return self.upstream, self.prefix
        port = port_of(found[1].decode())
        if port is None:
            raise HTTPError(404, "A port is a number from 1 to 65535.")
        return PortUpstream(port), self.prefix + found[0]

    def _way(self, scope: Message) -> proxy.Way:
        raw: bytes = scope["raw_path"]
        upstream, prefix = self._target(scope)
        if not raw.startswith(prefix + b"/"):
            raise HTTPError(404, "Not Found")
        rest = _without_token(scope["query_string"]) if self._given_token(scope) else scope["query_string"]
        target = raw[len(prefix) :] + (b"?" + rest if rest else b"")
        return proxy.Way(upstream, prefix, target, self.cookie, self.key)


def _header(scope: Message, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _navigates(scope: Message) -> bool:
    """Whether a browser opens a page with this request."""
    return b"text/html" in (_header(scope, b"accept") or b"")


def _cross_site(scope: Message) -> bool:
    """Whether a browser says that another site's page asks, other than by opening a page of ours."""
    return (
        _header(scope, b"sec-fetch-site") == b"cross-site"
        and _header(scope, b"sec-fetch-mode") != b"navigate"
    )


def _same_origin(scope: Message) -> bool:
    origin = _header(scope, b"origin")
    if origin is None:
        return False
    host = origin.rpartition(b"//")[2]
    # No page of another origin can add the second one: such a request would have to be asked for first.
    return host in (_header(scope, b"host"), _header(scope, b"x-forwarded-host"))


def _without_token(query: bytes) -> bytes:
    return b"&".join(each for each in query.split(b"&") if each.partition(b"=")[0] != TOKEN)


def _redirect(address: bytes) -> Response:
    headers = (
        (b"location", address),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
    )
    return Response(302, b"", "text/plain", headers)


def _unavailable(error: UnavailableError, scope: Message) -> Response:
    """The error in JSON; for a browser's page, one that asks again by itself."""
    wait = None if error.retry_after is None else max(1, round(error.retry_after))
    status = error.http_status
    response = answer({"detail": str(error)}, status)
    if _navigates(scope):
        again = f'<meta http-equiv="refresh" content="{wait}">' if wait else ""
        head = f'<!doctype html><meta charset="utf-8">{again}<title>{status}</title>'
        page = f"{head}<p>{escape(str(error))}</p>\n"
        response = Response(status, page.encode(), "text/html; charset=utf-8")
    retry = ((b"retry-after", str(wait).encode()),) if wait else ()
    response.headers = ((b"cache-control", b"no-store"), *retry)
    return response


async def whole(send: Send, response: Response) -> None:
    """A whole answer; nobody may be there any more, or half an answer be sent already."""
    assert isinstance(response.body, bytes)
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *response.headers,
    ]
    with contextlib.suppress(ConnectionResetError):
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
