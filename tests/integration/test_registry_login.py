"""Log-ins at a real registry: tokens with real signatures, stored credentials, helpers, private CAs.

Rules cited: distribution's token and OAuth 2 specifications, RFC 6750, RFC 9110.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.answering import Answer, Asked, listening
from tests.integration.conftest import Registry
from tests.integration.faults import faulty
from tests.integration.tokens import (
    PASSWORD,
    REFRESH,
    TokenService,
    alone,
    guarded,
    names_are_here,
)

from graftbox.errors import ConfigurationError, TransportError
from graftbox.image.graft import Bundle
from graftbox.image.place import Report, graft_image
from graftbox.image.reference import parse
from graftbox.image.transports import Access
from graftbox.store import Store

Guarded = tuple[Registry, TokenService]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without any stored credential or proxy, and little patience."""
    alone(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def registry_and_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    from tests.integration.conftest import running_registry

    with guarded(tmp_path_factory.mktemp("tokens"), running_registry) as running:
        yield running


@pytest.fixture
def private(registry_and_tokens: Guarded) -> Guarded:
    """The registry that wants tokens, its token service in its usual state."""
    registry, tokens = registry_and_tokens
    tokens.asked.clear()
    tokens.expired, tokens.no_get, tokens.withheld = 0, False, ""
    return registry, tokens


def stored(tmp_path: Path, config: dict[str, Any]) -> None:
    """Writes docker's config.json."""
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker/config.json").write_text(json.dumps(config))


def log_in(tmp_path: Path, address: str) -> None:
    auth = base64.b64encode(f"jo:{PASSWORD}".encode()).decode()
    stored(tmp_path, {"auths": {address: {"auth": auth}}})


@pytest.fixture
def base(layout: Any) -> str:
    layout.image([{"etc/name": b"base"}, {"data": os.urandom(1000)}])
    return f"oci:{layout.folder}:base"


def run(base: str, target: str, store: Store, bundle: Bundle, access: Access | None = None) -> Report:
    return graft_image(parse(base), parse(target), {bundle.arch: bundle}, store, access=access)


def test_a_push_and_a_mount_with_one_log_in(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle
) -> None:
    """Token specification: a token holds several scopes; a mount needs pull of the source and push of the
    target in one token.
    """
    registry, tokens = private
    with faulty(registry.address) as proxy:
        log_in(tmp_path, proxy.address)
        run(base, f"{proxy.address}/{repository}/base:1", store, bundle)
        before = proxy.received
        report = run(
            f"{proxy.address}/{repository}/base:1", f"{proxy.address}/{repository}/run:1", store, bundle
        )
        assert report.layers_sent == 0
        assert proxy.received - before < 6000
    scopes = [set(asked["scopes"]) for asked in tokens.asked]
    pull, push = f"repository:{repository}/base:pull", f"repository:{repository}/run:pull,push"
    assert {pull, push} in scopes
    # One token for each set of scopes: reading the base, writing, writing with a mount.
    assert len(scopes) == len({frozenset(found) for found in scopes})
    assert all(asked["user"] == "jo" for asked in tokens.asked)


def test_a_mount_without_a_token_for_its_source_becomes_an_upload(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle, skopeo: Any
) -> None:
    """RFC 6750, ``insufficient_scope``: the token service decides what a token holds; less is no error."""
    registry, tokens = private
    log_in(tmp_path, registry.address)
    login = ["--dest-creds", f"jo:{PASSWORD}"]
    run("scratch", f"{registry.address}/{repository}/other:1", store, bundle)
    skopeo(
        "copy", "--dest-tls-verify=false", *login, base, f"docker://{registry.address}/{repository}/base:1"
    )
    tokens.withheld = f"{repository}/other"
    target = f"{registry.address}/{repository}/run:1"
    # The bundle's layers were last seen in a repository that this user may not read any more.
    report = run(f"{registry.address}/{repository}/base:1", target, store, bundle)
    assert report.layers_sent == 2
    assert run(target, f"oci:{tmp_path / 'out'}:x", store, bundle).digest == report.digest


def test_an_expired_token_is_replaced(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle
) -> None:
    """RFC 6750, ``invalid_token``: a client may ask for a new token and try again."""
    registry, tokens = private
    log_in(tmp_path, registry.address)
    tokens.expired = 1
    run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    assert 2 <= len(tokens.asked) <= 3


@pytest.mark.parametrize("way", ["PUT", "PATCH"])
def test_a_token_that_ends_in_the_middle_of_an_upload(
    way: str,
    private: Guarded,
    tmp_path: Path,
    layout: Any,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 6750, ``invalid_token``: the bytes are sent again with a new one, and the upload goes on."""
    monkeypatch.setattr("graftbox.image.upload.CHUNK", 1 << 17)
    registry, tokens = private
    (large,) = layout.image([{"data": os.urandom(400_000)}]).layers
    with faulty(registry.address) as proxy:
        log_in(tmp_path, proxy.address)
        if way == "PATCH":
            proxy.will("413", f"PUT .*digest={large.digest}")
            proxy.will("", "PATCH ")
        proxy.will("spoil token", f"{way} .*/uploads/")
        run(f"oci:{layout.folder}:base", f"{proxy.address}/{repository}:1", store, bundle)
        before = len(tokens.asked)
        run(f"{proxy.address}/{repository}:1", f"oci:{tmp_path / 'out'}:x", store, bundle)
    assert proxy.happened[-1].startswith(f"spoil token {way}"), proxy.seen
    assert 2 <= before <= 4


def test_without_a_log_in_reading_is_anonymous_and_writing_is_refused(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle
) -> None:
    """Token specification: an anonymous token has what anybody may do."""
    registry, tokens = private
    with pytest.raises(TransportError, match=f"docker login {registry.address}"):
        run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    log_in(tmp_path, registry.address)
    run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    stored(tmp_path, {})
    tokens.asked.clear()
    run(f"{registry.address}/{repository}/run:1", f"oci:{tmp_path / 'out'}:x", store, bundle)
    assert {asked["user"] for asked in tokens.asked} == {""}


def test_an_identity_token_is_exchanged_by_post(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle
) -> None:
    """OAuth 2 token specification: ``grant_type=refresh_token`` in a POST."""
    registry, tokens = private
    stored(tmp_path, {"auths": {registry.address: {"identitytoken": REFRESH}}})
    run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    assert {(asked["method"], asked["grant"]) for asked in tokens.asked} == {("POST", "refresh_token")}


def test_a_token_service_that_knows_only_post(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle
) -> None:
    """OAuth 2 token specification: ``grant_type=password`` where GET is not known (405)."""
    registry, tokens = private
    log_in(tmp_path, registry.address)
    tokens.no_get = True
    run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    assert {asked["grant"] for asked in tokens.asked} == {"password"}


def test_a_token_service_that_has_moved(
    private: Guarded, tmp_path: Path, base: str, repository: str, store: Store, bundle: Bundle
) -> None:
    """RFC 9110 section 15.4: a GET follows; credentials stay at the origin that they were meant for."""
    registry, tokens = private
    seen: list[str | None] = []

    def old(request: Asked) -> Answer:
        if request.path.startswith("/moved"):
            seen.append(request.headers.get("Authorization"))
            query = request.path.partition("?")[2]
            return 307, {"Location": f"http://{tokens.address}/token?{query}"}, b""
        return 308, {"Location": f"/moved{request.path}"}, b""

    with faulty(registry.address) as proxy, listening(old) as address:
        log_in(tmp_path, proxy.address)
        run("scratch", f"{proxy.address}/{repository}/x:1", store, bundle)
        challenge = f'Bearer realm="http://{address}/token",service="registry"'
        proxy.will("with header", "GET .*/manifests/", times=-1, value=f"Www-Authenticate: {challenge}")
        run(f"{proxy.address}/{repository}/x:1", f"oci:{tmp_path / 'out'}:x", store, bundle)
    assert len(seen) == 1
    assert seen[0] is not None
    assert tokens.asked[-1]["user"] == "", "the log-in went to another origin"


HELPER = """#!/bin/sh
read server
[ "$1 $server" = "get {host}" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
echo '{{"ServerURL":"{host}","Username":"{user}","Secret":"{secret}"}}'
"""


@pytest.mark.parametrize("how", ["credHelpers", "credsStore", "identity"])
def test_a_credential_helper_is_asked(
    how: str,
    private: Guarded,
    tmp_path: Path,
    base: str,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The protocol of docker-credential-helpers: ``get``, the server on standard input, JSON back."""
    registry, tokens = private
    user, secret = ("<token>", REFRESH) if how == "identity" else ("jo", PASSWORD)
    path = tmp_path / "bin/docker-credential-safe"
    path.parent.mkdir()
    path.write_text(HELPER.format(host=registry.address, user=user, secret=secret))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    setting = {"credsStore": "safe"} if how == "credsStore" else {"credHelpers": {registry.address: "safe"}}
    stored(tmp_path, setting)
    run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    assert {asked["user"] for asked in tokens.asked} == {"jo"}
    # A registry that the helper knows nothing of is read as anybody.
    path.unlink()
    if how == "credHelpers":
        with pytest.raises(ConfigurationError, match="docker-credential-safe"):
            run(base, f"{registry.address}/{repository}/run:2", store, bundle)


def test_podmans_log_in_counts_for_one_namespace(
    private: Guarded,
    tmp_path: Path,
    base: str,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """containers-auth.json(5): keys may name a namespace, and the most specific one counts."""
    registry, tokens = private
    good = base64.b64encode(f"jo:{PASSWORD}".encode()).decode()
    bad = base64.b64encode(b"jo:wrong").decode()
    auths = {f"{registry.address}/{repository}": {"auth": good}, registry.address: {"auth": bad}}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    run(base, f"{registry.address}/{repository}/run:1", store, bundle)
    with pytest.raises(TransportError, match="docker login") as refused:
        run(base, f"{registry.address}/x{repository}/run:1", store, bundle)
    assert "wrong" not in str(refused.value)
    assert {asked["user"] for asked in tokens.asked} == {"jo"}


def test_no_secret_reaches_another_host_an_error_or_a_log(
    tmp_path: Path, store: Store, bundle: Bundle, caplog: pytest.LogCaptureFixture, layout: Any
) -> None:
    """RFC 9110 section 11.6.2 and 15.4: credentials belong to an origin; a redirect to another has none."""
    caplog.set_level(0)
    manifest = layout.image([{"a": b"1" * 5000}])
    seen: list[tuple[str, str | None]] = []

    def elsewhere(request: Any) -> tuple[int, dict[str, str], bytes]:
        seen.append((request.path, request.headers.get("Authorization")))
        name = request.path.partition("?")[0].rpartition("/")[2]
        return 200, {}, (layout.folder / "blobs/sha256" / name[7:]).read_bytes()

    with listening(elsewhere) as other:

        def registry(request: Any) -> tuple[int, dict[str, str], bytes]:
            sent = request.headers.get("Authorization")
            if sent is None:
                return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
            if "/manifests/" in request.path:
                return 200, {"Content-Type": manifest.media_type}, manifest.data
            if request.path.endswith(manifest.config.digest):
                return 307, {"Location": f"http://{other}{request.path}?Signature=verysecret"}, b""
            return 403, {}, f"no, {sent}, {PASSWORD}".encode()

        with listening(registry) as address:
            auth = base64.b64encode(f"jo:{PASSWORD}".encode()).decode()
            stored(tmp_path, {"auths": {address: {"auth": auth}}})
            with pytest.raises(TransportError, match="refused to read") as error:
                run(f"{address}/app:1", f"oci:{tmp_path / 'out'}:x", store, bundle)
    assert seen == [(seen[0][0], None)]
    texts = [str(error.value), repr(error.value), caplog.text]
    assert not [text for text in texts for secret in (PASSWORD, auth, "verysecret") if secret in text]


@pytest.mark.parametrize("how", ["option", "variable", "certs.d", "loopback"])
def test_a_private_certificate_authority_is_trusted_where_it_is_named(
    how: str,
    tls_registry: tuple[str, Path],
    tmp_path: Path,
    base: str,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS is verified always; the certificate may be named by option, variable or certs.d."""
    port, cert = tls_registry
    names_are_here(monkeypatch)
    host = f"127.0.0.1:{port}" if how == "loopback" else f"registry.test:{port}"
    target = f"{host}/{repository}:1"
    if how != "loopback":
        with pytest.raises(TransportError, match=r"CERTIFICATE_VERIFY_FAILED.*--ca"):
            run(base, target, store, bundle)
    authority = cert if how == "option" else None
    if how == "variable":
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    if how in {"certs.d", "loopback"}:
        folder = tmp_path / "config/containers/certs.d" / host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(cert.read_bytes())
    access = Access(authority=authority)
    report = run(base, target, store, bundle, access)
    again = graft_image(
        parse(target), parse(f"{host}/{repository}2:1"), {"amd64": bundle}, store, access=access
    )
    assert again.digest == report.digest
