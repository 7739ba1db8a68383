"""Make the report page and its short Markdown form from the results of the steps."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from components import storage
from components.cases import some_cases
from components.evaluate.results import CASES, load_metrics, load_scores
from components.files import read_json
from components.report.headings import heading
from components.report.page import CaseVolumes, RunReport, write_report
from components.train.settings import TRAINING
from components.train.task import task_of
from datasets.decathlon.layout import read_layout
from datasets.decathlon.reader import TaskReader
from datasets.lits.cases import find_cases, read_case
from keras_spatial.evaluation import CaseMetrics, LabelledCase
from keras_spatial.volumes import Limits, Task, read_volume, to_canonical

SHOWN = 4
"""The number of cases in the viewer, which are those with the lowest Dice."""


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
        cases, dataset, model: the folders of the steps ingest, preprocess and train, by path or URL. From an object
            store, only what is shown is downloaded.
        evaluation: the evaluation, a folder of the step evaluate.
        predictions: the predictions, a folder of the step evaluate, by path or URL.
        page: the HTML file to write.
        summary: the Markdown file to write.
        title: the heading; if it is empty, it says what is segmented.
        seconds: the seconds of each step, by its name.
        baseline: the path or URL of the `metrics.json` of an earlier run, which the page shows beside this one; empty
            for none.

    Returns:
        The metadata of the page: the Dice of each class.
    """
    run = collect(cases, dataset, model, evaluation, predictions, title, seconds)
    earlier, notes = earlier_run(baseline)
    run = replace(run, notes=[*run.notes, *notes])
    write_report(page, run, compared=earlier)
    scores = load_scores(evaluation)
    Path(summary).parent.mkdir(parents=True, exist_ok=True)
    Path(summary).write_text(markdown(run.title, scores, run.notes), encoding="utf-8", errors="backslashreplace")
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
    """The values of a report page; the arguments are those of `report_run`."""
    from components.preprocess.preprocess import near_dataset, open_dataset

    training = read_json(storage.local(storage.join(str(model), TRAINING)))
    metrics = load_metrics(evaluation)
    builder = open_dataset(near_dataset(dataset, ()))
    task = task_of(builder)
    volumes = (
        _labelled_volumes(cases, task, predictions, cast(Sequence[LabelledCase], metrics))
        if isinstance(metrics[0], LabelledCase)
        else _volumes(cases, predictions, cast(Sequence[CaseMetrics], metrics))
    )
    warnings = list((builder.info.metadata or {}).get("warnings", []))
    return RunReport(
        title=title or heading(metrics, task.name),
        metrics=metrics,
        volumes=volumes,
        channels=[channel.name for channel in task.channels],
        history=training["history"],
        validation_every=training["validation_every"],
        mesh=f"{training['mesh']}; {training['layout']}",
        timings=dict(seconds),
        memory=training["peak_bytes"],
        model_summary=training["summary"],
        # With a resolution of 0, every image keeps its own grid.
        parameters={
            "resolution": training["resolution"] or "own grid",
            **{name: training[name] for name in ("epochs", "parameters")},
        },
        notes=warnings + _threshold_note(load_scores(evaluation)),
    )


def earlier_run(baseline: str) -> tuple[list[RunReport], list[str]]:
    """The earlier run with which a report compares this one, and notes about it.

    The folder of a run has `cases.json`, the metrics of each case, beside `metrics.json`. If it is missing, a note says
    that only the means are compared.
    """
    if not baseline:
        return [], []
    above, slash, _ = baseline.rpartition("/")
    place = f"{above}{slash}{CASES}"
    if not storage.exists(place):
        return [], [f"The earlier run {baseline} is compared only by its means, because there is no {CASES} beside it."]
    title = f"baseline: {above.rpartition('/')[2]}"
    return [RunReport(title=title, metrics=load_metrics(storage.local(place).parent))], []


def markdown(title: str, scores: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The Dice and the notes in a few lines for KFP's user interface, which shows texts as they are."""
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
    """The volumes of the cases with the lowest Dice."""
    reader, result = TaskReader(task), []
    chosen = sorted(metrics, key=lambda m: (m.mean_dice, m.case))[:SHOWN]
    with some_cases(cases, {scored.case for scored in chosen}) as folder:
        found = {case.name: case for case in read_layout(folder).cases}
        for scored in chosen:
            images, truth = reader.read(found[scored.case], Limits.current())
            image = np.stack([volume.array for volume in images], axis=3)
            prediction = _prediction(predictions, scored.case)
            result.append(CaseVolumes(scored.case, image, truth.array, prediction, images[0].spacing))
    return result


def _prediction(predictions: str, name: int | str) -> np.ndarray:
    """The segmentation of a case in canonical order, uint8."""
    path = storage.local(storage.join(str(predictions), f"prediction-{name}.nii.gz"))
    return to_canonical(read_volume(path)).array.astype(np.uint8)


def _volumes(cases: str, predictions: str, metrics: Sequence[CaseMetrics]) -> list[CaseVolumes]:
    result = []
    chosen = sorted(metrics, key=lambda m: (m.lesion.dice, m.liver.dice))[:SHOWN]
    with some_cases(cases, {int(scored.case.removeprefix("volume-")) for scored in chosen}) as folder:
        found = {case.name: case for case in find_cases(folder)}
        for scored in chosen:
            case = found[scored.case]
            volume, labels = read_case(case)
            image, truth = to_canonical(volume), to_canonical(labels)
            prediction = _prediction(predictions, case.number)
            result.append(CaseVolumes(scored.case, image.array, truth.array, prediction, image.spacing))
    return result
