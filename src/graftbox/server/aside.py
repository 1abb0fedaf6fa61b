"""Work that may wait for a disk, on a thread; on the event loop where no thread can be started any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def aside(
    threads: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """What ``function`` returns, in time; None: the threads of the event loop."""
    loop = asyncio.get_running_loop()
    taken = threading.Lock()

    def once() -> T:
        # An executor that could not start a thread has the work in its queue all the same, for a later one.
        if not taken.acquire(blocking=False):
            raise RuntimeError("This was done without waiting for a thread.")
        return function(*args, **kwargs)

    try:
        return loop.run_in_executor(threads, once)
    except RuntimeError:
        future: asyncio.Future[T] = loop.create_future()
        try:
            future.set_result(once())
        except Exception as error:
            future.set_exception(error)
        return future
