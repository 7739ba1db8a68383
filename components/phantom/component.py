"""The component `phantom`."""

from kfp import dsl

from components.base import component


@component
def phantom(
    volumes: dsl.Output[dsl.Dataset], cases: int = 16, seed: int = 0, size: int = 64, difficulty: str = "medium"
):
    """Generate LiTS-like phantom CTs as NIfTI files.

    Args:
        volumes: volume-N.nii.gz (HU) and segmentation-N.nii.gz (0 background, 1 liver, 2 lesion).
        cases: The number of cases.
        seed: The seed of the series; equal seeds give equal phantoms.
        size: The number of voxels along each axis.
        difficulty: How hard the lesions are to find: easy, medium or hard.
    """
    from components.resume import step

    settings = {"cases": cases, "seed": seed, "size": size, "difficulty": difficulty}
    step(
        "phantom",
        "components.phantom.phantoms:write_phantoms",
        outputs={"volumes": volumes},
        settings=settings,
        stored=("volumes",),
    )
