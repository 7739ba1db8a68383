"""The component `sweep`."""

from kfp import dsl

from components.base import component


@component
def sweep(
    models: dsl.Input[list[dsl.Model]],
    table: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    title: str = "Learning rates",
) -> float:
    """Compare trainings that differ in their learning rate by the Dice of the validation cases.

    Args:
        models: Trained models.
        table: JSON with the learning rate, the Dice of the validation cases and the last loss of each, the best first.
        summary: The same as Markdown.
        title: Heading.

    Returns:
        The best learning rate.
    """
    from components.resume import step

    step(
        "sweep",
        "components.sweep.sweep:compare_trainings",
        inputs={"models": models},
        outputs={"table": table, "summary": summary},
        settings={"title": title},
    )
    return float(table.metadata["learning_rate"])
