"""The tables of the benchmark: Dice, distances, time."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hippocampus.fold import read_training
from benchmarks.results import row
from components.files import write_json, write_text
from keras_spatial.evaluation import LabelledCase, LabelledSummary, summarise_classes

_TARGET = 0.885
_NAMES = {"dice": "Dice", "hd95": "HD95, mm", "nsd": "surface Dice at 1 mm", "assd": "ASSD, mm"}


def write_report(out: Path, folds: Mapping[int, Sequence[LabelledCase]], of: int) -> str:
    """Write `report.md` and `report.json` about the finished folds, and return the text.

    Args:
        out: the folder of the benchmark.
        folds: the held-out cases of each finished fold.
        of: the number of folds of the cross-validation.
    """
    cases = [case for fold in folds.values() for case in fold]
    summary = summarise_classes(cases)
    training = {fold: read_training(out, fold) for fold in folds}
    dice = summary.classes["mean"]["dice"].value or 0.0
    lines = [
        "# Hippocampus, Medical Segmentation Decathlon Task04",
        "",
        f"{len(folds)} of {of} folds, {len(cases)} held-out cases, mesh {training[min(folds)]['settings']['mesh']}. "
        f"Intervals: {summary.confidence:.0%}, over the cases.",
        "",
        *_scores(summary),
        "",
        f"Mean foreground Dice {dice:.4f}; target {_TARGET} in five folds: "
        f"{'reached' if dice >= _TARGET and len(folds) == of else 'not reached' if len(folds) == of else 'open'}.",
        "",
        "| fold | mean Dice | steps | training, min | of processor time, min |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fold, scored in folds.items():
        facts = training[fold]
        mean = np.mean([case.mean_dice for case in scored])
        lines.append(
            f"| {fold} | {mean:.4f} | {facts['settings']['steps']} | {facts['seconds'] / 60:.1f} | "
            f"{facts['processor_seconds'] / 60:.1f} |"
        )
    lines += [
        "",
        "| voxels of a volume | volumes | seconds a volume, median |",
        "| --- | --- | --- |",
        *(f"| {sizes} | {volumes} | {seconds:.2f} |" for sizes, volumes, seconds in _times(out, folds)),
    ]
    text = "\n".join([*lines, ""])
    write_text(out / "report.md", text)
    write_json(out / "report.json", {"summary": summary.as_dict(), "training": training})
    return text


def rows_of(out: Path, folds: Mapping[int, Sequence[LabelledCase]]) -> list[dict[str, Any]]:
    """The rows that `benchmarks.results.finish` keeps, of all folds.

    Args:
        out: the folder of the benchmark.
        folds: the held-out cases of each fold.
    """
    summary = summarise_classes([case for fold in folds.values() for case in fold])
    rows = []
    for name, metrics in summary.classes.items():
        for metric, text in _NAMES.items():
            found = metrics[metric]
            if found.value is None:
                continue
            target = _TARGET if (name, metric) == ("mean", "dice") else None
            note = f"{found.low:.3f} to {found.high:.3f} ({summary.confidence:.0%}, over {summary.cases} cases)"
            rows.append(row(f"{name}: {text}", found.value, target=target, smallest=target is not None, note=note))
    training = [read_training(out, fold) for fold in folds]
    for key, text in {"seconds": "minutes of training", "processor_seconds": "minutes of processor time"}.items():
        rows.append(row(f"{text}, {len(folds)} folds", sum(one[key] for one in training) / 60))
    for sizes, volumes, seconds in _times(out, folds):
        rows.append(row(f"seconds a volume of {sizes} voxels", seconds, note=f"median of {volumes}"))
    return rows


def _scores(summary: LabelledSummary) -> list[str]:
    lines = [f"| class | {' | '.join(_NAMES.values())} |", "| --- |" + " --- |" * len(_NAMES)]
    for name, metrics in summary.classes.items():
        cells = []
        for metric in _NAMES:
            found = metrics[metric]
            cells.append("–" if found.value is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _times(out: Path, folds: Iterable[int]) -> list[tuple[str, int, float]]:
    """The sizes of the volumes, their number and the median of their seconds, by thirds of the sizes.

    Volumes larger than the network's input take longer, because they need several windows.
    """
    timings = np.array([t for fold in folds for t in json.loads((out / f"fold-{fold}/timings.json").read_text())])
    edges = np.quantile(timings[:, 0], (0, 1 / 3, 2 / 3, 1))
    found = []
    for low, high in itertools.pairwise(edges):
        last = high == edges[-1]
        chosen = timings[(timings[:, 0] >= low) & ((timings[:, 0] < high) | (last & (timings[:, 0] == high)))]
        if len(chosen):
            found.append((f"{low:.0f} to {high:.0f}", len(chosen), float(np.median(chosen[:, 1]))))
    return found
