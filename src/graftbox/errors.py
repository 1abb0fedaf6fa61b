"""Every error that graftbox raises on purpose.

    GraftboxError                 catch this to catch all of them; the message says what to do next
    ├── UsageError                the request itself makes no sense (option, reference, recipe)
    ├── ConfigurationError        the machine lacks a setting that only its owner can choose
    ├── VerificationError         bytes are not what was signed, locked or named by digest
    ├── NotFoundError             the named image, package, bundle or sandbox does not exist
    ├── TransportError            a registry, mirror, daemon or sandbox could not be reached or refused
    ├── FormatError               input that is there but malformed (archive, manifest, ELF file, lock)
    ├── UnsupportedError          a correct request that this machine, image or kernel cannot serve
    └── StorageError              this machine's disk is full, read-only or otherwise in the way

A message is one or two sentences: what happened, to what, and what to do next. The low-level cause
is chained with ``raise … from``.
"""


class GraftboxError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line exits with."""

    exit_code = 1


class UsageError(GraftboxError):
    """The request makes no sense as written."""

    exit_code = 2


class ConfigurationError(GraftboxError):
    """The machine lacks a setting; the message names the option, variable and file that set it."""


class VerificationError(GraftboxError):
    """Bytes are not what a signature, lock or digest says; nothing of them was kept."""


class NotFoundError(GraftboxError):
    """The named thing does not exist where it was looked for."""


class TransportError(GraftboxError):
    """The other side could not be reached, or refused.

    ``status`` is its HTTP status if it answered with one; ``retry_after`` the seconds that it asks to wait.
    """

    def __init__(
        self, message: str = "", status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class FormatError(GraftboxError):
    """Input exists but is malformed."""


class UnsupportedError(GraftboxError):
    """A correct request that this machine, image or kernel cannot serve."""


class StorageError(GraftboxError):
    """The local disk is in the way: full, read-only or not permitted."""
