"""The component `preprocess`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.preprocess.settings import PreprocessSettings


@component
def preprocess(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Output[dsl.Dataset],
    settings: Annotated[dict, PreprocessSettings],
):
    """Build the TFDS data set from checked cases with Beam.

    Args:
        cases: The checked cases, from the step ingest.
        dataset: A TFDS data directory with the splits train, validation and test.
    """
    from components.resume import step

    step(
        "preprocess",
        "components.preprocess.preprocess:build_dataset",
        inputs={"cases": cases},
        outputs={"dataset": dataset},
        settings=settings,
        scratch=True,
        stored=("dataset",),
        remote=("cases",),
    )
