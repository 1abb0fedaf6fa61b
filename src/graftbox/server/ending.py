"""That a child process has ended, heard of by the event loop; it is left for its owner to reap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading


async def end_of(pid: int) -> None:
    """Returns when the child has ended, or has been reaped already."""
    loop = asyncio.get_running_loop()
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        await _waited_for(pid)
        return
    over = asyncio.Event()
    loop.add_reader(file, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(file)
        os.close(file)


async def exit_of(pid: int) -> int:
    """The status of a child that nobody else reaps when it has ended, minus the signal if one ended it."""
    await end_of(pid)
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert info is not None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def _waited_for(pid: int) -> asyncio.Future[None]:
    """As waitid(2) says, on a thread of its own: before Linux 5.3 there is no file that tells of it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not future.done():
            future.set_result(None)

    def wait() -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=wait, daemon=True, name=f"waits-for-{pid}").start()
    return future
