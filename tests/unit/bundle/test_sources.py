from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle.sources import Sources
from graftbox.errors import ConfigurationError, UsageError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "GRAFTBOX_CONFIG": str(tmp_path / "config.toml")}


def write(environ: dict[str, str], text: str) -> None:
    Path(environ["GRAFTBOX_CONFIG"]).write_text(text)


def test_options_beat_variables_beat_the_config_file(environ: dict[str, str]) -> None:
    write(environ, '[sources]\ndebian-mirror = ["http://file.example/debian", "http://two.example/debian"]\n')
    assert Sources.find(environ).mirrors("debian") == (
        "http://file.example/debian",
        "http://two.example/debian",
    )
    environ["GRAFTBOX_DEBIAN_MIRROR"] = "http://variable.example/debian/"
    assert Sources.find(environ).mirrors("debian") == ("http://variable.example/debian",)
    option = Sources.find(environ, debian_mirror="http://option.example/debian")
    assert option.mirrors("debian") == ("http://option.example/debian",)


@pytest.mark.parametrize(
    ("archive", "option", "variable"),
    [
        ("debian", "--debian-mirror", "GRAFTBOX_DEBIAN_MIRROR"),
        ("debian-security", "--security-mirror", "GRAFTBOX_SECURITY_MIRROR"),
    ],
)
def test_a_machine_without_mirrors_is_told_what_to_set(
    environ: dict[str, str], tmp_path: Path, archive: str, option: str, variable: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Sources({}, environ, apt_root=tmp_path).mirrors(archive)
    for word in (option, variable, "[sources]", "config.toml"):
        assert word in str(caught.value)


def test_a_machine_without_a_package_index_is_told_what_to_set(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftbox.bundle import pypi

    monkeypatch.setattr(pypi, "configured", lambda _: pypi.Indexes())
    with pytest.raises(
        ConfigurationError, match=r"--index-url, GRAFTBOX_INDEX_URL, or `index-url` below \[sources\]"
    ):
        Sources.find(environ).indexes()


def test_the_machines_own_apt_is_asked_when_nobody_says_anything(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sources.list").write_text("deb http://apt.example/debian bookworm main\n")
    assert Sources({}, environ, apt_root=tmp_path).mirrors("debian") == ("http://apt.example/debian",)


def test_a_machine_without_any_mirror_is_told_every_setting_at_once(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"--debian-mirror, GRAFTBOX_DEBIAN_MIRROR.*security-mirror"):
        Sources({}, environ, apt_root=tmp_path).mirrors("debian")
    (tmp_path / "sources.list").write_text("deb http://apt.example/debian bookworm main\n")
    with pytest.raises(ConfigurationError, match=r"--security-mirror.*config.toml\.$"):
        Sources({}, environ, apt_root=tmp_path).mirrors("debian-security")


def test_a_snapshot_archive_is_a_folder_or_a_template(environ: dict[str, str], tmp_path: Path) -> None:
    plain = Sources.find(environ, snapshot="https://s.example/archive/")
    assert plain.snapshots("debian-security", "T1") == ("https://s.example/archive/debian-security/T1",)
    template = Sources.find(
        environ,
        snapshot="https://s.example/debian/@SNAPSHOTID@/ https://s.example/debian-security/@SNAPSHOTID@/",
    )
    assert template.snapshots("debian", "T1") == ("https://s.example/debian/T1",)
    assert template.snapshots("debian-security", "T1") == ("https://s.example/debian-security/T1",)
    assert Sources({}, environ, apt_root=tmp_path).snapshots("debian", "T1") == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[sources]\nmirror = 'x'\n", "unknown key sources.mirror"),
        ("[sources]\nsnapshot = 1\n", "sources.snapshot must be"),
        ("sources = 1\n", "sources must be a table"),
        ("[sources]\ndebian-mirror = 'nonsense'\n", "'nonsense' is not an address"),
        ("[", "not a TOML file"),
    ],
)
def test_a_mistake_in_the_config_file_is_told(environ: dict[str, str], text: str, complaint: str) -> None:
    write(environ, text)
    with pytest.raises(UsageError, match=complaint):
        Sources.find(environ)


def test_what_is_no_address_is_refused_by_the_name_of_its_setting(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"GRAFTBOX_DEBIAN_MIRROR.*begins with http"):
        Sources.find(environ, debian_mirror="nonsense")
    found = Sources.find(environ, debian_mirror="/srv/debian/", snapshot="file:///srv/snapshot")
    assert found.mirrors("debian") == ("/srv/debian",)


def test_a_proxys_certificate_authority_is_found(environ: dict[str, str]) -> None:
    assert Sources.find({**environ, "PIP_CERT": "/pip.pem"}).authorities() == Path("/pip.pem")
    both = {**environ, "PIP_CERT": "/pip.pem", "SSL_CERT_FILE": "/ssl.pem"}
    assert Sources.find(both).authorities() == Path("/ssl.pem")
