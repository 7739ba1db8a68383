"""The component `report`."""

from kfp import dsl

from components.base import component


@component
def report(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    predictions: dsl.Input[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    title: str = "",
    baseline: str = "",
):
    """Write the report: Dice per case and class, curves, slices with outlines, mesh and timing.

    Args:
        cases: The checked cases, from the step ingest.
        dataset: The data set, from the step preprocess.
        model: The trained model.
        evaluation: The metrics, from the step evaluate.
        predictions: The segmentations, from the step evaluate.
        page: The report, one self-contained HTML page.
        summary: Its figures in Markdown.
        title: The heading of the page; without one it names what is segmented.
        baseline: The metrics.json of an earlier run, by path or URL, with whose means this run is compared; each case
            is compared as well if a cases.json is beside it.
    """
    from components.resume import seconds_of, step

    timed = {"cases": cases, "dataset": dataset, "model": model, "evaluation": evaluation}
    inputs = {**timed, "predictions": predictions}
    names = {"cases": "ingest", "dataset": "preprocess", "model": "train", "evaluation": "evaluate"}
    seconds = {names[name]: seconds_of(artifact) for name, artifact in timed.items()}
    outputs = {"page": page, "summary": summary}
    step(
        "report",
        "components.report.report:report_run",
        inputs=inputs,
        outputs=outputs,
        settings={"title": title, "seconds": seconds},
        folders={"baseline": baseline},
        remote=("baseline", "cases", "dataset", "model", "predictions"),
    )
