"""Compare runs that differ in their resolution."""

from collections.abc import Mapping, Sequence
from typing import Any

from components import storage
from components.evaluate.results import load_metrics, load_scores
from components.files import read_json, write_json
from components.report.headings import heading
from components.report.page import RunReport, write_report
from components.train.settings import TRAINING


def report_study(
    models: Sequence[str], evaluations: Sequence[str], page: str, table: str, *, title: str
) -> Mapping[str, Mapping[str, Any]]:
    """Write one page that compares several runs, and shows the run with the highest resolution in full.

    Args:
        models: the folders of the step train, by path or URL; one small file is read from each.
        evaluations: the folders of the step evaluate, in the same order.
        page: the HTML file to write.
        table: the JSON file to write, with the resolution, the Dice and the training seconds of each run.
        title: the heading; if it is empty, it says what is segmented.

    Returns:
        The metadata of the table: the number of runs.
    """
    trainings = [read_json(storage.local(storage.join(model, TRAINING))) for model in models]
    runs = sorted(zip(trainings, evaluations, strict=True), key=lambda run: -run[0]["resolution"])
    scored = [load_metrics(evaluation) for _, evaluation in runs]
    title = title or f"{heading(scored[0])}: resolution study"
    reports = [
        RunReport(
            title=title if place == 0 else f"{training['resolution']}³",
            metrics=scored[place],
            history=training["history"],
            mesh=f"{training['mesh']}; {training['layout']}",
            timings={"train": training["seconds"]},
            memory=training["peak_bytes"],
            parameters={"resolution": training["resolution"], "epochs": training["epochs"]},
        )
        for place, (training, _) in enumerate(runs)
    ]
    write_report(page, reports[0], compared=reports[1:])
    rows = [
        {"resolution": training["resolution"], "dice": load_scores(evaluation)["dice"], "seconds": training["seconds"]}
        for training, evaluation in reversed(runs)
    ]
    write_json(table, rows)
    return {"table": {"runs": len(rows)}}
