"""Write the tables of docs/layers.md and docs/conformance.md from the table that tests/conformance checks.

python docs/generate_layer_table.py          # from the repository root
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / "layers.md", ROOT / "docs" / "conformance.md"]
MARKS = r"(<!-- table: (\S+) begin -->).*?(<!-- table: \2 end -->)"


def tables() -> dict[str, str]:
    """Every table as Markdown, by the name that stands at its marks."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from conformance.table import activations, fitting, layers, objectives, operations

    return {
        "layers": table(layers.LAYERS),
        "activations": table(activations.ACTIVATIONS),
        "operations": table(operations.OPERATIONS),
        "losses": table(objectives.LOSSES),
        "metrics": table(objectives.METRICS),
        "optimizers": table(fitting.OPTIMIZERS),
        "schedules": table(fitting.SCHEDULES),
        "callbacks": table(fitting.CALLBACKS),
        "fit": table(fitting.FIT),
        "compile": table(fitting.COMPILE),
        "evaluate": table(fitting.EVALUATE),
        "predict": table(fitting.PREDICT),
        "regularizers": table(fitting.REGULARIZERS),
        "constraints": table(fitting.CONSTRAINTS),
        "initializers": table(fitting.INITIALIZERS),
        "dtypes": table(fitting.DTYPES),
    }


def table(entries: dict) -> str:
    """A table with a row for each name: what is promised about it, and the cases that are compared or the reason."""
    lines = ["| name | on a mesh | compared, or why |", "| --- | --- | --- |"]
    for name in sorted(entries, key=str.lower):
        status, words = row(entries[name])
        lines.append(f"| `{name}` | {status} | {words} |")
    return "\n".join(lines)


def row(entry) -> tuple[str, str]:
    """The second and third cell of a name's row."""
    from conformance.table.statuses import Equal, NotConcerned, Refused, Replicated

    if isinstance(entry, Equal):
        words = ", ".join(entry.cases)
        words += "".join(f"; refused: {r.reason[0].lower()}{r.reason[1:].rstrip('.')}" for r in entry.refused.values())
        return "equal", f"{words}; {entry.note}" if entry.note else words
    if isinstance(entry, Replicated):
        return "replicated", entry.reason
    if isinstance(entry, Refused):
        return "refused", entry.reason
    assert isinstance(entry, NotConcerned)
    return "not concerned", entry.reason


def updated(page: str) -> str:
    """The page with fresh tables between its marks.

    Raises:
        KeyError: if a mark names no table.
    """
    known = tables()
    return re.sub(MARKS, lambda m: f"{m[1]}\n{known[m[2]]}\n{m[3]}", page, flags=re.DOTALL)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(updated(path.read_text()))
