"""The figures in the README are those that the benchmarks keep."""

import json
import re

import pytest
from docs_pages import ROOT

ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| (?P<ours>[^|]+) \| (?P<target>[^|]+) \| `python -m benchmarks\.(?P<name>\w+)", re.M
)
ROWS = [match.groupdict() for match in ROW.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


def _kept(name: str) -> list[dict]:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def test_the_readme_shows_figures_of_several_benchmarks():
    assert len({row["name"] for row in ROWS}) >= 4 and len(ROWS) >= 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what"])
def test_a_figure_of_the_readme_is_one_that_was_kept(row):
    kept = [value for one in _kept(row["name"]) for value in (one["ours"], one["ratio"]) if value is not None]
    for number in re.findall(r"\d+(?:\.\d+)?", row["ours"]):
        digits = len(number.partition(".")[2])
        # The kept figures have four digits themselves, so that the last one shown may be rounded either way.
        assert any(abs(value - float(number)) <= 0.5 * 10**-digits + 1e-9 for value in kept), (number, row["what"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what"])
def test_a_target_that_was_missed_is_called_missed(row):
    shown = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", row["ours"])]
    failed = [one for one in _kept(row["name"]) if one["ok"] is False]
    missed = [one["ratio"] if one["peer"] is not None else one["ours"] for one in failed]
    digits = [len(n.partition(".")[2]) for n in re.findall(r"\d+(?:\.\d+)?", row["ours"])]
    is_missed = any(abs(m - n) <= 0.5 * 10**-d + 1e-9 for m in missed for n, d in zip(shown, digits, strict=True))
    assert is_missed == ("missed" in row["target"])
