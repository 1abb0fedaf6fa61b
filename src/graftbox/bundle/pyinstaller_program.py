"""Runs PyInstaller inside the bundle's own CPython (see `pyinstaller`), never inside graftbox itself.

``pyinstaller_program.py SPEC LIBPYTHON FOLDER``: writes ``FOLDER/dist``. What each library needs is in the
bundle already, so PyInstaller need not look for it, which it does by running the build machine's own loader.
"""

import sys

import PyInstaller.__main__
from PyInstaller.archive.writers import ZlibArchiveWriter
from PyInstaller.depend import bindepend


def main() -> None:
    spec, library, folder = sys.argv[1:]
    bindepend.get_imports = lambda *arguments, **named: set()
    bindepend.get_python_library_path = lambda: library
    # Layers are compressed themselves, and better; a start does not wait for it.
    ZlibArchiveWriter._COMPRESSION_LEVEL = 0
    PyInstaller.__main__.run(
        ["--noconfirm", "--log-level=WARN", f"--distpath={folder}/dist", f"--workpath={folder}/work", spec]
    )


if __name__ == "__main__":
    main()
