from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle import pypi

PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that pip reads instead of the user's; the system's own is still below it."""
    for variable in PIP_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), **more}


def test_a_machine_without_configuration_uses_pips_own_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pypi, "_pip_settings", dict)
    found = pypi.configured(environment(tmp_path))
    assert found.urls == (pypi.pip_default(),)
    assert found.urls[0].startswith("https://")


def test_pips_file_names_indexes_folders_and_a_certificate(pip: Path, tmp_path: Path) -> None:
    pip.write_text(
        "[global]\nindex-url = https://i.example/simple/\ncert = /ca.pem\nfind-links = /wheels\n"
        "extra-index-url = file:///a/simple\n    file:///b/simple\n[list]\nformat = columns\n"
    )
    found = pypi.configured(environment(tmp_path))
    assert found.urls == ("https://i.example/simple", "file:///a/simple", "file:///b/simple")
    assert (found.find_links, found.cert) == (("/wheels",), Path("/ca.pem"))


def test_pips_variables_beat_its_file(pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip.write_text("[global]\nindex-url = https://i.example/simple\nextra-index-url =\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://j.example/simple")
    assert pypi.configured(environment(tmp_path)).urls == ("https://j.example/simple",)


def test_no_index_leaves_only_folders(pip: Path, tmp_path: Path) -> None:
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\nindex-url =\nextra-index-url =\n")
    found = pypi.configured(environment(tmp_path))
    assert (found.urls, found.find_links) == ((), ("/wheels",))


def test_uvs_variables_and_file_count_where_pip_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pypi, "_pip_settings", dict)
    folder = tmp_path / ".config" / "uv"
    folder.mkdir(parents=True)
    (folder / "uv.toml").write_text(
        '[[index]]\nname = "a"\nurl = "https://a.example/simple"\ndefault = true\n'
        '[[index]]\nname = "b"\nurl = "https://b.example/simple"\n'
        '[[index]]\nname = "c"\nurl = "https://c.example/simple"\nexplicit = true\n'
    )
    assert pypi.configured(environment(tmp_path)).urls == (
        "https://a.example/simple",
        "https://b.example/simple",
    )
    named = environment(
        tmp_path, UV_DEFAULT_INDEX="x=https://d.example/simple", UV_INDEX="https://e.example/simple"
    )
    assert pypi.configured(named).urls == ("https://d.example/simple", "https://e.example/simple")
