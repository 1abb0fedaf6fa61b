"""The mirror command: where it listens."""

from __future__ import annotations

import pytest

from graftbox.cli.mirror import address
from graftbox.errors import UsageError


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:5055", ("127.0.0.1", 5055, True)),
        ("localhost:0", ("localhost", 0, True)),
        ("[::1]:80", ("::1", 80, True)),
    ],
)
def test_loopback_needs_no_permission(listen: str, expected: tuple[str, int, bool]) -> None:
    assert address(listen, allow_remote=False) == expected
    assert address(listen, allow_remote=True) == (*expected[:2], False), "a proxy may stand in front"


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:5055", "[::]:5055", ":5055", "host.example:1", "127.a.evil.example:1", "127.0.0.1.evil:1"],
)
def test_other_addresses_do(listen: str) -> None:
    with pytest.raises(UsageError, match="--allow-remote"):
        address(listen, allow_remote=False)
    assert address(listen, allow_remote=True)[2] is False


@pytest.mark.parametrize("listen", ["5055", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        address(listen, allow_remote=True)
