"""From the results of the steps to the report page and its short Markdown form."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate.evaluate import CASES, load_metrics, load_scores
from components.files import read_json
from components.report.page import CaseVolumes, RunReport, write_report
from components.train.settings import TRAINING
from datasets.lits.cases import find_cases, read_case
from keras_spatial.evaluation import CaseMetrics
from keras_spatial.volumes import read_volume, to_canonical

SHOWN = 4
"""Cases in the viewer: the ones with the lowest lesion Dice."""


def report_run(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    page: str,
    summary: str,
    *,
    title: str,
    seconds: Mapping[str, float],
    baseline: str = "",
) -> Mapping[str, Mapping[str, Any]]:
    """Write the report of one run.

    Args:
        cases, dataset, model, evaluation: folders of the steps ingest, preprocess, train and evaluate.
        page: HTML file to write.
        summary: Markdown file to write.
        title: heading.
        seconds: time of each step.
        baseline: `metrics.json` of an earlier run, which the page shows beside this one; empty for none.
    """
    run = collect(cases, dataset, model, evaluation, title, seconds)
    earlier, notes = earlier_run(baseline)
    run = replace(run, notes=[*run.notes, *notes])
    write_report(page, run, compared=earlier)
    scores = load_scores(evaluation)
    Path(summary).parent.mkdir(parents=True, exist_ok=True)
    Path(summary).write_text(markdown(title, scores, run.notes), encoding="utf-8")
    return {"page": {f"dice_{part}": value for part, value in scores["dice"].items()}}


def collect(
    cases: str, dataset: str, model: str, evaluation: str, title: str, seconds: Mapping[str, float]
) -> RunReport:
    """The values of a report page; arguments as `report_run`."""
    from components.preprocess.preprocess import open_dataset

    training = read_json(Path(model) / TRAINING)
    metrics = load_metrics(evaluation)
    warnings = list((open_dataset(dataset).info.metadata or {}).get("warnings", []))
    return RunReport(
        title=title,
        metrics=metrics,
        volumes=_volumes(cases, evaluation, metrics),
        history=training["history"],
        validation_every=training["validation_every"],
        mesh=f"{training['mesh']}; {training['layout']}",
        timings=dict(seconds),
        memory=training["peak_bytes"],
        model_summary=training["summary"],
        parameters={name: training[name] for name in ("resolution", "epochs", "parameters")},
        notes=warnings + _threshold_note(load_scores(evaluation)),
    )


def earlier_run(baseline: str) -> tuple[list[RunReport], list[str]]:
    """The earlier run that a report compares with, and what is to be said of it.

    A run's folder holds `cases.json`, the metrics of each case, beside `metrics.json`. Where only the means are there,
    a note says so.
    """
    if not baseline:
        return [], []
    folder = Path(baseline).parent
    if not (folder / CASES).is_file():
        return [], [f"The earlier run {baseline} is compared by its means only: {CASES} does not lie beside it."]
    return [RunReport(title=f"baseline: {folder.name}", metrics=load_metrics(folder))], []


def markdown(title: str, scores: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Dice and notes in a few lines, which KFP's user interface shows."""
    thresholds = scores.get("threshold_dice", {})
    lines = [f"# {title}", "", "| | Dice per case | intensity threshold |", "| --- | --- | --- |"]
    for part, value in scores["dice"].items():
        baseline = f"{thresholds[part]:.3f}" if part in thresholds else ""
        lines.append(f"| {part} | {value:.3f} | {baseline} |")
    return "\n".join([*lines, "", f"Mesh {scores['mesh']}; {scores['layout']}.", "", *(f"- {n}" for n in notes), ""])


def _threshold_note(scores: Mapping[str, Any]) -> list[str]:
    if "threshold_dice" not in scores:
        return []
    values = ", ".join(f"{part} {value:.3f}" for part, value in scores["threshold_dice"].items())
    return [f"The best intensity thresholds, chosen on the training cases, reach a mean Dice per case of: {values}."]


def _volumes(cases: str, evaluation: str, metrics: Sequence[CaseMetrics]) -> list[CaseVolumes]:
    found = {case.name: case for case in find_cases(cases)}
    result = []
    for scored in sorted(metrics, key=lambda m: (m.lesion.dice, m.liver.dice))[:SHOWN]:
        case = found[scored.case]
        volume, labels = read_case(case)
        predicted = to_canonical(read_volume(Path(evaluation) / f"prediction-{case.number}.nii.gz"))
        image, truth = to_canonical(volume), to_canonical(labels)
        prediction = predicted.array.astype(np.uint8)
        result.append(CaseVolumes(scored.case, image.array, truth.array, prediction, image.spacing))
    return result
