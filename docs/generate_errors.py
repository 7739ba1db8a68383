"""Write docs/troubleshooting.md: every error message that the package raises, found in its source.

    python docs/generate_errors.py

What stands between braces in a message depends on the case.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ("keras_spatial", "keras_spatial_command", "datasets", "components", "pipelines")
HEAD = """# Troubleshooting

Every message that the code raises, by the file that raises it; search this page for the words that do not change.
Written by `docs/generate_errors.py` from the source. Messages say what was received, what was expected and what to do.

## Not an error, but slow

TensorFlow leaves oneDNN off on CPUs without AVX-512. Import `keras_spatial` before TensorFlow, or set
`TF_ENABLE_ONEDNN_OPTS=1`: the package warns if it came too late.
"""


def page() -> str:
    lines = [HEAD]
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found = list(dict.fromkeys(messages(ast.parse(path.read_text(encoding="utf-8")))))
            if found:
                lines.append(f"## {path.relative_to(ROOT)}\n")
                lines += [f"- **{kind}**: `` {message} ``" for kind, message in found]
                lines.append("")
    return "\n".join(lines)


def messages(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The class and the message of every error that is made, and of warnings and refused command lines."""
    returned = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        kind = ast.unparse(node.func)
        if kind not in _OTHERS and not kind.rpartition(".")[2].startswith(_raised(tree)):
            continue
        argument = node.args[1] if kind == "Unsupported" and len(node.args) > 1 else node.args[0]
        for text in _texts(argument, returned):
            if _LITERAL.sub("", text).strip(". "):
                yield _OTHERS.get(kind, kind), " ".join(text.split())


# What tells a user something without a `raise` around it.
_OTHERS = {"warnings.warn": "warning", "parser.error": "command line", "Unsupported": "UnsupportedLayer"}
_LITERAL = re.compile(r"\{.*?\}")


def _raised(tree: ast.AST) -> tuple[str, ...]:
    """The names of the classes that a module raises, and of what it makes for others to raise."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    errors = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
    raised = {
        ast.unparse(n.exc.func) for n in ast.walk(tree) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)
    }
    return tuple({name for name in errors if name.endswith("Error")} | {n for n in raised if n[:1].isupper()})


def _texts(argument: ast.expr, returned: dict[str, ast.FunctionDef]) -> list[str]:
    """An argument's text; of a function of the same file that makes it, what that returns."""
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
