"""From the results of the steps to the report page and its short Markdown form."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from components.evaluate.results import CASES, load_metrics, load_scores
from components.files import read_json
from components.report.page import CaseVolumes, RunReport, write_report
from components.train.settings import TRAINING
from components.train.task import task_of
from datasets.decathlon.layout import read_layout
from datasets.decathlon.reader import TaskReader
from datasets.lits.cases import find_cases, read_case
from keras_spatial.evaluation import CaseMetrics, LabelledCase
from keras_spatial.volumes import Limits, Task, read_volume, to_canonical

SHOWN = 4
"""Cases in the viewer: the ones with the lowest lesion Dice."""


def report_run(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    predictions: str,
    page: str,
    summary: str,
    *,
    title: str,
    seconds: Mapping[str, float],
    baseline: str = "",
) -> Mapping[str, Mapping[str, Any]]:
    """Write the report of one run.

    Args:
        cases, dataset, model: folders of the steps ingest, preprocess and train.
        evaluation, predictions: folders of the step evaluate.
        page: HTML file to write.
        summary: Markdown file to write.
        title: heading.
        seconds: time of each step.
        baseline: `metrics.json` of an earlier run, which the page shows beside this one; empty for none.
    """
    run = collect(cases, dataset, model, evaluation, predictions, title, seconds)
    earlier, notes = earlier_run(baseline)
    run = replace(run, notes=[*run.notes, *notes])
    write_report(page, run, compared=earlier)
    scores = load_scores(evaluation)
    Path(summary).parent.mkdir(parents=True, exist_ok=True)
    Path(summary).write_text(markdown(title, scores, run.notes), encoding="utf-8", errors="backslashreplace")
    return {"page": {f"dice_{part}": value for part, value in scores["dice"].items()}}


def collect(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    predictions: str,
    title: str,
    seconds: Mapping[str, float],
) -> RunReport:
    """The values of a report page; arguments as `report_run`."""
    from components.preprocess.preprocess import open_dataset

    training = read_json(Path(model) / TRAINING)
    metrics = load_metrics(evaluation)
    builder = open_dataset(dataset)
    task = task_of(builder)
    volumes = (
        _labelled_volumes(cases, task, predictions, cast(Sequence[LabelledCase], metrics))
        if isinstance(metrics[0], LabelledCase)
        else _volumes(cases, predictions, cast(Sequence[CaseMetrics], metrics))
    )
    warnings = list((builder.info.metadata or {}).get("warnings", []))
    return RunReport(
        title=title,
        metrics=metrics,
        volumes=volumes,
        channels=[channel.name for channel in task.channels],
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
    """Dice and notes in a few lines, which KFP's user interface shows; texts stand in it as they are."""
    thresholds = scores.get("threshold_dice", {})
    lines = [f"# {_plain(title)}", "", "| | Dice per case | intensity threshold |", "| --- | --- | --- |"]
    for part, value in scores["dice"].items():
        baseline = f"{thresholds[part]:.3f}" if part in thresholds else ""
        lines.append(f"| {part} | {value:.3f} | {baseline} |")
    mesh = f"Mesh {_plain(scores['mesh'])}; {_plain(scores['layout'])}."
    return "\n".join([*lines, "", mesh, "", *(f"- {_plain(n)}" for n in notes), ""])


_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def _plain(text: object) -> str:
    """A text that Markdown shows as it is: no markup, no HTML, no formula, one line."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def _threshold_note(scores: Mapping[str, Any]) -> list[str]:
    if "threshold_dice" not in scores:
        return []
    values = ", ".join(f"{part} {value:.3f}" for part, value in scores["threshold_dice"].items())
    return [f"The best intensity thresholds, chosen on the training cases, reach a mean Dice per case of: {values}."]


def _labelled_volumes(cases: str, task: Task, predictions: str, metrics: Sequence[LabelledCase]) -> list[CaseVolumes]:
    """The cases with the lowest Dice."""
    reader = TaskReader(task)
    found = {case.name: case for case in read_layout(cases).cases}
    result = []
    for scored in sorted(metrics, key=lambda m: (m.mean_dice, m.case))[:SHOWN]:
        images, truth = reader.read(found[scored.case], Limits.current())
        predicted = to_canonical(read_volume(Path(predictions) / f"prediction-{scored.case}.nii.gz"))
        prediction = predicted.array.astype(np.uint8)
        image = np.stack([volume.array for volume in images], axis=3)
        result.append(CaseVolumes(scored.case, image, truth.array, prediction, images[0].spacing))
    return result


def _volumes(cases: str, predictions: str, metrics: Sequence[CaseMetrics]) -> list[CaseVolumes]:
    found = {case.name: case for case in find_cases(cases)}
    result = []
    for scored in sorted(metrics, key=lambda m: (m.lesion.dice, m.liver.dice))[:SHOWN]:
        case = found[scored.case]
        volume, labels = read_case(case)
        predicted = to_canonical(read_volume(Path(predictions) / f"prediction-{case.number}.nii.gz"))
        image, truth = to_canonical(volume), to_canonical(labels)
        prediction = predicted.array.astype(np.uint8)
        result.append(CaseVolumes(scored.case, image.array, truth.array, prediction, image.spacing))
    return result
