"""The TCP ports on which something in the sandbox listens, and how a browser gets in to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftbox.server.host import OWN_PORTS

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

PORT = "port"
"""The part of the path below /v1/proxy that no plugin is called."""
_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_LISTENING = "0A"


def token(sandbox: Sandbox, port: int) -> str:
    """What lets a browser in to that port: the same for as long as the container runs. No plugin's name has
    a slash in it.
    """
    return sandbox.plugins.token(f"{PORT}/{port}")


async def listening() -> dict[int, dict[str, int]]:
    """By port and address: the number of the user that has opened it. Not this server's own ports."""
    found = await asyncio.to_thread(_read)
    return {port: found[port] for port in sorted(found) if port not in OWN_PORTS}


def describe(sandbox: Sandbox, port: int, found: dict[str, int]) -> dict[str, Any]:
    """For the API; ``found`` is empty where nothing listens."""
    path = f"/v1/proxy/{PORT}/{port}/"
    return {
        "port": port,
        "listening": bool(found),
        "addresses": sorted(found),
        "user": min(found.values()) if found else None,
        "path": path,
        "link": f"{path}?tkn={token(sandbox, port)}",
    }


def _read() -> dict[int, dict[str, int]]:
    """From the kernel's tables (proc_net_tcp.rst); one that is not there, as without IPv6, is empty."""
    found: dict[int, dict[str, int]] = {}
    for table in _TABLES:
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING:
                    address, _, port = words[1].partition(":")
                    found.setdefault(int(port, 16), {})[_address(address)] = int(words[7])
    return found


def _address(text: str) -> str:
    """An address that the kernel has written as 32-bit numbers of this machine."""
    data = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)
