"""What goes wrong with the browser, beside what `graftbox.errors` has names for."""

from __future__ import annotations

from graftbox.errors import GraftboxError


class BrowserError(GraftboxError):
    """The browser ended, or did not do what it was told; the next call starts it anew if need be."""

    http_status = 503


class PageError(GraftboxError):
    """The page could not be opened or shown: no such host, a refused connection, a crash of its process."""

    http_status = 502


class PageTimeoutError(GraftboxError):
    """A page took longer than it was given."""

    http_status = 504


class TooManyPagesError(GraftboxError):
    """As many pages as may be are open."""

    http_status = 429
