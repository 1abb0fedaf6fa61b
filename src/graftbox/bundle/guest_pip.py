"""Runs pip as if on the guest: ``python -m graftbox.bundle.guest_pip ENVIRONMENT-AS-JSON PIP-ARGUMENTS…``.

pip chooses files for another platform when told so, but still evaluates dependency markers
(``python_version < "3.12"``) for the interpreter that it runs on (pypa/pip#11664). Here they are
evaluated for the guest, so that every build machine locks the same wheels.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> int:
    """Replaces the marker environment, then becomes pip; its exit code."""
    from pip._internal.cli.main import main as pip
    from pip._vendor.packaging import markers

    guest: dict[str, str] = json.loads(sys.argv[1])
    host: Any = markers.default_environment
    markers.default_environment = lambda: {**host(), **guest}  # type: ignore[typeddict-item]  # a plain dict
    return int(pip(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
