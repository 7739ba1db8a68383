"""The component `compare`."""

from kfp import dsl

from components.base import component


@component
def compare(
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    baseline: str = "",
    tolerance: float = 0.01,
) -> bool:
    """Decide whether the model is good enough, compared with the best earlier one.

    Args:
        evaluation: Of the step evaluate.
        decision: JSON with the decision and the Dice of both models.
        baseline: Path of the earlier run's metrics.json; empty accepts the model.
        tolerance: Dice by which a class may be worse.

    Returns:
        Whether the model is accepted.
    """
    from components.resume import step

    settings = {"tolerance": tolerance}
    outputs = {"decision": decision}
    step(
        "compare",
        "components.compare.compare:compare_models",
        inputs={"evaluation": evaluation},
        outputs=outputs,
        settings=settings,
        folders={"baseline": baseline},
    )
    return bool(decision.metadata["accepted"])
