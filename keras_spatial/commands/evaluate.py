"""`keras-spatial evaluate`: predicted labels against reference labels."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_spatial._paths import DICOM, LABELS, UNREAD, ending_of, printable, stem_of
from keras_spatial.commands.saying import say
from keras_spatial.evaluation import (
    Estimate,
    LabelledCase,
    LabelledSummary,
    evaluate_classes,
    summarise_classes,
    write_class_csv,
)
from keras_spatial.evaluation.classes import ABSENT
from keras_spatial.volumes import as_labels, placed_on, read_volume
from keras_spatial.volumes.dicom_files import is_dicom
from keras_spatial.volumes.place import enlarged
from keras_spatial.volumes.pseudonyms import identifiers_kept, pseudonym

_PREFIXES = ("segmentation-", "prediction-", "labels-", "label-", "volume-")
# The names of the results of `segment` for DICOM series.
_PSEUDONYM = re.compile("[0-9a-f]{16}")
# The metrics of the table on the screen.
_SHOWN = ("dice", "nsd", "rvd", "assd", "hd95", "msd")


def run(chosen: argparse.Namespace) -> int:
    """Compare the chosen files, and return the exit status."""
    if chosen.output is not None:
        _check_folder(Path(chosen.output))
    pairs, failed = _pairs(Path(chosen.predictions), Path(chosen.labels))
    cases: list[LabelledCase] = []
    names = list(chosen.classes) or _numbered(1)
    for number, (name, (predicted, reference)) in enumerate(pairs.items(), start=1):
        try:
            prediction, truth, spacing = _arrays(predicted, reference)
            if not chosen.classes:
                # If no names are given, the classes are those that occur in some case.
                names = max(names, _numbered(int(max(prediction.max(), truth.max()))), key=len)
            found = evaluate_classes(prediction, truth, spacing, names, case=name)
            cases.append(found)
            said = ", ".join(f"{c} {m.dice:.3f}" for c, m in found.classes.items() if m != ABSENT)
            say(f"{number}/{len(pairs)} {name}: Dice {said or 'of no class'}")
        # Any error, such as a lack of memory: one case must not cost the results of the others.
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {_without_names(str(error), predicted, reference)}"
            say(f"{number}/{len(pairs)} {name}: left out: {failed[name]}")
    for name, reason in failed.items():
        if name not in pairs:
            say(f"{name}: left out: {reason}")
    if not cases:
        raise ValueError("no case could be compared")
    cases = [replace(case, classes={c: case.classes.get(c, ABSENT) for c in names[1:]}) for case in cases]
    summary = summarise_classes(cases)
    _print(summary)
    if chosen.output is not None:
        _write(Path(chosen.output), cases, summary, failed)
    if failed:
        say(f"error: {len(failed)} cases could not be compared.", file=sys.stderr)
        return 1
    return 0


def _check_folder(path: Path) -> None:
    """Raise ValueError, before hours of work, unless the results can be written to this folder."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
    if not there.is_dir():
        raise ValueError(
            f"{printable(path)}: expected a folder for the results. Received: {printable(there)} is a file"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{printable(path)}: expected a folder that can be written. Received: {printable(there)}")


def _numbered(highest: int) -> list[str]:
    return ["background", *(f"class {number}" for number in range(1, highest + 1))]


def _arrays(predicted: Path, reference: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    truth = read_volume(reference)
    prediction = read_volume(predicted)
    if is_dicom(reference):
        # A DICOM segmentation may leave out slices without labels, and a prediction may have labels there.
        truth = enlarged(truth, prediction)
    placed = placed_on(prediction, truth)
    return as_labels(placed, prediction.name), as_labels(truth.array, truth.name), truth.spacing


def _pairs(predictions: Path, labels: Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """The pairs of files that belong together by name, and the names for which one of the two is missing."""
    if predictions.is_file() and labels.is_file():
        return {_shown_name(_case(predictions), predictions, labels): (predictions, labels)}, {}
    ours, theirs = _files(predictions), _files(labels)
    shown = {name: _shown_name(name, *filter(None, (ours.get(name), theirs.get(name)))) for name in {**ours, **theirs}}
    failed = {shown[name]: "a prediction without reference labels" for name in ours if name not in theirs}
    failed |= {shown[name]: "reference labels without a prediction" for name in theirs if name not in ours}
    pairs = {shown[name]: (ours[name], theirs[name]) for name in ours if name in theirs}
    if not pairs:
        raise ValueError(
            f"no prediction has the name of a reference. Received: {[shown[name] for name in ours][:5]} in "
            f"{printable(predictions)} and {[shown[name] for name in theirs][:5]} in {printable(labels)}"
        )
    return pairs, failed


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {_case(path): path}
    if not path.is_dir():
        raise ValueError(f"{printable(path)}: no such file or folder. Expected label files: {', '.join(LABELS)}")
    found: dict[str, Path] = {}
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    # Files in formats that are not read come last, so that they are named only if their case has no other file.
    for file in sorted(files, key=lambda file: not ending_of(file, LABELS)):
        if not ending_of(file, (*LABELS, *UNREAD)):
            continue
        other = found.setdefault(_case(file), file)
        if other is not file and ending_of(file, LABELS):
            case = _shown_name(_case(file), file, other)
            names = " and ".join(_without_names(printable(p.name), p) for p in (other, file))
            raise ValueError(
                f"{printable(path)}: expected one file for each case. Received: {names}, both of case {case}"
            )
    return found


def _shown_name(case: str, *files: Path) -> str:
    """The name of a case in messages and tables. The name of a DICOM file may be the patient's, so it is replaced."""
    if identifiers_kept() or not any(ending_of(file, DICOM) for file in files) or _PSEUDONYM.fullmatch(case):
        return case
    return pseudonym(case)


def _without_names(text: str, *files: Path) -> str:
    """Remove the names of DICOM files from a message."""
    for file in files:
        if ending_of(file, DICOM) and not identifiers_kept():
            instead = f"DICOM {pseudonym(file.name)}"
            text = text.replace(str(file), instead).replace(file.name, instead)
    return text


def _case(path: Path) -> str:
    name = stem_of(path.name, (*LABELS, *UNREAD))
    return printable(name.removeprefix(next((p for p in _PREFIXES if name.startswith(p)), "")))


def _print(summary: LabelledSummary) -> None:
    cases = "case" if summary.cases == 1 else "cases"
    say(f"\nmeans over {summary.cases} {cases}, with {summary.confidence:.0%} intervals; distances in mm")
    say(f"nsd: surface Dice at a tolerance of {summary.tolerance:g} mm; mean: over the classes of a case")
    width = max(len("class"), *map(len, summary.classes))
    say(f"{'class':<{width}}" + "".join(f"{name:>26}" for name in _SHOWN))
    for name, metrics in summary.classes.items():
        say(f"{name:<{width}}" + "".join(f"{_shown(metrics[metric]):>26}" for metric in _SHOWN))


def _shown(estimate: Estimate) -> str:
    if estimate.defined is None:
        return "undefined"
    if estimate.low is None:
        return f"{estimate.defined:.3f}"
    return f"{estimate.defined:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _write(folder: Path, cases: Sequence[LabelledCase], summary: LabelledSummary, failed: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_class_csv(folder / "cases.csv", cases)
    text = json.dumps({**summary.as_dict(), "failed": failed}, indent=2)
    (folder / "summary.json").write_text(text, encoding="utf-8")
