"""The component `report`."""

from kfp import dsl

from components.base import component


@component
def report(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    title: str = "Liver and lesion segmentation",
    baseline: str = "",
):
    """Write the report: Dice per case and class, curves, slices with outlines, mesh and timing.

    Args:
        cases: Checked cases, of the step ingest.
        dataset: Data set, of the step preprocess.
        model: Trained model.
        evaluation: Predictions and metrics, of the step evaluate.
        page: The report, one self-contained HTML page.
        summary: Its figures in Markdown.
        title: Heading of the page.
        baseline: Path of an earlier run's metrics.json, to be compared with.
    """
    from components.resume import step

    inputs = {"cases": cases, "dataset": dataset, "model": model, "evaluation": evaluation}
    names = {"cases": "ingest", "dataset": "preprocess", "model": "train", "evaluation": "evaluate"}
    seconds = {names[name]: artifact.metadata.get("step_seconds", 0.0) for name, artifact in inputs.items()}
    outputs = {"page": page, "summary": summary}
    step(
        "report",
        "components.report.report:report_run",
        inputs=inputs,
        outputs=outputs,
        settings={"title": title, "seconds": seconds, "baseline": baseline},
    )
