"""The file of a session's log: a header of three numbers, then a ring of bytes.

The header holds capacity, start and reserved, eight bytes each. Byte ``offset`` of the log stands at
``HEADER + offset % capacity``. ``reserved`` is raised before bytes are overwritten, so that a reader
can tell whether what it has read was still what it wanted. Nothing but C modules is imported: every
keeper (keeper.py) loads this.
"""

import posix

HEADER = 4096
LEAST = 1 << 20
"""Bytes that every ring can hold, whatever becomes of the disk."""


def create(path: str, capacity: int) -> int:
    """A new ring's file descriptor; in memory where the disk refuses even `LEAST` bytes."""
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
    try:
        descriptor = posix.open(path, flags, 0o600)
        posix.posix_fallocate(descriptor, 0, HEADER + LEAST)
    except OSError:
        descriptor, capacity = posix.memfd_create("graftbox-log", posix.MFD_CLOEXEC), LEAST
    _write_header(descriptor, max(capacity, LEAST), 0, 0)
    return descriptor


def read(descriptor: int, offset: int, size: int) -> tuple[bytes, int]:
    """``(bytes, start)``: the bytes at ``offset``, which must have been written, and the oldest offset kept.

    Where ``start`` has passed ``offset`` the bytes are not what was asked for.
    """
    capacity, _, _ = header(descriptor)
    position = offset % capacity
    data = posix.pread(descriptor, min(size, capacity - position), HEADER + position)
    if len(data) < size and capacity - position < size:
        data += posix.pread(descriptor, size - len(data), HEADER)
    now, start, reserved = header(descriptor)
    if now != capacity:
        return read(descriptor, offset, size)
    return data, max(start, reserved - capacity)


class Ring:
    """The one writer of a ring; ``end`` is the offset of the next byte. Never raises: what a full disk does
    not take leaves a hole.
    """

    def __init__(self, descriptor: int, end: int) -> None:
        self.descriptor = descriptor
        self.capacity, self.start, _ = header(descriptor)
        self.end = end

    def write(self, data: bytes) -> None:
        while len(data) > self.capacity:
            self.write(data[: self.capacity])
            data = data[self.capacity :]
        end = self.end + len(data)
        _write_header(self.descriptor, self.capacity, self.start, end)
        try:
            self._place(memoryview(data))
        except OSError:
            self._shrink(data[len(data) - (end - self.end) :], end)

    def _place(self, data: memoryview) -> None:
        while data:
            position = self.end % self.capacity
            written = posix.pwrite(self.descriptor, data[: self.capacity - position], HEADER + position)
            self.end += written
            data = data[written:]

    def _shrink(self, rest: bytes, end: int) -> None:
        """Go on within what the file has; where that is no help either, leave a hole."""
        if LEAST <= self.end < self.capacity:
            self.capacity = self.end
            self.write(rest)
        else:
            self.start = self.end = end
            _write_header(self.descriptor, self.capacity, self.start, end)


def header(descriptor: int) -> tuple[int, int, int]:
    """``(capacity, start, reserved)``."""
    data = posix.pread(descriptor, 24, 0)
    capacity, start, reserved = (int.from_bytes(data[i : i + 8], "big") for i in (0, 8, 16))
    return capacity or LEAST, start, reserved


def _write_header(descriptor: int, capacity: int, start: int, reserved: int) -> None:
    numbers = (capacity, start, reserved)
    try:  # noqa: SIM105 (contextlib is not made of C modules alone)
        posix.pwrite(descriptor, b"".join(number.to_bytes(8, "big") for number in numbers), 0)
    except OSError:
        pass  # a full disk that copies on every write
