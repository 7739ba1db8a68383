"""Write docs/troubleshooting.md: symptoms, and every message that the code raises, found in its source.

    python docs/generate_errors.py

Text between braces in a message depends on the case.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ("keras_spatial", "keras_spatial_command", "datasets", "components", "pipelines")
# The part that is written by hand: the symptoms.
HEAD = ROOT / "docs" / "troubleshooting.part.md"

# What a user was doing, and the modules whose messages appear then. The longest prefix decides.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Importing, meshes and layouts": (
        "keras_spatial/__init__",
        "keras_spatial/_environment",
        "keras_spatial/mesh",
        "keras_spatial/logical_cpus",
        "keras_spatial/layout",
        "keras_spatial/distribution",
        "keras_spatial/runtimes/choice",
    ),
    "Partitioning a model": (
        "keras_spatial/conversion",
        "keras_spatial/network",
        "keras_spatial/rules/",
        "keras_spatial/engine/",
        "keras_spatial/layers/",
        "keras_spatial/models/",
    ),
    "compile: losses and metrics": (
        "keras_spatial/objective/",
        "keras_spatial/losses",
        "keras_spatial/metrics",
    ),
    "fit, evaluate, predict and save": (
        "keras_spatial/",
        "keras_spatial/backup",
        "keras_spatial/runtimes/",
    ),
    "Memory and planning": ("keras_spatial/planning/", "keras_spatial/recomputation", "keras_spatial/profiling"),
    "One device for many positions": (
        "keras_spatial/runtimes/nodes",
        "keras_spatial/runtimes/program",
        "keras_spatial/runtimes/storage",
        "keras_spatial/runtimes/streaming",
    ),
    "Many processes": (
        "keras_spatial/isolation",
        "keras_spatial/launch",
        "keras_spatial/ownership",
        "keras_spatial/processes",
        "keras_spatial/runtimes/collective",
    ),
    "TPUs": ("keras_spatial/runtimes/tpu",),
    "Reading and writing volumes": ("keras_spatial/volumes/",),
    "DICOM": (
        "keras_spatial/volumes/dicom",
        "keras_spatial/volumes/pseudonyms",
        "keras_spatial/volumes/series",
    ),
    "Building a data set": ("datasets/",),
    "Reading a data set": ("keras_spatial/data/",),
    "Segmenting": ("keras_spatial/inference/",),
    "Evaluating and plotting": ("keras_spatial/evaluation/", "keras_spatial/plot", "keras_spatial/tensorboard"),
    "The command keras-spatial": ("keras_spatial_command/", "keras_spatial/commands/"),
    "Settings of a run": (
        "components/faults",
        "components/settings",
        "components/evaluate/settings",
        "components/preprocess/settings",
        "components/train/settings",
        "components/validate/",
        "pipelines/bounded_yaml",
        "pipelines/settings",
    ),
    "Running a pipeline": ("components/", "pipelines/"),
    "On a cluster": (
        "components/jobs/",
        "pipelines/cluster",
        "pipelines/submission",
    ),
}


def page() -> str:
    """The whole page as Markdown."""
    found: dict[str, dict[tuple[str, str], None]] = {title: {} for title in SECTIONS}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).with_suffix("").as_posix()
            found[section(module)] |= dict.fromkeys(messages(ast.parse(path.read_text(encoding="utf-8"))))
    lines = [HEAD.read_text(encoding="utf-8")]
    for title, all_of_it in found.items():
        lines += [f"## {title}\n", *(f"- **{kind}**: `` {message} ``" for kind, message in sorted(all_of_it)), ""]
    return "\n".join(lines)


def section(module: str) -> str:
    """The title under which a module's messages stand."""
    known = [(prefix, title) for title, prefixes in SECTIONS.items() for prefix in prefixes]
    return max((fit for fit in known if module.startswith(fit[0])), key=lambda fit: len(fit[0]))[1]


def messages(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The class and the message of every error that is made, and of warnings and refused command lines."""
    returned = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    raised = _raised(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        kind = ast.unparse(node.func)
        if kind not in _OTHERS and not kind.rpartition(".")[2].startswith(raised):
            continue
        argument = node.args[1] if kind == "Unsupported" and len(node.args) > 1 else node.args[0]
        for text in _texts(argument, returned):
            if _LITERAL.sub("", text).strip(". "):
                yield _OTHERS.get(kind, kind), " ".join(text.split())


# Calls that tell a user something without a `raise` around them.
_OTHERS = {"warnings.warn": "warning", "parser.error": "command line", "Unsupported": "UnsupportedLayer"}
_LITERAL = re.compile(r"\{.*?\}")


def _raised(tree: ast.AST) -> tuple[str, ...]:
    """The names of the classes that a module raises, and of those that it makes for other modules to raise."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    errors = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
    raised = {
        ast.unparse(n.exc.func) for n in ast.walk(tree) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)
    }
    return tuple({name for name in errors if name.endswith("Error")} | {n for n in raised if n[:1].isupper()})


def _texts(argument: ast.expr, returned: dict[str, ast.FunctionDef]) -> list[str]:
    """The text of an argument; if a function of the same file makes it, the text that the function returns."""
    if isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name) and argument.func.id in returned:
        values = [n.value for n in ast.walk(returned[argument.func.id]) if isinstance(n, ast.Return) and n.value]
        return [_text(value) for value in values]
    return [_text(argument)]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "{" + ast.unparse(node) + "}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
