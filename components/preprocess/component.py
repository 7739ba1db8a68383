"""The component `preprocess`."""

from kfp import dsl

from components.base import component


@component
def preprocess(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Output[dsl.Dataset],
    resolution: int = 64,
    split: str = "published",
    beam_options: str = "[]",
):
    """Build the TFDS data set from checked cases with Beam.

    Args:
        cases: Checked cases, of the step ingest.
        dataset: TFDS data directory with the splits train, validation and test.
        resolution: Voxels along each axis.
        split: published, or fold-K-of-N for cross-validation.
        beam_options: JSON list of Beam options, such as ["--runner=DataflowRunner", "--project=..."].
    """
    from components.resume import step

    settings = {"resolution": resolution, "split": split, "beam_options": beam_options}
    step(
        "preprocess",
        "components.preprocess.preprocess:build_dataset",
        inputs={"cases": cases},
        outputs={"dataset": dataset},
        settings=settings,
    )
