"""The components `ingest`, for an artifact, and `ingest_folder`, for a folder on a volume."""

from kfp import dsl

from components.base import component


@component
def ingest(
    volumes: dsl.Input[dsl.Dataset],
    cases: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.HTML],
    on_bad_case: str = "raise",
    task: str = "",
):
    """Check and index volumes with labels; put bad ones aside with their reasons.

    Args:
        volumes: A folder of cases, made by a step: volume-N.nii[.gz] and segmentation-N.nii[.gz], or dataset.json, or
            images and labels.
        cases: The usable cases and their index.
        quarantine: A table of the bad cases.
        on_bad_case: Whether a bad case ends the run (raise) or is left out (skip).
        task: What names the channels and labels of a folder without dataset.json: lits; for a file, see
            `ingest_folder`.
    """
    from components.resume import step

    outputs = {"cases": cases, "quarantine": quarantine}
    step(
        "ingest",
        "components.ingest.ingest:ingest_volumes",
        inputs={"data": volumes},
        folders={"task_file": "" if task == "lits" else task},
        outputs=outputs,
        settings={"on_bad_case": on_bad_case, "task": "lits" if task == "lits" else ""},
        stored=("cases",),
    )


@component
def ingest_folder(
    data: str,
    cases: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.HTML],
    on_bad_case: str = "raise",
    task: str = "",
    by_reference: bool = False,
    version: str = "",
    task_version: str = "",
):
    """Check and index the volumes and labels of a folder; put bad ones aside with their reasons.

    Args:
        data: A folder of cases, which is mounted where the step runs, or a URL, from which one case after another is
            downloaded: volume-N.nii[.gz] and segmentation-N.nii[.gz], or dataset.json, or images and labels.
        cases: The usable cases and their index. For a URL, and by reference, it is only the index, which says where the
            cases are, unless they have to be written as NIfTI files.
        quarantine: A table of the bad cases.
        on_bad_case: Whether a bad case ends the run (raise) or is left out (skip).
        task: What names the channels and labels of a folder without dataset.json: a file of that form, or lits.
        by_reference: Whether every step sees the folder at this path, so that its files are read there and not copied.
        version: The digest from the step fingerprint, which only KFP's cache reads.
        task_version: The digest of the file that task names.
    """
    from components.resume import step

    outputs = {"cases": cases, "quarantine": quarantine}
    step(
        "ingest",
        "components.ingest.ingest:ingest_volumes",
        folders={"data": data, "task_file": "" if task == "lits" else task},
        outputs=outputs,
        settings={
            "on_bad_case": on_bad_case,
            "task": "lits" if task == "lits" else "",
            "by_reference": by_reference,
        },
        stored=("cases",),
        remote=("data",),
    )
