"""A page as Markdown."""

from __future__ import annotations

import re


def markdown(html: str) -> str:
    """What a reader sees of ``html``; blocking, about a second for the longest that is read."""
    from markdownify import markdownify

    text: str = markdownify(html, heading_style="ATX", bullets="-", escape_underscores=False)
    lines = (line.rstrip() for line in text.replace("\xa0", " ").splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
