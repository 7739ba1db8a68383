"""Write phantom CT volumes with the file names of LiTS."""

from collections.abc import Mapping
from typing import Any


def write_phantoms(
    volumes: str, *, cases: int, seed: int, size: int, difficulty: str
) -> Mapping[str, Mapping[str, Any]]:
    """Write seeded phantoms into the folder `volumes`; see `datasets.phantom.write_lits_folder`."""
    from components import console
    from datasets.phantom import write_lits_folder

    write_lits_folder(volumes, cases=cases, seed=seed, size=size, difficulty=difficulty)
    console.result("phantom", f"made {console.count(cases, 'CT volume')} with labels, of {size}³ voxels")
    return {"volumes": {"cases": cases, "seed": seed, "size": size, "difficulty": difficulty}}
