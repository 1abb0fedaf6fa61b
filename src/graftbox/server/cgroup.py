"""How much memory, how many processes and processors there may be: control groups, v1 and v2, and rlimits.

A limit may be set on any group from the container's own up to the root; the tightest counts. Numbers that the
kernel does not tell are None.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def text(path: str | Path) -> str:
    """A small file's content, empty where it can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def memory() -> dict[str, int | None]:
    """Bytes: ``limit_bytes`` None without one, ``used_bytes`` by the container, ``available_bytes`` to it.

    Page cache that can be given back does not count as used.
    """
    machine = {
        parts[0].rstrip(":"): int(parts[1]) * 1024
        for line in text("/proc/meminfo").splitlines()
        if len(parts := line.split()) == 3
    }
    available, limit, used = machine.get("MemAvailable"), None, None
    for folder, version in _groups("memory"):
        names = (
            ("memory.max", "memory.current")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        most, now = (_number(folder / name) for name in names)
        if now is not None:
            now = max(0, now - _cache(folder))
            used = now if used is None else used
        # Without a limit, version 1 says the largest multiple of a page.
        if most is not None and most < 2**60:
            limit = most if limit is None else min(limit, most)
            left = max(0, most - (now or 0))
            available = left if available is None else min(available, left)
    return {"limit_bytes": limit, "used_bytes": used, "available_bytes": available}


def _cache(folder: Path) -> int:
    for line in text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def processes() -> dict[str, int | None]:
    """Processes and threads: ``limit`` None without one."""
    import resource

    limit, used = None, None
    for folder, _ in _groups("pids"):
        most, now = _number(folder / "pids.max"), _number(folder / "pids.current")
        if most is not None and (limit is None or most - (now or 0) < limit - (used or 0)):
            limit, used = most, now
        elif used is None:
            used = now
    mine = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    # Root's processes are not counted against it.
    if os.geteuid() != 0 and mine != resource.RLIM_INFINITY and (limit is None or mine < limit):
        limit, used = mine, _threads_of(os.geteuid())
    return {"limit": limit, "used": used}


def _threads_of(uid: int) -> int:
    """How many threads that we can see count against the user's limit."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/status"):
        lines = dict(line.split(":", 1) for line in text(entry).splitlines() if ":" in line)
        if lines.get("Uid", "").split()[:1] == [str(uid)]:
            count += int(lines.get("Threads", "1"))
    return count


def cpus() -> float:
    """Processors that may be used at a time."""
    count = float(len(os.sched_getaffinity(0)))
    for folder, version in _groups("cpu"):
        if version == 2:
            quota, _, period = text(folder / "cpu.max").partition(" ")
        else:
            quota, period = text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit() and int(period):
            count = min(count, int(quota) / int(period))
    return count


def _groups(controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of this process's groups, its own first, and the version they are of."""
    for line in text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, version = ROOT, 2
        elif controller in controllers.split(","):
            top, version = ROOT / controllers, 1
        else:
            continue
        # Version 1 names the group as the host sees it, but shows the container's own at the top.
        folder = top / path.lstrip("/")
        while folder != top:
            if folder.is_dir():
                yield folder, version
            folder = folder.parent
        yield top, version


def _number(path: Path) -> int | None:
    found = text(path).strip()
    return int(found) if found.isdigit() else None
