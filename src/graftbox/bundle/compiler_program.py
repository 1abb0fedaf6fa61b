"""Runs inside the CPython that compiles bytecode (see `bytecode`), never inside graftbox itself.

``compiler_program.py FOLDER START STEP``: compiles every STEP-th file of FOLDER from START on. ``N.src`` is a
line with the file's final path and then its source; ``N.pyc`` is the result, missing after a syntax error.

Each file is compiled in its own fork of this process, because what CPython marshals depends on which strings
were interned and how often constants are referenced: so every file meets the same interpreter, in any order.
"""

# ruff: noqa: PTH110, PTH123 - pathlib takes longer to import than most files to compile

import _imp
import marshal
import os
import sys
from importlib.util import MAGIC_NUMBER

FAILED = 255
"""Exit code of a failure that is no error of the disk; those exit with their errno."""
UNCHECKED_HASH = (1).to_bytes(4, "little")


def compiled(job: bytes) -> bytes:
    """The .pyc (PEP 552, unchecked hash) for ``path NEWLINE source``."""
    path, _, source = job.partition(b"\n")
    code = compile(source, path.decode(), "exec", dont_inherit=True, optimize=0)
    digest = _imp.source_hash(int.from_bytes(MAGIC_NUMBER[:2], "little"), source)
    return MAGIC_NUMBER + UNCHECKED_HASH + digest + marshal.dumps(code)


def run(job_file: str, result_file: str) -> int:
    """Compiles one file; returns the exit code of its process."""
    with open(job_file, "rb") as stream:
        job = stream.read()
    try:
        result = compiled(job)
    except (SyntaxError, ValueError, UnicodeDecodeError):
        return 0
    with open(result_file, "wb") as stream:
        stream.write(result)
    return 0


def main() -> None:
    folder, start, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    while os.path.exists(f"{folder}/{start}.src"):
        process = os.fork()
        if process == 0:
            status = FAILED
            try:
                status = run(f"{folder}/{start}.src", f"{folder}/{start}.pyc")
            except OSError as error:
                status = error.errno or FAILED
            finally:
                os._exit(status)
        if status := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
            sys.exit(abs(status))
        start += step


if __name__ == "__main__":
    main()
