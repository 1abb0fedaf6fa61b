"""Whom one call runs as, and with which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from graftbox.errors import UnsupportedError, UsageError
from graftbox.server.identity import Identity, groups_of, passwd_entry
from graftbox.server.sandbox import Sandbox


def become(sandbox: Sandbox, user: str | None) -> Identity:
    """The user called ``user``, or with that number; None: the one that the sandbox's actions run as.

    Raises `UsageError` for an unknown name and `UnsupportedError` where the server may not turn into it.
    """
    if user is None:
        return sandbox.identity
    number = int(user) if user.isascii() and user.isdigit() and len(user) < 11 else None
    entry = passwd_entry(user if number is None else number)
    if entry is None and (number is None or number > 2**32 - 2):
        raise UsageError(f"There is no user {user} in this sandbox.")
    if entry is None:
        assert number is not None
        entry = ("", number, number, "/", "/bin/sh")
    name, uid, gid, home, shell = entry
    if uid == sandbox.identity.uid:
        return sandbox.identity
    if uid == os.geteuid():
        return Identity.own()
    if os.geteuid() != 0:
        raise UnsupportedError(f"Only a server that was started as root can run commands as {user}.")
    return Identity(uid, gid, groups_of(name, gid), name or None, home, shell, switched=True)


def environment_for(
    sandbox: Sandbox, identity: Identity, changes: Mapping[str, str | None]
) -> tuple[bytes, ...]:
    """The container's own variables as that user sees them, with ``changes``; None removes one."""
    entries = identity.environment(sandbox.environment.for_the_user())
    changed = {os.fsencode(name): value for name, value in changes.items()}
    kept = (entry for entry in entries if entry.partition(b"=")[0] not in changed)
    new = (name + b"=" + os.fsencode(value) for name, value in changed.items() if value is not None)
    return (*kept, *new)
