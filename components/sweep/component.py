"""The component `sweep`."""

from kfp import dsl

from components.base import component


@component
def sweep(
    models: dsl.Input[list[dsl.Model]],
    table: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    title: str = "",
) -> float:
    """Compare trainings that differ in their learning rate by the Dice of the validation cases.

    Args:
        models: The trained models.
        table: A JSON file with the learning rate, validation Dice and last loss of each training, the best first.
        summary: The same table as Markdown.
        title: The heading of the summary, by default "Learning rates".

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
        remote=("models",),
    )
    return float(table.metadata["learning_rate"])
