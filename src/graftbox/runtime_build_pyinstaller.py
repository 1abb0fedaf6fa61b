"""``python -m graftbox.runtime_build_pyinstaller --base-image ubuntu:22.04``: as `graftbox.runtime_build`.

Builds an image with the server as a PyInstaller binary, unless ``--method`` says another way.
"""

from __future__ import annotations

import sys

from graftbox.runtime_build import main

if __name__ == "__main__":
    sys.exit(main(program="graftbox.runtime_build_pyinstaller", method="pyinstaller"))
