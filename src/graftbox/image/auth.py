"""Log-in to registries without I/O: challenges, scopes, token requests, and the tokens that were given.

Sources: RFC 9110 section 11 and RFC 6750 (challenges), distribution's token and OAuth 2 specifications.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from graftbox.errors import TransportError
from graftbox.image.credentials import Credential

CLIENT = "graftbox"
DEFAULT_LIFE = 60.0
"""Seconds that a token lives if the service does not say: the token specification's default."""
EARLY = 10.0
"""Seconds before its end (or a tenth of its life, if that is less) when a token counts as old."""
TOKENS_KEPT = 512
PLACEHOLDER = "repository:user/image"
"""GHCR's challenge for ``/v2/`` names this instead of a real repository."""

_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCHEME = re.compile(r"(?:^|,)\s*(basic|bearer)(?=\s|$|,)", re.IGNORECASE)

Scopes = frozenset[str]


@dataclass(frozen=True)
class Challenge:
    """A ``WWW-Authenticate`` header: ``basic``, or ``bearer`` with where to fetch a token."""

    scheme: str
    realm: str
    service: str
    scopes: tuple[str, ...]

    @classmethod
    def read(cls, header: str) -> Challenge | None:
        """The header's strongest challenge: bearer before basic. None if it asks for nothing known here."""
        # A quoted text may hold anything, a scheme's name included.
        starts = list(_SCHEME.finditer(_QUOTED.sub(lambda found: "_" * len(found[0]), header)))
        found = []
        for number, start in enumerate(starts):
            end = starts[number + 1].start() if number + 1 < len(starts) else len(header)
            parameters = _PARAMETER.findall(header[start.end() : end])
            values = {name.lower(): quoted or plain for name, quoted, plain in parameters}
            scopes = tuple(values.get("scope", "").split())
            found.append(cls(start[1].lower(), values.get("realm", ""), values.get("service", ""), scopes))
        return next((c for c in found if c.scheme == "bearer"), found[0] if found else None)


@functools.lru_cache(1024)
def merged(scopes: Scopes) -> tuple[str, ...]:
    """One scope per repository, with the union of its actions; placeholders are left out."""
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        name, _, wanted = scope.rpartition(":")
        if name != PLACEHOLDER:
            actions.setdefault(name, set()).update(wanted.split(","))
    return tuple(sorted(f"{name}:{','.join(sorted(wanted))}" for name, wanted in actions.items()))


@dataclass(frozen=True)
class TokenRequest:
    """What to ask a token service: GET (with basic credentials, if any), or POST of a form."""

    method: str
    url: str
    authorization: str = field(default="", repr=False)
    form: bytes = field(default=b"", repr=False)


def token_requests(challenge: Challenge, scopes: Scopes, credential: Credential | None) -> list[TokenRequest]:
    """The requests to try, in this order; a later one only where the service does not know the earlier.

    An identity token can only be exchanged by POST. A password goes by GET, which all services know.
    """
    wanted = merged(scopes)
    query = urlencode({"scope": wanted, "service": challenge.service}, doseq=True)
    if not challenge.service:
        query = urlencode({"scope": wanted}, doseq=True)
    joint = "&" if urlsplit(challenge.realm).query else "?"
    basic = credential.basic if credential else ""
    get = TokenRequest("GET", f"{challenge.realm}{joint}{query}" if query else challenge.realm, basic)
    form = {"service": challenge.service, "scope": " ".join(wanted), "client_id": CLIENT}
    if credential and credential.identity_token:
        form |= {"grant_type": "refresh_token", "refresh_token": credential.identity_token}
        return [TokenRequest("POST", challenge.realm, form=urlencode(form).encode())]
    if credential and basic:
        form |= {"grant_type": "password", "username": credential.user, "password": credential.password}
        return [get, TokenRequest("POST", challenge.realm, form=urlencode(form).encode())]
    return [get]


@dataclass(frozen=True)
class Token:
    """A bearer token, for which scopes, and until when (seconds of the monotonic clock)."""

    value: str = field(repr=False)
    scopes: tuple[str, ...]
    until: float

    @property
    def header(self) -> str:
        return f"Bearer {self.value}"


def read_token(data: bytes, scopes: Scopes, now: float, host: str) -> Token:
    """The token in a service's answer; `TransportError` if there is none."""
    try:
        answer = json.loads(data)
        value = answer.get("token") or answer["access_token"]
        life = float(answer.get("expires_in") or DEFAULT_LIFE)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not chained: the parser's error quotes the answer, which may hold a token.
        raise TransportError(f"The token service of {host} gave no token. Try again.") from None
    return Token(str(value), merged(scopes), now + life - min(EARLY, life / 10))


class Tokens:
    """The tokens of one registry, for many threads; the least used are forgotten first."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, ...], Token] = OrderedDict()
        self._guard = threading.Lock()

    def find(self, scopes: Scopes, now: float) -> Token | None:
        """A token that is still good for exactly these scopes."""
        key = merged(scopes)
        with self._guard:
            token = self._held.get(key)
            if token is None:
                return None
            if token.until <= now:
                del self._held[key]
                return None
            self._held.move_to_end(key)
            return token

    def add(self, token: Token) -> None:
        with self._guard:
            self._held[token.scopes] = token
            self._held.move_to_end(token.scopes)
            while len(self._held) > TOKENS_KEPT:
                self._held.popitem(last=False)

    def drop(self, header: str) -> None:
        """Forgets the token that was refused."""
        with self._guard:
            for key in [key for key, token in self._held.items() if token.header == header]:
                del self._held[key]
