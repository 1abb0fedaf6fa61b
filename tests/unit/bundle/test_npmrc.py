from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle import npmrc
from graftbox.bundle.sources import Sources
from graftbox.errors import ConfigurationError


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": str(home / "bin"), **more}


def test_the_users_npmrc_names_the_registry_and_those_of_scopes(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").write_text(
        "; a comment\nregistry = https://npm.example.org/\n@ours:registry=https://${HOST}/npm/\n"
    )
    found = npmrc.configured(environ(tmp_path, HOST="private.example.org"))
    assert found.of("ws") == found.of("@theirs/ws") == "https://npm.example.org"
    assert found.of("@ours/tool") == "https://private.example.org/npm"


def test_a_variable_beats_the_file_and_an_option_beats_both(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").write_text("registry=https://file.example.org\n")
    env = environ(tmp_path, npm_config_registry="https://variable.example.org")
    assert npmrc.configured(env).url == "https://variable.example.org"
    option = Sources.find(env, npm_registry="https://option.example.org/")
    assert option.registries("ws") == ("https://option.example.org",)


def test_npms_global_file_is_found_beside_node(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "node").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "node").chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "npmrc").write_text("registry=https://global.example.org\n")
    assert npmrc.configured(environ(tmp_path)).url == "https://global.example.org"


def test_an_installed_npm_is_asked_for_its_own_registry(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "npm"
    program.write_text("#!/bin/sh\necho https://built-in.example.org/\n")
    program.chmod(0o755)
    env = environ(tmp_path)
    env["PATH"] += ":/usr/bin:/bin"
    found = npmrc.configured({**env, "npm_config_globalconfig": str(tmp_path / "none")})
    assert found.url == "https://built-in.example.org"


def test_a_machine_without_npm_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Set --npm-registry, GRAFTBOX_NPM_REGISTRY, or"):
        Sources.find(environ(tmp_path)).registries("ws")


def test_npms_certificates_are_trusted(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("x")
    assert npmrc.certificates(environ(tmp_path)) is None
    (tmp_path / ".npmrc").write_text(f"cafile={authority}\n")
    assert npmrc.certificates(environ(tmp_path)) == authority
