"""The files of an evaluation: written by the step, and read by those that compare and report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from components.files import read_json, write_json
from keras_spatial.evaluation import (
    CaseMetrics,
    LabelledCase,
    summarise,
    summarise_classes,
    write_class_csv,
    write_csv,
)
from keras_spatial.volumes import metric_name

CASES, SUMMARY, METRICS = "cases.json", "summary.json", "metrics.json"
ADAPTER: TypeAdapter[list[CaseMetrics] | list[LabelledCase]] = TypeAdapter(list[CaseMetrics] | list[LabelledCase])
"""Converts the metrics of cases to JSON and back."""
CASE: TypeAdapter[CaseMetrics | LabelledCase] = TypeAdapter(CaseMetrics | LabelledCase)
"""Converts the metrics of one case."""


def load_metrics(evaluation: str | Path) -> list[CaseMetrics] | list[LabelledCase]:
    """The metrics of each case of an evaluation."""
    return ADAPTER.validate_json((Path(evaluation) / CASES).read_bytes())


def load_scores(evaluation: str | Path) -> dict[str, Any]:
    """The content of the `metrics.json` of an evaluation."""
    return read_json(Path(evaluation) / METRICS)


def write_metrics(folder: Path, metrics: Sequence[Any], *, lits: bool) -> dict[str, float | None]:
    """Write `cases.json`, `cases.csv` and `summary.json`, and return the mean Dice per case of each part or class.

    Args:
        folder: the folder of the evaluation, which is made.
        metrics: the metrics of each case.
        lits: whether they are the metrics of LiTS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CASES).write_bytes(ADAPTER.dump_json(list(metrics)))
    (write_csv if lits else write_class_csv)(folder / "cases.csv", metrics)
    if lits:
        summary = summarise(metrics)
        dice = {part: summary.metrics[f"{part}_dice_per_case"].value for part in ("liver", "lesion")}
    else:
        summary = summarise_classes(metrics)
        dice = {name: found["dice"].value for name, found in summary.classes.items() if name != "mean"}
    write_json(folder / SUMMARY, summary.as_dict())
    return dice


def metadata(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that KFP records for an evaluation with these `scores`, which `metrics.json` holds. Metadata have
    no lists.
    """
    flat = {f"dice_{metric_name(name)}": value for name, value in scores["dice"].items()}
    flat |= {f"threshold_dice_{part}": value for part, value in scores.get("threshold_dice", {}).items()}
    lists = {name: json.dumps(scores[name]) for name in ("classes", "confusion")}
    return {**flat, "cases": len(scores["cases"]), **lists}
