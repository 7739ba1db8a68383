"""The component `study`."""

from kfp import dsl

from components.base import component


@component
def study(
    models: dsl.Input[list[dsl.Model]],
    evaluations: dsl.Input[list[dsl.Artifact]],
    page: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Artifact],
    title: str = "",
):
    """Compare runs that differ in their resolution.

    Args:
        models: The trained models.
        evaluations: Their evaluations, in the same order.
        page: One report over all runs.
        table: A JSON file with the resolution, Dice and training time of each run.
        title: The heading of the page; without one it names what is segmented.
    """
    from components.resume import step

    inputs = {"models": models, "evaluations": evaluations}
    step(
        "study",
        "components.study.study:report_study",
        inputs=inputs,
        outputs={"page": page, "table": table},
        settings={"title": title},
        remote=("models",),
    )
