"""The log-in at one registry host: what has to be sent with a request, and how it is got."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from graftbox.errors import TransportError
from graftbox.image import auth, credentials
from graftbox.image.auth import Challenge, Scopes, TokenRequest, Tokens
from graftbox.image.credentials import Credential
from graftbox.image.pool import Response

CREDENTIAL_LIFE = 300.0
"""Seconds; cloud helpers hand out passwords that end."""


class Login:
    """Credentials, tokens and the latest challenge of a host; for many threads.

    ``ask`` sends a request to the token service and reads its answer; ``plain`` if the host itself is
    spoken to without TLS.
    """

    def __init__(self, host: str, plain: bool, ask: Callable[[TokenRequest], Response]) -> None:
        self._host, self._plain, self._ask = host, plain, ask
        self._challenge: Challenge | None = None
        self._tokens = Tokens()
        self._credentials: dict[str, tuple[Credential | None, float]] = {}
        self._guard = threading.Lock()
        # By scopes: tokens of different repositories need not wait for one another.
        self._fetching = [threading.Lock() for _ in range(32)]

    def authorization(self, scopes: Scopes) -> str | None:
        """What is known to be asked for, without waiting for a refusal."""
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return self._basic(scopes)
        token = self._tokens.find(scopes, time.monotonic())
        return token.header if token else self._fetched(self._challenge, scopes, scopes)

    def renewed(self, response: Response, scopes: Scopes, refused: str | None) -> str | None:
        """Another ``Authorization`` after this one was refused (401); None if there is none."""
        challenge = Challenge.read(response.headers.get("WWW-Authenticate", ""))
        if challenge is None:
            return None
        self._challenge = challenge
        if challenge.scheme == "basic":
            return self._basic(scopes)
        if refused:
            self._tokens.drop(refused)
        return self._fetched(challenge, scopes, scopes | set(challenge.scopes))

    def without_secrets(self, text: str) -> str:
        """The text with every password and token that is known replaced."""
        for credential, _ in list(self._credentials.values()):
            for secret in credential.secrets if credential else ():
                text = text.replace(secret, "***")
        return text

    def _basic(self, scopes: Scopes) -> str | None:
        credential = self._credential(scopes)
        return (credential.basic if credential else None) or None

    def _fetched(self, challenge: Challenge, scopes: Scopes, asked: Scopes) -> str | None:
        """A token for ``asked``, kept for ``scopes``; None if the token service refuses."""
        with self._fetching[hash(scopes) % len(self._fetching)]:
            # Another thread may have fetched it while this one waited.
            if token := self._tokens.find(scopes, time.monotonic()):
                return token.header
            credential = self._credential(scopes)
            if credential and credential.registry_token:
                return f"Bearer {credential.registry_token}"
            self._check_realm(challenge, credential)
            for request in auth.token_requests(challenge, asked, credential):
                response = self._ask(request)
                if response.status_code not in {404, 405, 501}:
                    break
            if response.status_code in {400, 401, 403}:
                with self._guard:
                    self._credentials.clear()
                return None
            if not response.is_success:
                raise TransportError(
                    f"The token service of {self._host} answered {response.status_code}. Try again later."
                )
            token = auth.read_token(response.content, scopes, time.monotonic(), self._host)
            self._tokens.add(token)
            return token.header

    def _check_realm(self, challenge: Challenge, credential: Credential | None) -> None:
        try:
            realm = urlsplit(challenge.realm)
            usable = realm.scheme in {"https", "http"} and bool(realm.hostname) and realm.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise TransportError(
                f"{self._host} names no address for log-in tokens; its configuration is broken."
            )
        if realm.scheme == "http" and not self._plain and credential:
            raise TransportError(
                f"{self._host} wants the log-in sent to {realm.hostname} without TLS; refused. "
                "Its configuration is broken."
            )

    def _credential(self, scopes: Scopes) -> Credential | None:
        """The stored credential for the repository that is written to, else for the first of the scopes."""
        named = sorted((scope.rpartition(":")[2], scope.partition(":")[2]) for scope in scopes)
        writing = [name for actions, name in named if "push" in actions or "delete" in actions]
        name = next(iter(writing or [name for _, name in named]), "")
        repository = name.rpartition(":")[0]
        with self._guard:
            found, until = self._credentials.get(repository, (None, 0.0))
            if until < time.monotonic():
                found = credentials.find(self._host, repository)
                if len(self._credentials) >= auth.TOKENS_KEPT:
                    self._credentials.clear()
                self._credentials[repository] = found, time.monotonic() + CREDENTIAL_LIFE
            return found
