"""Run the Python snippets of one page, from top to bottom in one namespace, as a reader would.

A page runs in a process of its own and in an empty folder. A snippet that cannot be run here must still compile, use
only names that the page or Python has, and only attributes and arguments that exist.

    PYTHONPATH=. python tests/docs/docs_run.py PAGE ...

writes what the snippets of pages print into the pages, where they say `<!-- printed -->`.
"""

import ast
import builtins
import contextlib
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from docs_pages import Snippet, files_needed, snippets

_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?")


def run(page: str, folder: str, output: str) -> None:
    """Run a page's snippets in a folder; what they print goes to a file.

    Raises:
        SystemExit: with status 1 if a snippet fails, or prints something else than the page says.
    """
    os.chdir(folder)
    with Path(output).open("w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["page"]
    text = Path(page).read_text(encoding="utf-8")
    exec(compile(files_needed(text), f"{page}, its files", "exec"), {"__name__": "files"})
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for snippet in snippets(text):
        try:
            if snippet.language == "python":
                printed = _run(snippet, page, namespace)
            elif snippet.printed:
                _compare(snippet, printed)
        except BaseException:
            traceback.print_exc()
            print(f"in the snippet at {page}:{snippet.line}", file=sys.stderr, flush=True)
            os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # Threads of servers that a page may have started do not end by themselves.


def _run(snippet: Snippet, page: str, namespace: dict[str, Any]) -> str:
    """Run a snippet, or check it where it cannot be run; returns what it printed."""
    code = compile("\n" * (snippet.line - 1) + snippet.text, page, "exec")
    if snippet.not_run:
        check(ast.parse(snippet.text), namespace)
        return ""
    caught = io.StringIO()
    try:
        with contextlib.redirect_stdout(caught):
            exec(code, namespace)
    finally:
        print(caught.getvalue(), flush=True)
    return caught.getvalue()


def _compare(snippet: Snippet, printed: str) -> None:
    """Compare the output with the page: words must be equal, decimal numbers may differ by a hundredth."""
    said, got = snippet.text.strip(), printed.strip()
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert checker.check_output(_NUMBER.sub("#", said), _NUMBER.sub("#", got), flags), f"printed:\n{got}\nsaid:\n{said}"
    if "..." not in said:
        for ours, theirs in zip(_NUMBER.findall(said), _NUMBER.findall(got), strict=True):
            assert abs(float(ours) - float(theirs)) <= 0.01 * abs(float(theirs)), f"printed {theirs}, said {ours}"


def check(tree: ast.Module, namespace: dict[str, Any]) -> None:
    """Import what a snippet imports, and look for its names, the attributes of modules, and the arguments of calls.

    Raises:
        NameError, AttributeError, TypeError: for the first that does not exist.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), "imports", "exec"), namespace)
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in bound | set(namespace) | set(vars(builtins)):
            raise NameError(f"name {node.id!r} is not defined on this page")
        if isinstance(node, ast.Attribute):
            _value(node, namespace, bound)
        if isinstance(node, ast.Call):
            function = _value(node.func, namespace, bound)
            if callable(function):
                _check_keywords(function, node)
    namespace.update(dict.fromkeys(bound - set(namespace)))


def _value(node: ast.expr, namespace: dict[str, Any], bound: set[str]) -> Any:
    """The value of an expression such as `ks.data.load`, or None if it is only known at run time."""
    if isinstance(node, ast.Name):
        return None if node.id in bound else namespace.get(node.id, getattr(builtins, node.id, None))
    if isinstance(node, ast.Attribute):
        of = _value(node.value, namespace, bound)
        return getattr(of, node.attr) if isinstance(of, ModuleType | type) else None
    return None


def _check_keywords(function: Any, call: ast.Call) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return
    signature.bind(*call.args, **{str(k.arg): k.value for k in call.keywords})


def record(page: str) -> None:
    """Run a page's snippets, and write into the page what they print."""
    text = Path(page).read_text(encoding="utf-8")
    exec(compile(files_needed(text), f"{page}, its files", "exec"), {"__name__": "files"})
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed, lines, moved = "", text.splitlines(keepends=True), 0
    for snippet in snippets(text):
        if snippet.language == "python":
            printed = _run(snippet, page, namespace)
        elif snippet.printed and "..." not in snippet.text:
            start, old = snippet.line - 1 + moved, snippet.text.count("\n")
            new = [f"{line.rstrip()}\n" for line in printed.strip().splitlines()]
            lines[start : start + old] = new
            moved += len(new) - old
    Path(page).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        record(sys.argv[2])
    else:
        for each in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as empty:
                place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
                command = [sys.executable, __file__, "--one", str(Path(each).resolve())]
                subprocess.run(command, check=True, cwd=empty, env=place)
