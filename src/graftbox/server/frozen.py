"""The program that PyInstaller makes of the server: the server, or under the name ``python…`` an interpreter.

The server starts parts of itself as ``sys.executable -ISB file.py``; pip, multiprocessing and users in a cell
do likewise. A frozen program has no interpreter beside it, hence this one: it takes CPython's options and
runs ``-c``, ``-m``, a file, or its standard input. Options that count before CPython starts are ignored.
"""

from __future__ import annotations

import os
import sys
from os.path import realpath
from types import CodeType, ModuleType

_NAMES = ("/openhands/libexec/python3.13", "{home}/python")
"""Where this program is called a Python: in the bundle, else beside its own files."""
_VALUES = "XWcm"
"""Options that take a value, which may follow in the next word."""


def main(argv: list[str]) -> int:
    """Run as what the name in ``argv`` says; returns the exit code."""
    restore_environment()
    if hasattr(sys, "frozen"):
        del sys.frozen  # multiprocessing would call a program that is no interpreter
    own = realpath(sys.executable)
    names = (name.format(home=_home()) for name in _NAMES)
    sys.executable = next((name for name in names if realpath(name) == own), own)
    if argv[0].rpartition("/")[2].startswith("python"):
        return interpret(argv[1:])
    from graftbox.server.main import main as serve

    return serve(argv[1:])


def _home() -> str:
    """The folder with what PyInstaller has collected."""
    return str(getattr(sys, "_MEIPASS", ""))


def restore_environment() -> None:
    """Make ``os.environ`` again what this process was given; the bootloader adds and drops variables."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            entries = file.read().split(b"\0")
    except OSError:
        entries = [b"=".join(entry) for entry in os.environb.items() if not entry[0].startswith(b"_PYI_")]
    given: dict[bytes, bytes] = {}
    for entry in entries:
        name, equals, value = entry.partition(b"=")
        if name and equals:
            given.setdefault(name, value)
    for name in [name for name in os.environb if name not in given]:
        del os.environb[name]
    for name, value in given.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


class Options:
    """CPython's command line. ``kind``: ``c``, ``m``, ``file`` or ``input``, with what that option names."""

    def __init__(self, words: list[str]) -> None:
        self.flags = ""
        self.warnings: list[str] = []
        self.kind = self.what = ""
        self.rest = list(words)
        while not self.kind and self.rest and self.rest[0].startswith("-") and self.rest[0] != "-":
            self._take(self.rest.pop(0))
        if not self.kind:
            self.kind = "file" if self.rest and self.rest[0] != "-" else "input"
            self.what = self.rest.pop(0) if self.rest else ""

    def _take(self, word: str) -> None:
        """Understand one word of options, with the next one if that is its value."""
        if word.startswith("--"):
            self.flags += {"--version": "V", "--help": "h"}.get(word, "")
            return
        for index, letter in enumerate(word[1:], 2):
            if letter not in _VALUES:
                self.flags += letter
                continue
            value = word[index:] or (self.rest.pop(0) if self.rest else "")
            if letter == "W":
                self.warnings.append(value)
            elif letter != "X":
                self.kind, self.what = letter, value
            return

    def has(self, letters: str) -> bool:
        """Whether one of these was given; ``I`` stands for ``E``, ``P`` and ``s``, as in CPython."""
        given = set(self.flags + ("EPs" if "I" in self.flags else ""))
        return not given.isdisjoint(letters)


def interpret(words: list[str]) -> int:
    """What ``python WORDS`` does; returns the exit code unless a `SystemExit` says it."""
    options = Options(words)
    if options.has("V"):
        print(f"Python {sys.version.split()[0]}")
        return 0
    if options.has("h?"):
        print(f"usage: {sys.executable} [option] ... [-c cmd | -m mod | file | -] [arg] ...")
        return 0
    _prepare(options)
    try:
        _run(options)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        _die_of_interrupt()
    except Exception as error:
        # Without our own frames; the bootloader would add a message about itself.
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals is globals():
            frames = frames.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        return 1
    return 0


def _prepare(options: Options) -> None:
    if options.has("B"):
        sys.dont_write_bytecode = True
    if options.has("u"):
        for stream in (sys.stdout, sys.stderr):
            getattr(stream, "reconfigure")(write_through=True)  # noqa: B009 - not every stream is a TextIOWrapper
    if options.warnings:
        import warnings

        sys.warnoptions += options.warnings
        for each in options.warnings:
            warnings._setoption(each)  # type: ignore[attr-defined]  # what the interpreter does
    if not options.has("E"):
        sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(":"))
    if not options.has("S"):
        _prepare_site(own_packages=not options.has("s"))
    if not options.has("P"):
        sys.path.insert(0, _first_folder(options))


def _first_folder(options: Options) -> str:
    """What CPython puts first on ``sys.path``."""
    if options.kind == "file":
        return realpath(options.what).rpartition("/")[0]
    return os.getcwd() if options.kind == "m" else ""  # noqa: PTH109 - pathlib is slow to import


def _prepare_site(*, own_packages: bool) -> None:
    """What the module site does at a start: ``exit`` and the like, and the packages of the user."""
    import site

    site.setquit()
    site.sethelper()
    site.ENABLE_USER_SITE = own_packages
    if own_packages:
        site.addusersitepackages(set())


def _run(options: Options) -> None:
    if options.kind == "m":
        import runpy

        sys.argv = ["-m", *options.rest]
        runpy._run_module_as_main(options.what)  # type: ignore[attr-defined]  # what the interpreter calls
        return
    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    if options.kind == "c":
        sys.argv = ["-c", *options.rest]
        code = compile(options.what, "<string>", "exec", dont_inherit=True)
    elif options.kind == "file":
        sys.argv = [options.what, *options.rest]
        module.__file__ = options.what
        code = _code_of(options.what)
    else:
        sys.argv = [options.what, *options.rest]
        if sys.stdin.isatty():
            import code as console

            console.interact(local=module.__dict__)
            return
        code = compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True)
    exec(code, module.__dict__)


def _code_of(path: str) -> CodeType:
    """The code of a script; that of what is frozen, the server's and plugins', is compiled in the archive."""
    home = _home()
    if home and path.startswith(f"{home}/") and path.endswith(".py"):
        from importlib.util import find_spec

        name = path[len(home) + 1 : -3].replace("/", ".")
        found = find_spec(name)
        get_code = getattr(found and found.loader, "get_code", None)
        code: CodeType | None = get_code(name) if get_code else None
        if code is not None:
            return code
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
        return compile(file.read(), path, "exec", dont_inherit=True)


def _die_of_interrupt() -> None:
    """End as a program does that SIGINT has killed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
