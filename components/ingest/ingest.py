"""Checking every voxel of every case before anything is computed from it."""

import csv
import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.files import write_json
from components.resume import link_or_copy
from datasets.lits.cases import BadCasesError, Case, check_case, find_cases
from keras_spatial.volumes import VolumeError


@dataclass(frozen=True)
class BadCase:
    """A case that cannot be used: the class of the error names the kind of fault, the reason the file."""

    case: str
    error: str
    reason: str


def ingest_volumes(
    data: str, cases: str, quarantine: str, *, on_bad_case: str = "skip"
) -> Mapping[str, Mapping[str, Any]]:
    """Check the cases of a folder, and collect the usable ones.

    Args:
        data: folder with volume-N.nii[.gz] and segmentation-N.nii[.gz], or in the Decathlon's layout.
        cases: folder to make, with the files of the usable cases (hard links where possible) and `index.json`.
        quarantine: HTML file to write, a table of the bad cases; the same as CSV lies beside the index.
        on_bad_case: "skip" leaves bad cases out, "raise" ends the step after every case was checked.

    Returns:
        Metadata of both outputs: the numbers of usable and bad cases.

    Raises:
        VolumeError: if no case is usable, or one is bad and `on_bad_case` is "raise".
    """
    if on_bad_case not in ("skip", "raise"):
        raise ValueError(f'on_bad_case: expected "skip" or "raise". Received: {on_bad_case!r}')
    good, bad = _check(find_cases(data))
    target = Path(cases)
    target.mkdir(parents=True, exist_ok=True)
    _write_table(Path(quarantine), target / "quarantine.csv", len(good), bad)
    if bad and (on_bad_case == "raise" or not good):
        lines = "\n".join(f"  {b.case}: {b.error}: {b.reason}" for b in bad)
        remedy = "Repair or remove them" + (", or set on_bad_case=skip" if good else "")
        raise BadCasesError(f"{data}: {len(bad)} of {len(good) + len(bad)} cases cannot be used. {remedy}:\n{lines}")
    for case in good:
        for part, path in (("volume", case.volume), ("segmentation", case.segmentation)):
            suffix = ".nii.gz" if path.name.endswith(".gz") else ".nii"
            link_or_copy(path.resolve(), target / f"{part}-{case.number}{suffix}")
    write_json(target / "index.json", {"cases": [case.number for case in good], "bad": [vars(b) for b in bad]})
    counts = {"usable": len(good), "bad": len(bad)}
    print(f"ingest: {len(good)} usable cases, {len(bad)} in quarantine", flush=True)
    return {"cases": {**counts, "source": str(data)}, "quarantine": counts}


def _check(found: list[Case]) -> tuple[list[Case], list[BadCase]]:
    good, bad = [], []
    for number, case in enumerate(found, start=1):
        try:
            check_case(case.volume, case.segmentation)
        except VolumeError as error:
            bad.append(BadCase(case.name, type(error).__name__, str(error)))
            print(f"ingest: {number}/{len(found)} {case.name} is bad: {error}", flush=True)
        else:
            good.append(case)
            print(f"ingest: {number}/{len(found)} {case.name} is usable", flush=True)
    return good, bad


def _write_table(page: Path, table: Path, usable: int, bad: list[BadCase]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "error", "reason"])
        writer.writerows([b.case, b.error, b.reason] for b in bad)
    rows = "".join(
        f"<tr><td>{html.escape(b.case)}</td><td>{html.escape(b.error)}</td><td>{html.escape(b.reason)}</td></tr>\n"
        for b in bad
    )
    body = f"<table><tr><th>case</th><th>error</th><th>reason</th></tr>\n{rows}</table>" if bad else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Quarantine</title>'
        "<style>body{font-family:sans-serif}td,th{border:1px solid #999;padding:.3em;text-align:left}</style>"
        f"<h1>Cases put aside</h1><p>{usable} usable, {len(bad)} bad.</p>{body}</html>\n",
        encoding="utf-8",
    )
