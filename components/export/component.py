"""The component `export`."""

from kfp import dsl

from components.base import component


@component
def export(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    exported: dsl.Output[dsl.Model],
):
    """Export a model as a Keras file and a TensorFlow SavedModel, with a description.

    Args:
        model: The trained model, from the step train.
        evaluation: The metrics of the model, from the step evaluate.
        exported: A folder with model.keras, serving/1 (a SavedModel for TensorFlow Serving), task.json and model.json.
    """
    from components.resume import step

    inputs = {"model": model, "evaluation": evaluation}
    step("export", "components.export.export:export_model", inputs=inputs, outputs={"exported": exported})
