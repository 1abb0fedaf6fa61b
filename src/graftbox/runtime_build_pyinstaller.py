"""``python -m graftbox.runtime_build_pyinstaller --base-image ubuntu:22.04``: as `graftbox.runtime_build`.

Grafts by default, as that does: the bundle serves the same purpose as the binary. ``--method pyinstaller`` is
the binary itself.
"""

from __future__ import annotations

import sys

from graftbox.runtime_build import main

if __name__ == "__main__":
    sys.exit(main(program="graftbox.runtime_build_pyinstaller"))
