"""The component `export`."""

from kfp import dsl

from components.base import component


@component
def export(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    exported: dsl.Output[dsl.Model],
):
    """Export a model as Keras file and TensorFlow SavedModel, with a description, if it was accepted.

    Args:
        model: Of the step train.
        evaluation: Of the step evaluate.
        decision: Of the step compare.
        exported: Folder with model.keras, saved_model and model.json.
    """
    from components.export.export import export_model
    from components.resume import step

    inputs = {"model": model, "evaluation": evaluation, "decision": decision}
    step("export", export_model, inputs=inputs, outputs={"exported": exported})
