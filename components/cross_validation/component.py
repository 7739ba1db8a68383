"""The component `cross_validation`."""

from kfp import dsl

from components.base import component


@component
def cross_validation(
    evaluations: dsl.Input[list[dsl.Artifact]],
    page: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    title: str = "",
):
    """Combine the folds of a cross-validation, in which every case was held out once.

    Args:
        evaluations: The evaluations of the folds.
        page: A report over all held-out cases, with each fold beside it.
        table: A JSON file with the Dice and its interval over all cases, and the Dice of each fold.
        metrics: The Dice over all cases with its interval, for the user interface.
        title: The heading of the page; without one it names what is segmented.
    """
    from components.resume import step

    step(
        "cross_validation",
        "components.cross_validation.cross_validation:report_folds",
        inputs={"evaluations": evaluations},
        outputs={"page": page, "table": table},
        settings={"title": title},
    )
    for name, value in table.metadata.items():
        if name.startswith("dice_"):
            metrics.log_metric(name, value)
