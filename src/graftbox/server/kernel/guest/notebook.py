"""Runs cells on a foreign interpreter that has no IPython, as IPython would.

Runs on Python 3.6, with nothing but the standard library.
"""

import ast
import base64
import inspect
import io
import linecache
import os
import re
import shlex
import subprocess
import sys
import time
import traceback
import types
from typing import Any, Dict, List

# ruff: noqa: UP006, UP031, UP035, PTH100, PTH109, PTH111, PTH118, PTH120, PTH123 - for Python 3.6
_KINDS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
)
_NAME = "Cell In[1]"
_AWAIT = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
_RULE = "-" * 75
_NOTE = "Note: you may need to restart the kernel to use updated packages."


class Notebook:
    """Cells in the namespace of the module ``user``."""

    def __init__(self, user: types.ModuleType, channel: Any) -> None:
        self.user, self.channel = user, channel

    def run(self, code: str) -> bool:
        raise NotImplementedError

    def explain(self, error: BaseException) -> None:
        raise NotImplementedError

    def show_figures(self) -> None:
        """The figures that matplotlib has drawn, as pictures."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or pyplot.get_backend().lower() != "agg":
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            picture = io.BytesIO()
            figure.savefig(picture, format="png", bbox_inches="tight")
            data = {"text/plain": repr(figure), "image/png": base64_text(picture.getvalue())}
            self.channel.emit("display", data=data)
        pyplot.close("all")


class Plain(Notebook):
    """Displays the value of a cell's last line, knows ``!command`` and the most used magics."""

    def __init__(self, user: types.ModuleType, channel: Any) -> None:
        super().__init__(user, channel)
        self.loop = None  # type: Any
        self.hidden = {}  # type: Dict[str, Any]
        user.__dict__.update(display=self.display, get_ipython=lambda: self, exit=self._exit, quit=self._exit)

    def run(self, code: str) -> bool:
        try:
            if code.lstrip().startswith("%%"):
                return self._cell_magic(code.lstrip())
            self._execute(self._translated(code))
            return True
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.explain(error)
            return False

    def _execute(self, code: str) -> None:
        linecache.cache[_NAME] = (len(code), None, code.splitlines(True), _NAME)
        tree = ast.parse(code, _NAME)
        last = tree.body[-1] if tree.body else None
        shown = isinstance(last, ast.Expr) and not code.rstrip().endswith(";")
        if shown:
            tree.body.pop()
        self._evaluate(compile(tree, _NAME, "exec", _AWAIT, True))
        if shown and isinstance(last, ast.Expr):
            value = self._evaluate(compile(ast.Expression(last.value), _NAME, "eval", _AWAIT, True))
            if value is not None:
                self.user.__dict__["_"] = value
                self.channel.emit("result", data=bundle(value))

    def _evaluate(self, code: types.CodeType) -> Any:
        value = eval(code, self.user.__dict__)
        if code.co_flags & getattr(inspect, "CO_COROUTINE", 0):
            import asyncio

            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self.loop)
            return self.loop.run_until_complete(value)
        return value

    def _translated(self, code: str) -> str:
        """Magics and commands as calls; what is Python already stays as it is."""
        try:
            compile(code, _NAME, "exec", _AWAIT | ast.PyCF_ONLY_AST, True)
            return code
        except SyntaxError:
            return "\n".join(_translated_line(line) for line in code.split("\n"))

    def display(self, *values: Any, **options: Any) -> None:
        for value in values:
            data = value if options.get("raw") else bundle(value)
            self.channel.emit("display", data=data, display_id=options.get("display_id"))

    def explain(self, error: BaseException) -> None:
        name = type(error).__name__
        text = str(error)
        self.channel.emit("error", name=name, value=text, traceback=_explained(error))

    # What a translated line calls, by way of get_ipython().

    def system(self, command: str) -> None:
        """Run it in the base image's shell; its output is part of the cell."""
        subprocess.call(_expanded(command, sys._getframe(1)), shell=True)

    def getoutput(self, command: str) -> List[str]:
        command = _expanded(command, sys._getframe(1))
        done = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.communicate()[0].decode("utf-8", "replace").splitlines()

    def run_line_magic(self, name: str, line: str) -> Any:
        method = getattr(self, "_magic_" + name, None)
        if method is None:
            raise NameError("Line magic function `%%%s` not found." % name)
        return method(line)

    def _magic_pip(self, line: str) -> None:
        subprocess.call([sys.executable, "-m", "pip", *shlex.split(line)])
        self.channel.settle()
        print(_NOTE)
        import importlib

        importlib.invalidate_caches()

    def _magic_cd(self, line: str) -> None:
        os.chdir(os.path.expanduser(line.strip().strip("'\"") or "~"))
        print(os.getcwd())

    def _magic_pwd(self, line: str) -> str:
        return os.getcwd()

    def _magic_matplotlib(self, line: str) -> None:
        pass  # figures are shown anyway

    _magic_load_ext = _magic_autoreload = _magic_colors = _magic_config = _magic_matplotlib

    def _magic_env(self, line: str) -> Any:
        if not line.strip():
            return dict(os.environ)
        name, given, value = line.strip().replace(" ", "=", 1).partition("=")
        if given:
            os.environ[name] = value.strip()
            return None
        return os.environ.get(name)

    def _magic_time(self, line: str) -> None:
        wall, cpu = time.time(), time.process_time()
        self._execute(line)
        print("CPU times: total: %.3g s\nWall time: %.3g s" % (time.process_time() - cpu, time.time() - wall))

    def _magic_timeit(self, line: str) -> None:
        import timeit

        timer = timeit.Timer(re.sub(r"^(\s*-\w+(\s+\d+)?)+\s+", "", line), globals=self.user.__dict__)
        count = 1
        while timer.timeit(count) < 0.1 and count < 10**7:
            count *= 10
        runs = [each / count for each in timer.repeat(5, count)]
        print("%s s per loop (best of 5 runs, %d loops each)" % ("%.3g" % min(runs), count))

    def _cell_magic(self, code: str) -> bool:
        head, _, body = code.partition("\n")
        words = head[2:].split(None, 1)
        name = words[0] if words else ""
        if name in ("bash", "sh", "script"):
            return subprocess.call(["bash" if name == "bash" else "sh", "-c", body]) == 0
        if name == "writefile":
            with open(words[1].strip(), "w") as stream:
                stream.write(body)
            print("Writing " + words[1].strip())
            return True
        if name == "time":
            self._magic_time(body)
        elif name == "timeit":
            self._magic_timeit(body)
        else:
            raise NameError("Cell magic `%%%%%s` not found." % name)
        return True

    def _exit(self, code: Any = None) -> None:
        raise SystemExit(code)


def _expanded(command: str, frame: types.FrameType) -> str:
    """With ``{expression}`` as its value in the cell; what has none stays."""

    def value(match: Any) -> str:
        try:
            return str(eval(match.group(1), frame.f_globals, frame.f_locals))
        except Exception:
            return str(match.group())

    return re.sub(r"\{([^{}]+)\}", value, command)


def _translated_line(line: str) -> str:
    match = re.match(r"^(\s*)(?:([\w., ]+?)\s*=\s*)?([!%])(.*)$", line)
    if match is None:
        return line
    space, target, kind, rest = match.groups()
    if kind == "!":
        call = "get_ipython().%s(%r)" % ("getoutput" if target else "system", rest.lstrip("!"))
    else:
        name, _, rest = rest.partition(" ")
        call = "get_ipython().run_line_magic(%r, %r)" % (name, rest)
    return "%s%s%s" % (space, "%s = " % target if target else "", call)


def bundle(value: Any) -> Dict[str, Any]:
    """The value in all media types that its class offers."""
    found = {}  # type: Dict[str, Any]
    many = getattr(type(value), "_repr_mimebundle_", None)
    try:
        if many is not None:
            given = many(value)
            found.update(given[0] if isinstance(given, tuple) else given)
        for name, kind in _KINDS:
            method = getattr(type(value), name, None)
            given = method(value) if method is not None and kind not in found else None
            if isinstance(given, tuple):
                given = given[0]
            if given is not None:
                found[kind] = base64_text(given) if isinstance(given, bytes) else given
    except Exception:
        print(traceback.format_exc(), file=sys.stderr)
    found.setdefault("text/plain", _plain(value))
    return found


def _plain(value: Any) -> str:
    if type(value) in (dict, list, tuple, set, frozenset) and len(repr(value)) > 79:
        import pprint

        return pprint.pformat(value)
    return repr(value)


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _explained(error: BaseException) -> str:
    """The traceback in IPython's form, without the frames of this program."""
    name = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == _NAME:
        last = traceback.format_exception_only(type(error), error)
        return "".join(["  %s, line %s\n" % (_NAME, error.lineno), *last[1:]]).rstrip("\n")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame[0] not in _OURS]
    lines = [_RULE, name + "Traceback (most recent call last)".rjust(75 - len(name))]
    for path, number, function, _ in frames:
        where = "%s, line %d" % (path, number) if path == _NAME else "File %s:%d" % (path, number)
        inside = "" if function == "<module>" else ", in %s" % function
        lines += [where + inside, *_context(path, number), ""]
    cause = "".join(traceback.format_exception_only(type(error), error)).rstrip("\n")
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    text = "\n".join([*lines, cause])
    if before is not None and before.__traceback__ is not None:
        joint = "The above exception was the direct cause of the following exception:"
        if error.__cause__ is None:
            joint = "During handling of the above exception, another exception occurred:"
        text = "%s\n\n%s\n\n%s" % (_explained(before), joint, text)
    return text


def _context(path: str, number: int) -> List[str]:
    """The lines around one, with an arrow at it."""
    count = len(linecache.getlines(path))
    shown = []
    width = len(str(min(count, number + 2)))
    for each in range(max(1, number - 2), min(count, number + 2) + 1):
        text = linecache.getline(path, each).rstrip("\n")
        mark = (
            "-" * (4 - (len(str(each)) - 1)) + "> " if each == number else " " * (6 + width - len(str(each)))
        )
        shown.append("%s%d %s" % (mark, each, text))
    return shown


_OURS = {
    os.path.join(os.path.dirname(os.path.abspath(__file__)), name) for name in ("foreign.py", "notebook.py")
}
