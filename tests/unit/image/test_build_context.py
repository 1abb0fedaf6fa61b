"""Folders that builders are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.errors import StorageError
from graftbox.image.build_context import File, write


def test_a_context_is_written_and_written_again(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"layer")
    folder = tmp_path / "context"
    files = {
        "openhands/bin/x": File(b"#!", executable=True),
        "openhands/code/graftbox/old.py": File(b"old"),
        "core.tar.gz": File(blob),
    }
    write(folder, "FROM a\n", files)
    (folder / "config.sh").write_text("mine")
    del files["openhands/code/graftbox/old.py"]
    files["openhands/code/graftbox/new.py"] = File(b"new")
    write(folder, "FROM b\n", files)
    assert (folder / "Dockerfile").read_text() == "FROM b\n"
    assert (folder / "openhands/bin/x").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (folder / "openhands/code/graftbox").iterdir()] == ["new.py"]
    assert (folder / "core.tar.gz").read_bytes() == b"layer"
    assert (folder / "config.sh").read_text() == "mine"
    assert blob.read_bytes() == b"layer"


def test_a_folder_of_somebody_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "openhands").mkdir()
    (tmp_path / "openhands/precious").write_text("x")
    with pytest.raises(StorageError, match="Move it"):
        write(tmp_path, "FROM a\n", {"openhands/bin/x": File(b"")})
    assert (tmp_path / "openhands/precious").exists()
