"""What the pages of one context download: into one folder, no more than allowed, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftbox.server.limits import Limits

_LEAST_FREE = 256 * 1024 * 1024
"""Bytes that are left free on the disk, or a tenth of it where that is less."""
_CLOSE = 1024 * 1024
"""Bytes by which a file may stay below the limit when writing fails."""

log = logging.getLogger("graftbox.browser")


@dataclass
class _Download:
    name: str
    size: int = 0
    waited_for: bool = False
    refused: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Downloads:
    """Told of Chromium's ``Browser.downloadWillBegin`` (`begun`) and ``Browser.downloadProgress`` (`moved`);
    ``cancel`` is called with the id of a download that goes too far, ``deny`` once there may be no more.

    ``finished``: paths of those that are complete, until somebody takes them off. ``size`` is how many bytes
    there are, or will be, ``count`` how many have begun.
    """

    def __init__(
        self, folder: str, limits: Limits, cancel: Callable[[str], None], deny: Callable[[], None]
    ) -> None:
        self.folder = folder
        self.limits = limits
        self.cancel = cancel
        self.deny = deny
        self.finished: list[str] = []
        self.size = self.count = 0
        self._running: dict[str, _Download] = {}
        self._refused: Counter[str] = Counter()
        self._example = ""

    def begun(self, event: dict[str, Any]) -> None:
        if event["guid"] in self._running:
            return  # Chromium tells it twice
        download = self._running[event["guid"]] = _Download(event.get("suggestedFilename", ""))
        self.count += 1
        if self.count == self.limits.max_downloads + 1:
            # Small ones are complete before they can be canceled.
            self.deny()
        if self.count > self.limits.max_downloads:
            most = f"a browser may download {self.limits.max_downloads} files (GRAFTBOX_MAX_DOWNLOADS)"
            self._refuse(event["guid"], download, most)

    def moved(self, event: dict[str, Any]) -> None:
        download = self._running.get(event["guid"])
        if download is None:
            return
        if event["state"] == "inProgress":
            self._look_at(event["guid"], download, event)
            return
        if event["state"] == "completed":
            path = event.get("filePath") or str(Path(self.folder, Path(download.name).name))
            self.finished.append(path)
            if download.refused:
                # It was complete before it could be canceled, and takes its place all the same.
                self.size += download.size
        elif download.size >= self.limits.download_bytes - _CLOSE:
            # The kernel let Chromium write no more of it.
            self._refuse(event["guid"], download, self._file_limit)
        else:
            self._refuse(event["guid"], download, "it broke off")
        download.over.set()
        del self._running[event["guid"]]

    @property
    def unnoticed(self) -> bool:
        """Whether one runs that nobody has waited for yet."""
        return any(not each.waited_for for each in self._running.values())

    async def wait(self, seconds: float) -> None:
        """Wait for those that run, once: one that never ends holds up one step, not all."""
        waiting = [each.over.wait() for each in self._running.values() if not each.waited_for]
        for each in self._running.values():
            each.waited_for = True
        if waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*waiting), seconds)

    def take_notes(self) -> list[str]:
        """What was canceled since the last time, and why."""
        found = []
        for reason, times in self._refused.items():
            what = f"The download {self._example} was" if times == 1 else f"{times} downloads were"
            found.append(f"{what} canceled: {reason}.")
        self._refused.clear()
        return found

    @property
    def _file_limit(self) -> str:
        return f"a file may have {self.limits.download_bytes} bytes (GRAFTBOX_DOWNLOAD_BYTES)"

    def _look_at(self, guid: str, download: _Download, event: dict[str, Any]) -> None:
        if download.refused:
            return
        size = max(int(event.get("receivedBytes", 0)), int(event.get("totalBytes", 0)), download.size)
        self.size += size - download.size
        download.size = size
        most = self.limits.download_total_bytes
        if size > self.limits.download_bytes:
            self._refuse(guid, download, self._file_limit)
        elif self.size > most:
            reason = f"a browser may download {most} bytes in all (GRAFTBOX_DOWNLOAD_TOTAL_BYTES)"
            self._refuse(guid, download, reason)
        elif _is_full(self.folder):
            self._refuse(guid, download, f"the disk of {self.folder} is nearly full")

    def _refuse(self, guid: str, download: _Download, reason: str) -> None:
        if download.refused:
            return
        download.refused = True
        self.size -= download.size
        if not self._refused:
            log.warning("The download %s is canceled: %s.", download.name, reason)
        self._refused[reason] += 1
        self._example = download.name
        self.cancel(guid)


def _is_full(folder: str) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False  # not there yet
    free = found.f_bavail * found.f_frsize
    return free < min(_LEAST_FREE, found.f_blocks * found.f_frsize // 10)
