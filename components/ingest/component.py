"""The components `ingest`, for the output of a step, and `ingest_folder`, for a folder outside the pipeline."""

from kfp import dsl

from components.base import component


@component
def ingest(
    volumes: dsl.Input[dsl.Dataset],
    cases: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.HTML],
    on_bad_case: str = "raise",
):
    """Check and index LiTS volumes; put bad ones aside with their reasons.

    Args:
        volumes: Folder with volume-N.nii[.gz] and segmentation-N.nii[.gz].
        cases: The usable cases and their index.
        quarantine: Table of the bad cases.
        on_bad_case: raise ends the run if a case is bad, skip goes on without it.
    """
    from components.resume import step

    outputs = {"cases": cases, "quarantine": quarantine}
    step(
        "ingest",
        "components.ingest.ingest:ingest_volumes",
        inputs={"data": volumes},
        outputs=outputs,
        settings={"on_bad_case": on_bad_case},
        stored=("cases",),
    )


@component
def ingest_folder(
    data: str,
    cases: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.HTML],
    on_bad_case: str = "raise",
    version: str = "",
):
    """Check and index the LiTS volumes of a folder; put bad ones aside with their reasons.

    Args:
        data: Folder with volume-N.nii[.gz] and segmentation-N.nii[.gz], mounted where the step runs.
        cases: The usable cases and their index.
        quarantine: Table of the bad cases.
        on_bad_case: raise ends the run if a case is bad, skip goes on without it.
        version: Of the step fingerprint; KFP's cache holds it, and nothing else reads it.
    """
    from components.resume import step

    outputs = {"cases": cases, "quarantine": quarantine}
    step(
        "ingest",
        "components.ingest.ingest:ingest_volumes",
        folders={"data": data},
        outputs=outputs,
        settings={"on_bad_case": on_bad_case},
        stored=("cases",),
    )
