"""Write docs/benchmarks.md from benchmarks/results/*.json.

python docs/generate_benchmarks.py
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
sys.path.insert(0, str(ROOT))

from benchmarks.results import RESULTS  # noqa: E402

HEAD = """# Benchmarks

Ratios are ours over the peer's, from runs that took turns on the same cores, medians; below 1 ours is less. A target
is a bound on the ratio, or on our figure where there is no peer. `make bench` measures everything again except
`streaming`, which takes hours, and `hippocampus`, which needs the data of the Decathlon's Task04. No figure is from a
GPU or TPU. This page is written by `docs/generate_benchmarks.py` from `benchmarks/results/*.json`.
"""


def page() -> str:
    """The whole page as Markdown."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return "\n".join([HEAD, missed(results), *map(section, results)])


def missed(results: Sequence[Mapping]) -> str:
    """Every target that was missed, before anything else."""
    judged = [(r["name"], row) for r in results for row in r["rows"] if row["ok"] is not None]
    failed = [(name, row) for name, row in judged if not row["ok"]]
    lines = ["## What was missed\n", f"{len(failed)} of {len(judged)} targets:\n"]
    lines += ["| benchmark | figure | got | target |", "| --- | --- | --- | --- |"]
    for name, row in failed:
        got = row["ours"] if row["peer"] is None else row["ratio"]
        lines.append(f"| [{name}](#{name}) | {row['figure']} | {number(got)} | {bound(row)} |")
    return "\n".join(lines) + "\n"


def section(result: Mapping) -> str:
    """One benchmark: where it ran, and its rows."""
    machine, versions = result["machine"], result["versions"]
    tensorflow = versions.get("tensorflow") or versions.get("tensorflow-cpu")
    settings = ", ".join(filter(None, (setting(k, v) for k, v in result["settings"].items())))
    return (
        f"## {result['name']}\n\n`{result['command']}`\n\n"
        f"On {result['date']}, {machine['cores']} cores of {machine['processor']}, TensorFlow {tensorflow}, "
        f"Keras {versions['keras']}. Settings: {settings}.\n\n{table(result['rows'])}\n"
    )


def table(rows: Sequence[Mapping]) -> str:
    """The rows in Markdown, with only the columns that have entries; missed targets are in bold."""
    columns = {
        "figure": [description(row) for row in rows],
        **{name: [number(row[name]) for row in rows] for name in ("ours", "peer", "ratio")},
        "target": [verdict(row) for row in rows],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [list(shown), ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    written = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f'<div class="figures" markdown="1">\n\n{written}\n\n</div>'


def description(row: Mapping) -> str:
    """What was measured, and the note about it below."""
    return f"{row['figure']}<br>*{row['note']}*" if row.get("note") else row["figure"]


def verdict(row: Mapping) -> str:
    """A row's target, and whether it was met."""
    met = {True: "met: ", False: "**missed**: ", None: ""}[row["ok"]]
    return f"{met}{bound(row)}"


def setting(name: str, value: Any) -> str:
    """A setting in words; empty for one that is off or empty."""
    words = name.replace("_", " ")
    if value is True:
        return words
    if value is False or value is None or value in ("", []):
        return ""
    if isinstance(value, list) and all(isinstance(v, list) for v in value):
        return f"{words} " + ", ".join("x".join(map(str, v)) for v in value)
    if isinstance(value, list):
        separator = "x" if "size" in name else ", "
        return f"{words} {separator.join(map(str, value))}"
    return f"{words} {value}"


def bound(row: Mapping) -> str:
    """A row's target with its direction."""
    if row["target"] is None:
        return ""
    return f"{'at least' if row.get('smallest') else 'at most'} {number(row['target'])}"


def number(value: float | None) -> str:
    """A number with at most four digits, and without decimals from a thousand on."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
