"""``python -m graftbox.package_browser DIR``: the same as ``graftbox package-browser DIR``."""

from __future__ import annotations

import sys

from graftbox.cli import app

if __name__ == "__main__":
    sys.argv[:1] = ["graftbox", "package-browser"]
    app.main()
