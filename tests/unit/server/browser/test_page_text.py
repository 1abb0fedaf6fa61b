"""Pages as the text that `browse` returns."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from graftbox.server.browser.text import as_text

_EMPTY = ("br", "hr", "img")


class _Content(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, Any]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(("start", (tag, dict(attrs))))
        if tag in _EMPTY:
            self.found.append(("end", tag))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("end", tag))

    def handle_data(self, data: str) -> None:
        self.found.append(("text", data))


def text(html: str) -> str:
    return as_text(_Content(html).found)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<h1>Hi</h1><a href='b.html'>link</a><button>Go</button>", "#  Hi \n\n[ link ](b.html) Go \n"),
        ("<p>one</p><p>two</p>", " one \n\ntwo \n"),
        ("<p>so <b>bold</b> and <i>not</i></p>", " so **bold** and _not_\n"),
        ("<ul><li>a</li><li>b</li></ul><p>c</p>", "  * a \n  * b \n\n\n\nc \n"),
        ("<ol start='3'><li>a</li><li>b</li></ol>", "  3. a \n  4. b \n\n\n"),
        ("<table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td>1</td></tr></table>",
         " k  |  v   \n---|---  \na  |  1 \n"),
        ("<a href='x' title='t'>y</a>", "[ y ](x \"t\")\n"),
        ("<a href='x'></a><a href='#in'>in</a>", "[ ](x) in \n"),
        ("<pre>  a\n  b</pre><hr>", "a\n      b\n\n* * *\n"),
        ("<head><title>T</title><style>x</style></head><script>1</script><p>seen</p>", " seen \n"),
        ("<p>1. no list</p><p>- nor here</p><p>a\\*b</p>", " 1\\. no list \n\n\\- nor here \n\na\\\\*b \n"),
        ("<p>a < b & c</p>", " a < b & c \n"),
        ("", ""),
    ],
)  # fmt: skip
def test_marks_and_white_space_are_those_that_clients_know(html: str, expected: str) -> None:
    assert text(html).lstrip() == expected.lstrip()


def test_unbalanced_ends_and_deep_nesting_do_no_harm() -> None:
    assert text("</ul></blockquote></a></pre></tr></b>ok").strip("* \n") == "ok"
    assert "deep" in text("<div><ul><li><blockquote>" * 2000 + "deep")
