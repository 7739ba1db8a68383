"""Everything to which pages, docstrings and comments refer exists: files, headings, modules, names, options,
settings.
"""

import argparse
import ast
import functools
import importlib
import importlib.util
import io
import re
import shlex
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from docs_pages import ROOT, pages, snippets
from markdown.extensions.toc import slugify

PACKAGES = ("benchmarks", "components", "datasets", "docs", "examples", "keras_spatial", "keras_spatial_command")
PACKAGES = (*PACKAGES, "pipelines", "tests")
SOURCES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
PAGES = pages()
ABOUT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# A path of the repository, however it is written: `tests/model/test_fit.py`, docs/kubeflow.md, `keras_spatial/rules/`.
_PATH = re.compile(rf"(?<![\w./~<$-])(?:{'|'.join(PACKAGES)})/[\w./-]*\w/?")
# Paths in other repositories, in the artifacts of a run, or of files that a command writes.
_ELSEWHERE = re.compile(r"benchmarks/results/|docs/site|components/[a-z]+ (?:and|or)|datasets/datasets")


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@functools.cache
def documentation(path: Path) -> tuple[tuple[int, str], ...]:
    """The lines of a page, or the docstrings and comments of a module, with their numbers."""
    text = text_of(path)
    if path.suffix == ".md":
        return tuple(enumerate(text.splitlines(), 1))
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            docstring = node.body[0]
            found += enumerate(ast.get_docstring(node, clean=False).splitlines(), docstring.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            found.append((token.start[0], token.string))
    return tuple(found)


def everything() -> Iterator[tuple[Path, int, str]]:
    for path in [*PAGES, *SOURCES]:
        for number, line in documentation(path):
            yield path, number, line


def report(missing: list[str]) -> None:
    assert not missing, "dead references:\n" + "\n".join(missing)


@functools.cache
def headings(path: Path) -> frozenset[str]:
    """The anchors of a page, as MkDocs and GitHub make them; an API page has any."""
    text = re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", title) for title in titles]
    return frozenset(slugify(title, "-") for title in plain)


def links(path: Path) -> Iterator[tuple[int, str]]:
    """The targets of a page's links, with the numbers of their lines."""
    text = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), text_of(path), flags=re.MULTILINE | re.DOTALL)
    for match in re.finditer(r"\]\(\s*([^)\s]+)[^)]*\)|^\[[^]]+\]: *(\S+)", text, flags=re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 1, match[1] or match[2]


def is_address(target: str) -> bool:
    return target.startswith(("http:", "https:", "mailto:"))


def in_repository(target: str) -> str:
    """The path of a file of this repository whose address is given, or the target itself."""
    source = ABOUT["project"]["urls"]["Source"]
    raw = source.replace("https://github.com/", "https://raw.githubusercontent.com/")
    for address in (f"{source}/blob/main/", f"{raw}/main/"):
        if target.startswith(address):
            return f"{ROOT}/{target.removeprefix(address)}"
    return target


def test_links_of_pages_lead_somewhere():
    missing = []
    for path in PAGES:
        for line, link in links(path):
            target, _, anchor = in_repository(link).partition("#")
            if is_address(target):
                continue
            page = (path.parent / target) if target else path
            if not (ROOT / page).exists():
                missing.append(f"{path}:{line}: {link}")
            elif anchor and Path(page).suffix == ".md":
                resolved = (ROOT / page).resolve().relative_to(ROOT)
                if anchor not in headings(resolved):
                    missing.append(f"{path}:{line}: {link}, headings: {sorted(headings(resolved))}")
    report(missing)


def test_links_of_the_readme_work_where_the_package_is_listed():
    """It is the package's long description, too, beside which there are no files."""
    readme = Path(ABOUT["project"]["readme"])
    report([f"{readme}:{line}: {link}" for line, link in links(readme) if not is_address(link)])


def test_files_that_are_named_exist():
    missing = []
    for path, number, line in everything():
        for match in _PATH.finditer(line):
            name = match[0].rstrip(".")
            if _ELSEWHERE.match(line[match.start() :]) or "://" in line[: match.start()][-60:].rpartition(" ")[2]:
                continue
            place = path.parent if path.suffix == ".md" else Path()
            if not any((ROOT / base / name).exists() for base in (Path(), place)):
                missing.append(f"{path}:{number}: {name}")
    report(missing)


def test_modules_that_are_run_exist():
    missing = []
    for path, number, line in everything():
        for name in re.findall(r"python -m ([\w.]+\w)", line):
            try:
                found = importlib.util.find_spec(name)
            except ModuleNotFoundError:
                found = None
            if found is None:
                missing.append(f"{path}:{number}: python -m {name}")
    report(missing)


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one, or of a class."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            annotated = {n for c in getattr(value, "__mro__", ()) for n in vars(c).get("__annotations__", {})}
            if not hasattr(value, part):
                return part in annotated
            value = getattr(value, part)
        return True
    return False


def test_names_of_the_package_exist():
    missing = []
    own = r"keras_spatial|keras_spatial_command|components|pipelines|datasets|benchmarks"
    for path, number, line in everything():
        for span in re.findall(r"`([^`]+)`", line):
            for name in re.findall(rf"(?<![\w./-])((?:ks|{own})(?:\.[A-Za-z_]\w*)+)(?![\w/-])", span):
                if name.endswith((".py", ".toml", ".yaml", ".json", ".pause", ".keras")):
                    continue
                if not resolves(re.sub(r"^ks\.", "keras_spatial.", name)):
                    missing.append(f"{path}:{number}: {name}")
    report(missing)


def commands() -> Iterator[tuple[Path, int, list[str]]]:
    """The commands of pages: lines of snippets without a language, and what stands in backticks."""
    programs = r"(?:python -m (?:pipelines|keras_spatial|benchmarks)|keras-spatial |pytest |(?<=^ )make )"
    for path in PAGES:
        text = text_of(path)
        found = [(s.line, re.sub(r" *\\\n *", " ", s.text)) for s in snippets(text) if s.language in ("", "sh", "bash")]
        inline = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
        found += [(inline.count("\n", 0, m.start()) + 1, m[1]) for m in re.finditer(r"`([^`]+)`", inline)]
        for number, block in found:
            for line in block.splitlines():
                match = re.search(rf"(?:^|[\s=])({programs}.*)", f" {line}")
                if match:
                    words = match[1].replace("<", "").replace(">", "").replace("[", "").replace("]", "")
                    yield path, number, shlex.split(words, comments=True)


def options(words: list[str]) -> set[str] | None:
    """The options of a command, or None if they belong to another program."""
    if words[0] == "keras-spatial":
        words = ["python", "-m", "keras_spatial_command", *words[1:]]
    if words[0] != "python":
        return None
    module = words[2]
    if module == "pipelines":
        from pipelines.__main__ import main

        sub = main.commands.get(words[3]) if len(words) > 3 else None
        parameters = [] if sub is None else sub.params
        return {o for p in parameters if isinstance(p, click.Option) for o in p.opts} | {"--help", "-h"}
    if module == "keras_spatial_command":
        from keras_spatial_command.arguments import parser

        return strings(parser(), words[3] if len(words) > 3 else "")
    spec = importlib.util.find_spec(module) if "name" not in module else None  # `benchmarks.<name>` stands for all.
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin)
    if source.name == "__init__.py":
        source = source.with_name("__main__.py")
    calls = [n for n in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    added = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "add_argument"]
    shared = {"--save"} if any(isinstance(c.func, ast.Name) and c.func.id == "parser_of" for c in calls) else set()
    return {a.value for c in added for a in c.args if isinstance(a, ast.Constant)} | shared | {"--help"}


def strings(parser: argparse.ArgumentParser, command: str) -> set[str]:
    """The options of a subcommand, or of the command itself."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction) and command in action.choices:
            found |= strings(action.choices[command], "")
    return found


def test_options_of_commands_exist():
    missing = []
    for path, number, words in commands():
        known = options(words)
        # Options after a program that a launcher starts belong to that program.
        end = next((i for i, w in enumerate(words) if w.endswith(".py")), len(words))
        given = {w.partition("=")[0] for w in words[:end] if re.match(r"--?[a-z]", w)} - {"-m"}
        if known is not None and given - known:
            missing.append(f"{path}:{number}: {' '.join(words)}: {sorted(given - known)}")
    report(missing)


def test_settings_of_commands_exist_and_are_accepted():
    from pipelines.settings import SettingsError, load

    missing = []
    for path, number, words in commands():
        given = [words[i + 1] for i, w in enumerate(words[:-1]) if w == "--set"]
        try:
            load(None, [g for g in given if "=" in g])
        except SettingsError as error:
            missing.append(f"{path}:{number}: {error}")
    report(missing)


def test_settings_in_tables_and_text_exist():
    """`name=value` in backticks, where the name looks like a setting of the pages on the pipelines."""
    from pipelines.cluster import Cluster
    from pipelines.settings import Settings

    known = {*Settings.model_fields, *Cluster.model_fields}
    missing = []
    for name in ("guides/training.md", "guides/own_model.md", "guides/fine_tune.md", "guides/reading_a_run.md"):
        for number, line in documentation(Path("docs") / name):
            for span in re.findall(r"`([a-z_]+)=[^`(]*`", line):
                if span not in known | {"keep", "extras"}:
                    missing.append(f"docs/{name}:{number}: {span}")
    report(missing)


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    used = {(path, number, words[1]) for path, number, words in commands() if words[0] == "make" and len(words) > 1}
    report(
        [f"{path}:{number}: make {t}" for path, number, t in used if re.fullmatch("[a-z-]+", t) and t not in targets]
    )


def test_variables_of_the_environment_are_read():
    code = "\n".join(text_of(p) for p in SOURCES if p.parts[0] not in ("docs", "tests")) + text_of(Path("Makefile"))
    code += "\n".join(text_of(p) for p in SOURCES if p.parts[:2] == ("tests", "fuzz"))
    missing = []
    for path in PAGES:
        for number, line in documentation(path):
            for name in re.findall(r"\bKERAS_SPATIAL_[A-Z_]*[A-Z]\b", line):
                if name not in code:
                    missing.append(f"{path}:{number}: {name}")
    report(missing)


def test_extras_exist():
    extras = set(ABOUT["project"]["optional-dependencies"])
    missing = []
    for path in PAGES:
        for number, line in documentation(path):
            for names in re.findall(r"(?:\.|keras-spatial)\[([a-z,]+)\]", line):
                missing += [f"{path}:{number}: [{e}]" for e in names.split(",") if e not in extras]
            missing += [f"{path}:{number}: {e}" for e in re.findall(r"`([a-z]+)` extra", line) if e not in extras]
    report(missing)


@pytest.mark.parametrize("name", ["ks.no_such_name", "keras_spatial.model.NoSuchClass"])
def test_a_dead_name_is_found(name):
    assert not resolves(re.sub(r"^ks\.", "keras_spatial.", name))
