"""Phantom CT volumes in the naming of LiTS."""

from collections.abc import Mapping
from typing import Any


def write_phantoms(
    volumes: str, *, cases: int, seed: int, size: int, difficulty: str
) -> Mapping[str, Mapping[str, Any]]:
    """Write seeded phantoms into the folder `volumes`; see `datasets.phantom.write_lits_folder`."""
    from datasets.phantom import write_lits_folder

    paths = write_lits_folder(volumes, cases=cases, seed=seed, size=size, difficulty=difficulty)
    print(f"phantom: wrote {cases} cases, {len(paths)} files", flush=True)
    return {"volumes": {"cases": cases, "seed": seed, "size": size, "difficulty": difficulty}}
