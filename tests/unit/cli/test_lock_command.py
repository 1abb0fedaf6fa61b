"""The lock command on a mirror made of files; `tests/unit/bundle/test_locking.py` has the cases."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pysequoia import SignatureMode, Tsk, sign

from graftbox.bundle.lock import Lock
from graftbox.cli.lock import lock
from graftbox.errors import GraftboxError, NotFoundError, StorageError, VerificationError

RECIPE = """
[debian]
suites = ["trixie"]
keyring = "keyring.gpg"
[component.core]
packages = ["bash"]
"""


class Mirror:
    """A signed archive below a folder, with one package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = Tsk.generate("Mirror <mirror@example.org>")

    def publish(self, version: str, days: int = 7) -> None:
        data = version.encode() * 100
        path = f"pool/bash_{version}.deb"
        self.write(path, data)
        lines = []
        for arch in ("amd64", "arm64"):
            stanza = (
                f"Package: bash\nVersion: {version}\nFilename: {path}\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
            )
            packages = gzip.compress(stanza.encode())
            name = f"main/binary-{arch}/Packages.gz"
            self.write(f"dists/trixie/{name}", packages)
            lines.append(f" {hashlib.sha256(packages).hexdigest()} {len(packages)} {name}\n")
        now = datetime.datetime.now(datetime.UTC)
        until = now + datetime.timedelta(days=days)
        text = (
            f"Suite: stable\nCodename: trixie\nDate: {now:%a, %d %b %Y %H:%M:%S} UTC\n"
            f"Valid-Until: {until:%a, %d %b %Y %H:%M:%S} UTC\nSHA256:\n{''.join(lines)}"
        )
        self.write("dists/trixie/InRelease", sign(self.key.signer(), text.encode(), mode=SignatureMode.CLEAR))

    def write(self, path: str, data: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    made = Mirror(tmp_path / "mirror")
    made.publish("1")
    (tmp_path / "keyring.gpg").write_bytes(bytes(made.key.extract_certificate()))
    (tmp_path / "my.toml").write_text(RECIPE)
    monkeypatch.setenv("GRAFTBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAFTBOX_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("GRAFTBOX_DEBIAN_MIRROR", made.folder.as_uri())
    monkeypatch.chdir(tmp_path)
    return made


def run(*arguments: str) -> str:
    """What the command prints on standard output."""
    done = CliRunner().invoke(lock, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.usefixtures("mirror")
def test_a_recipe_file_gets_its_lock_next_to_it() -> None:
    assert "amd64: 1 packages, 0 wheels" in run("my.toml")
    assert Lock.read(Path("my.lock.json")).entries("arm64")[0].version == "1"
    assert "fits its recipe" in run("my.toml", "--check")


@pytest.mark.usefixtures("mirror")
def test_json_is_one_object_with_counts_and_a_digest() -> None:
    printed = json.loads(run("my.toml", "--json", "--output", "other.json"))
    assert printed["lock"] == "other.json"
    assert printed["digest"] == Lock.read(Path("other.json")).digest
    assert printed["architectures"]["amd64"] == {"packages": 1, "wheels": 0}


def test_a_new_version_is_reported_and_a_gone_one_replaced(mirror: Mirror) -> None:
    run("my.toml")
    mirror.publish("2")
    assert "no changes" in run("my.toml", "--update-missing")
    (mirror.folder / "pool/bash_1.deb").unlink()
    printed = run("my.toml", "--update-missing")
    assert "amd64 bash: 1 -> 2" in printed
    assert "2 changes" in printed


@pytest.mark.usefixtures("mirror")
def test_a_lock_of_another_recipe_does_not_pass_the_check() -> None:
    run("my.toml")
    Path("my.toml").write_text(RECIPE.replace('"bash"', '"dash"'))
    with pytest.raises(VerificationError, match=r"Run `graftbox lock my\.toml`"):
        run("my.toml", "--check")


@pytest.mark.usefixtures("mirror")
def test_there_must_be_a_lock_to_update_or_check() -> None:
    with pytest.raises(NotFoundError, match=r"graftbox lock my\.toml"):
        run("my.toml", "--update-missing")
    with pytest.raises(NotFoundError, match="graftbox lock"):
        run("my.toml", "--check")


def test_a_failing_run_leaves_the_old_lock(mirror: Mirror) -> None:
    run("my.toml")
    before = Path("my.lock.json").read_bytes()
    mirror.publish("2", days=-1)
    with pytest.raises(VerificationError, match="--allow-expired"):
        run("my.toml")
    assert Path("my.lock.json").read_bytes() == before
    run("my.toml", "--allow-expired")
    assert Lock.read(Path("my.lock.json")).entries("amd64")[0].version == "2"


@pytest.mark.usefixtures("mirror")
def test_another_keyring_is_believed_instead(tmp_path: Path) -> None:
    stranger = Tsk.generate("Stranger <stranger@example.org>").extract_certificate()
    (tmp_path / "stranger.gpg").write_bytes(bytes(stranger))
    with pytest.raises(GraftboxError, match="does not verify"):
        run("my.toml", "--keyring", "stranger.gpg")


def test_where_nothing_can_be_written_is_noticed_before_anything_is_fetched(tmp_path: Path) -> None:
    done = CliRunner().invoke(lock, ["tools", "--output", str(tmp_path / "none/tools.lock.json")])
    assert isinstance(done.exception, StorageError)
    assert "--output" in str(done.exception)
