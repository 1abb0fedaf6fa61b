"""Log-ins without a network: stored credentials, challenges, token requests, the tokens that are kept."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from graftbox.errors import ConfigurationError, TransportError
from graftbox.image import credentials
from graftbox.image.auth import Challenge, Token, Tokens, merged, read_token, token_requests
from graftbox.image.credentials import Credential

BEARER = Challenge("bearer", "https://auth.example/token", "reg", ())


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without any stored credential."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def stored(path: Path, config: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_nothing_stored_is_anonymous() -> None:
    assert credentials.find("reg.example", "a/b") is None


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"auths": 3}', '{"auths": {"reg.example": "x"}}'])
def test_a_damaged_file_is_no_log_in(damaged: str, home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(damaged)
    assert credentials.find("reg.example") is None


def test_the_files_are_read_in_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [home / "explicit.json", home / ".docker/config.json", home / "run/containers/auth.json"]
    places.append(home / ".config/containers/auth.json")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(places[0]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    for number, path in reversed(list(enumerate(places))):
        stored(path, {"auths": {"reg.example": entry(f"u{number}:p")}})
        found = credentials.find("reg.example")
        assert found is not None
        assert found.user == f"u{number}"


@pytest.mark.parametrize(
    ("key", "host", "repository"),
    [
        ("https://index.docker.io/v1/", "docker.io", "library/ubuntu"),
        ("docker.io", "docker.io", "library/ubuntu"),
        ("https://reg.example", "reg.example", "a/b"),
        ("https://reg.example/v1/", "reg.example", "a/b"),
        ("reg.example:5000", "reg.example:5000", "a/b"),
        ("reg.example/a", "reg.example", "a/b"),
        ("reg.example/a/b", "reg.example", "a/b"),
    ],
)
def test_a_registry_is_found_under_each_of_its_names(
    key: str, host: str, repository: str, home: Path
) -> None:
    stored(home / ".docker/config.json", {"auths": {key: entry("jo:pass:word")}})
    found = credentials.find(host, repository)
    assert found == Credential("jo", "pass:word")
    assert credentials.find(f"other.{host}", repository) is None


def test_tokens_and_names_in_words(home: Path) -> None:
    auths = {
        "a": {"identitytoken": "i"},
        "b": {"registrytoken": "r"},
        "c": {"username": "u", "password": "p"},
    }
    auths["d"] = entry("<token>:refresh")
    stored(home / ".docker/config.json", {"auths": auths})
    assert credentials.find("a") == Credential(identity_token="i")
    assert credentials.find("b") == Credential(registry_token="r")
    assert credentials.find("c") == Credential("u", "p")
    assert credentials.find("d") == Credential(identity_token="refresh")


@pytest.mark.parametrize(
    ("script", "required"),
    [("echo broken; exit 3", True), ("echo not json", True), ("echo credentials not found; exit 1", False)],
)
def test_a_helper_that_fails_is_named_and_its_words_are_not_repeated(
    script: str, required: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = home / "bin/docker-credential-odd"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    stored(home / ".docker/config.json", {"credHelpers": {"reg.example": "odd"}})
    if not required:
        assert credentials.find("reg.example") is None
        return
    with pytest.raises(ConfigurationError, match="docker-credential-odd") as error:
        credentials.find("reg.example")
    assert "broken" not in str(error.value)


def test_a_store_that_is_not_installed_does_not_stop_anonymous_use(home: Path) -> None:
    stored(home / ".docker/config.json", {"credsStore": "nowhere-to-be-found", "auths": {"a": {}}})
    assert credentials.find("reg.example") is None
    with pytest.raises(ConfigurationError, match="nowhere-to-be-found"):
        credentials.find("a")


def test_secrets_are_not_in_any_representation() -> None:
    credential = Credential("jo", "hidden1", "hidden2", "hidden3")
    token = Token("hidden4", (), 0)
    request = token_requests(BEARER, frozenset({"repository:a:pull"}), credential)[0]
    assert "hidden" not in f"{credential!r} {token!r} {request!r}"


def test_scopes_are_united_for_each_repository() -> None:
    scopes = {
        "repository:a:pull",
        "repository:a:push,pull",
        "repository:b:pull",
        "repository:user/image:pull",
    }
    assert merged(frozenset(scopes)) == ("repository:a:pull,push", "repository:b:pull")


def test_the_strongest_of_several_challenges_is_taken() -> None:
    header = 'Basic realm="x, Bearer y", Bearer realm="https://a/t",service="s, t",scope="repository:a:pull"'
    assert Challenge.read(header) == Challenge("bearer", "https://a/t", "s, t", ("repository:a:pull",))
    assert Challenge.read('Negotiate, Basic realm="x"') == Challenge("basic", "x", "", ())


def test_a_password_goes_by_get_and_by_post_only_if_that_is_not_known() -> None:
    scopes = frozenset({"repository:a:pull", "repository:b:pull,push"})
    get, post = token_requests(BEARER, scopes, Credential("jo", "pw"))
    assert (get.method, get.authorization) == ("GET", "Basic " + base64.b64encode(b"jo:pw").decode())
    query = parse_qs(urlsplit(get.url).query)
    assert query == {"scope": ["repository:a:pull", "repository:b:pull,push"], "service": ["reg"]}
    form = {key: value[0] for key, value in parse_qs(post.form.decode()).items()}
    assert (post.url, form["grant_type"], form["password"]) == (BEARER.realm, "password", "pw")
    assert form["scope"] == "repository:a:pull repository:b:pull,push"


def test_an_identity_token_is_never_sent_in_an_address() -> None:
    (post,) = token_requests(BEARER, frozenset({"repository:a:pull"}), Credential(identity_token="idt"))
    assert (post.method, post.url) == ("POST", BEARER.realm)
    assert b"refresh_token=idt" in post.form


def test_a_realm_may_have_a_query_of_its_own() -> None:
    challenge = Challenge("bearer", "https://a/t?account=x", "s", ())
    (get,) = token_requests(challenge, frozenset({"repository:a:pull"}), None)
    assert get.url == "https://a/t?account=x&scope=repository%3Aa%3Apull&service=s"
    assert get.authorization == ""


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"token": null}', b'{"token": "x", "expires_in": "y"}']
)
def test_an_answer_without_a_token_is_not_repeated(answer: bytes) -> None:
    with pytest.raises(TransportError, match="gave no token"):
        read_token(answer, frozenset(), 0, "reg.example")


def test_tokens_are_kept_for_their_scopes_until_shortly_before_their_end() -> None:
    scopes, tokens = frozenset({"repository:a:pull"}), Tokens()
    token = read_token(b'{"access_token": "t", "expires_in": 100}', scopes, 1000, "r")
    tokens.add(token)
    assert tokens.find(scopes, 1089) == token
    assert tokens.find(frozenset({"repository:a:pull,push"}), 1000) is None
    assert tokens.find(scopes, 1091) is None
    tokens.add(token)
    tokens.drop(token.header)
    assert tokens.find(scopes, 1000) is None


def test_tokens_of_many_repositories_do_not_grow_without_end() -> None:
    tokens = Tokens()
    for number in range(2000):
        tokens.add(Token(str(number), (f"repository:{number}:pull",), 10))
    assert tokens.find(frozenset({"repository:1999:pull"}), 0) is not None
    assert tokens.find(frozenset({"repository:1:pull"}), 0) is None
