"""Write docs/troubleshooting.md: every error message that the package raises, found in its source.

    python docs/generate_errors.py

What stands between braces in a message depends on the case.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ("keras_spatial", "datasets", "components", "pipelines")
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
    """The class and the message of every `raise Class("...")`."""
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and call.args:
            text = _text(call.args[0])
            if text.strip("{}. "):
                yield ast.unparse(call.func), " ".join(text.split())


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
