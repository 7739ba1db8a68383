"""The component `compare`."""

from kfp import dsl

from components.base import component


@component
def compare(
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    baseline: str = "",
    tolerance: float = 0.01,
    imported_baseline: dsl.Input[dsl.Artifact] = None,
) -> bool:
    """Decide whether the model is good enough, compared with the best earlier one.

    Args:
        evaluation: The metrics of the model, from the step evaluate.
        decision: A JSON file with the decision and the Dice of both models.
        baseline: The path of the earlier run's metrics.json; if it is empty, the model is accepted.
        tolerance: How much lower the Dice of a class may be than that of the baseline.
        imported_baseline: The file that baseline names, where KFP has imported it.

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
        imported={"baseline": imported_baseline},
    )
    return bool(decision.metadata["accepted"])
