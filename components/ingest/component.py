"""The components `ingest`, for an artifact, and `ingest_folder`, for a folder on a volume."""

from kfp import dsl

from components.base import component


@component
def ingest(
    volumes: dsl.Input[dsl.Dataset],
    cases: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.HTML],
    on_bad_case: str = "raise",
    version: str = "",
):
    """Check and index LiTS volumes; put bad ones aside with their reasons.

    Args:
        volumes: A folder with volume-N.nii[.gz] and segmentation-N.nii[.gz], made by a step or imported.
        cases: The usable cases and their index.
        quarantine: A table of the bad cases.
        on_bad_case: Whether a bad case ends the run (raise) or is left out (skip).
        version: The digest of an imported folder from the step fingerprint, which only KFP's cache reads.
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
        data: A folder with volume-N.nii[.gz] and segmentation-N.nii[.gz], which is mounted where the step runs.
        cases: The usable cases and their index.
        quarantine: A table of the bad cases.
        on_bad_case: Whether a bad case ends the run (raise) or is left out (skip).
        version: The digest from the step fingerprint, which only KFP's cache reads.
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
