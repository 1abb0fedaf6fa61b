"""What PyInstaller has to know of the server: a spec file, and a hook found beside it or as installed."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def hook_folders() -> list[str]:
    """For PyInstaller's entry point ``pyinstaller40: hook-dirs``."""
    return [str(FOLDER)]
