"""Text as one word of bash."""

from __future__ import annotations

import re

_SPECIAL = re.compile(rb"[\x00-\x1f\x7f'\\]")


def ansi_c(text: str) -> bytes:
    """``text`` in bash's ``$'…'`` form: one line, whatever it holds; the text must have no NUL."""
    data = text.encode("utf-8", "surrogatepass")
    return b"$'" + _SPECIAL.sub(lambda match: b"\\%03o" % match[0][0], data) + b"'"
