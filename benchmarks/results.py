"""The results of all benchmarks: rows as a Markdown table and, with `--save`, as JSON in `benchmarks/results/`.

A row is `{figure, ours, peer, ratio, target, ok}`. `ratio` is our figure divided by the peer's, both measured in the
same run. `target` is the largest ratio (or, if `ratio` is None, the largest value of our figure) that is good enough,
or None if the row only informs. With `smallest=True` it is the smallest one that is good enough.
"""

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "mesh-tensorflow",
    "numpy",
    "SimpleITK",
    "apache-beam",
    "tensorflow-datasets",
)


def row(
    figure: str,
    ours: float | None,
    peer: float | None = None,
    target: float | None = None,
    *,
    smallest: bool = False,
    note: str = "",
) -> dict[str, Any]:
    """Make one row of a benchmark's table.

    Args:
        figure: what was measured, with its unit, and who the peer is.
        ours: our figure; None if it could not be measured, in which case `note` says why.
        peer: the peer's figure from the same run, or None if there is no peer.
        target: the bound of the ratio, or of `ours` if there is no peer.
        smallest: whether the target is a lower bound.
        note: what a reader must know to understand the figure.
    """
    ratio = ours / peer if ours is not None and peer else None
    judged = ratio if peer is not None else ours
    ok = None
    if target is not None:
        ok = judged is not None and (judged >= target if smallest else judged <= target)
    found = {"figure": figure, "ours": _rounded(ours), "peer": _rounded(peer), "ratio": _rounded(ratio)}
    found |= {"target": target, "ok": ok}
    if smallest:
        found["smallest"] = True
    if note:
        found["note"] = note
    return found


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark's arguments. Results are kept only where `--save` is among them.

    Args:
        description: what the benchmark measures.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="Keep the results in benchmarks/results.")
    return parser


def finish(
    name: str,
    rows: Sequence[Mapping],
    settings: Mapping[str, Any],
    command: str,
    *,
    save: bool,
    folder: Path = RESULTS,
) -> None:
    """Print the table, and write `<folder>/<name>.json` if the results are to be kept.

    Args:
        name: the name of the benchmark.
        rows: the rows, made by `row`.
        settings: the settings of the benchmark.
        command: the command line that reproduces it.
        save: whether the results are kept, in place of those of an earlier run.
        folder: the folder to write to.
    """
    print(table(rows))
    if not save:
        return
    result = {
        "name": name,
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "settings": {name: value for name, value in settings.items() if name != "save"},
        "rows": list(rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")


def table(rows: Sequence[Mapping]) -> str:
    """The rows as a Markdown table, with missed targets in bold."""
    lines = ["| figure | ours | peer | ratio | target | |", "| --- | --- | --- | --- | --- | --- |"]
    for found in rows:
        bound = "" if found["target"] is None else f"{'≥' if found.get('smallest') else '≤'} {found['target']}"
        verdict = {True: "met", False: "**missed**", None: ""}[found["ok"]]
        cells = [_text(found[name]) for name in ("ours", "peer", "ratio")]
        lines.append(f"| {found['figure']} | {' | '.join(cells)} | {bound} | {verdict} |")
        if found.get("note"):
            lines[-1] = lines[-1].removesuffix(" |") + f" {found['note']} |"
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The model of the processor and the number of cores."""
    model = platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line.split(":")[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        model = models[0] if models else model
    return {"processor": model, "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """The versions of the packages that influence the figures."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
