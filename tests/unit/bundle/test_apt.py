from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle import apt

DEB822 = """\
Types: deb deb-src
# a comment in between
URIs: http://one.example/debian http://two.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://one.example/debian-security
Suites: bookworm-security
Components: main
  contrib

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.example/apt
Suites: nodistro
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQENBF
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "apt.conf.d").mkdir()
    return tmp_path


def test_deb822_sources_give_debians_mirrors_and_nobody_elses(etc: Path) -> None:
    (etc / "sources.list.d" / "debian.sources").write_text(DEB822)
    found = apt.entries(etc)
    assert apt.mirrors(found, security=False) == ("http://one.example/debian", "http://two.example/debian")
    assert apt.mirrors(found, security=True) == ("http://one.example/debian-security",)


def test_one_line_sources_with_options_and_comments(etc: Path) -> None:
    (etc / "sources.list").write_text(
        "# deb http://commented.example/debian trixie main\n"
        "deb [ arch=amd64 signed-by=/x.gpg ] https://m.example/debian/ trixie main contrib # why\n"
        "deb http://s.example/debian-security bullseye/updates main\n"
        "deb-src http://src.example/debian trixie main\n"
        "deb http://u.example/ubuntu noble main\n"
        "deb cdrom:[Debian]/ trixie main\n"
        "deb http://flat.example ./\n"
        "deb\n"
    )
    found = apt.entries(etc)
    assert apt.mirrors(found, security=False) == ("https://m.example/debian",)
    assert apt.mirrors(found, security=True) == ("http://s.example/debian-security",)


def test_a_file_of_mirrors_is_followed(etc: Path) -> None:
    mirrors = etc / "mirrors.list"
    mirrors.write_text("https://m.example/debian\tpriority:1\n# no\nhttp://n.example/debian\n")
    (etc / "sources.list").write_text(
        f"deb mirror+file:{mirrors} trixie main\ndeb file:/srv/debian trixie main\n"
    )
    assert apt.mirrors(apt.entries(etc), security=False) == (
        "https://m.example/debian",
        "http://n.example/debian",
        "file:///srv/debian",
    )


def test_files_that_apt_ignores_are_ignored(etc: Path) -> None:
    (etc / "sources.list.d" / "x.sources.disabled").write_text(DEB822)
    assert apt.entries(etc) == []
    assert apt.entries(etc / "nowhere") == []


def test_snapshot_archives_come_from_apts_configuration(etc: Path) -> None:
    (etc / "apt.conf.d" / "50snap").write_text(
        '// Acquire::Snapshots::URI::Label::X "https://no.example/@SNAPSHOTID@/";\n'
        'Acquire::Snapshots::URI::Label::Debian "https://s.example/archive/debian/@SNAPSHOTID@/";\n'
    )
    (etc / "apt.conf.d" / "60other").write_text('APT::Get::Assume-Yes "true";\n')
    assert apt.snapshots(etc) == ("https://s.example/archive/debian/@SNAPSHOTID@/",)
