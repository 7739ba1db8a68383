"""Find the examples in docstrings, and run those of one part of the package, each in a folder of its own."""

import ast
import contextlib
import io
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docs_run
from docs_pages import ROOT, snippets

PACKAGES = ("components", "datasets", "keras_spatial", "keras_spatial_command", "pipelines")


@dataclass(frozen=True)
class Example:
    """One example of a docstring.

    Attributes:
        owner: what it shows, such as `keras_spatial.volumes.reading.read_volume`.
        text: its code.
    """

    owner: str
    text: str

    @property
    def part(self) -> str:
        """The examples of one part, such as `keras_spatial.volumes`, run in one process."""
        package, *inner = self.owner.split(".")
        return f"{package}.{inner[0]}" if (ROOT / package / inner[0]).is_dir() else package


def examples() -> Iterator[Example]:
    """The examples of all docstrings."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield from _within(ast.parse(path.read_text(encoding="utf-8")), module)


def _within(node: ast.AST, owner: str) -> Iterator[Example]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        for snippet in snippets(ast.get_docstring(node) or ""):
            if snippet.language == "python":
                yield Example(owner, snippet.text)
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef):
            yield from _within(inner, f"{owner}.{inner.name}")
        else:
            yield from _within(inner, owner)


def run(chosen: Sequence[Example], not_run: Sequence[str], files: str, folder: str, output: str) -> None:
    """Run examples one after another, as a process of its own; what they print goes to a file.

    Args:
        chosen: the examples.
        not_run: the owners of those that are only checked.
        files: the folder of `docs_scene.write_files`.
        folder: an empty folder.
        output: the path of the file, which ends with the errors of all examples that fail.

    Raises:
        SystemExit: with status 1 if an example fails.
    """
    _log_to(output)
    import keras_spatial as ks

    # Before TensorFlow does any work: the mesh with the most devices that an example makes.
    ks.device_mesh("devices:8")
    failed = 0
    for number, example in enumerate(chosen):
        place = Path(folder) / str(number)
        place.mkdir()
        os.chdir(place)
        started = time.process_time()
        try:
            _run(example, example.owner in not_run, Path(files))
        except BaseException:
            failed += 1
            traceback.print_exc()
            print(f"in the example of {example.owner}:\n{example.text}", file=sys.stderr, flush=True)
        print(f"{example.owner}: {time.process_time() - started:.1f} s", flush=True)
    print(f"{failed} of {len(chosen)} examples failed", flush=True)
    os._exit(1 if failed else 0)


def write_files(folder: str, output: str) -> None:
    """Write the files for all examples, as a process of its own."""
    _log_to(output)
    import docs_scene

    import keras_spatial as ks

    ks.device_mesh("devices:8")
    docs_scene.write_files(folder)


def _log_to(output: str) -> None:
    with Path(output).open("w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["example"]


def _run(example: Example, only_checked: bool, files: Path) -> None:
    import docs_scene
    import keras

    import keras_spatial as ks

    tree = ast.parse(example.text)
    namespace: dict[str, Any] = {"__name__": "__main__", "ks": ks, "keras": keras}
    if only_checked:
        docs_run.check(tree, namespace)
        return
    loaded = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    namespace |= {name: docs_scene.NAMES[name]() for name in sorted(loaded & set(docs_scene.NAMES))}
    written = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    for path in {part for text in written for part in Path(text).parts[:1]} & {p.name for p in files.iterdir()}:
        (shutil.copytree if (files / path).is_dir() else shutil.copy)(files / path, path)
    # What succeeds says nothing, so that the log ends with what failed.
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(tree, example.owner, "exec"), namespace)
