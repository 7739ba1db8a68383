"""Where the classes of a data set are: how many voxels of each class a case has, and the positions of some of them.

This digest is made once, by reading the stored blocks one after another, and is kept in the folder of the data set.
`Oversampling` draws from it without reading any label.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_spatial.data.boxes import Index, Part, as_index
from keras_spatial.data.opening import StoreError
from keras_spatial.data.store import Store

CLASSES = "classes.json"
"""Name of the file in the folder of a data set."""
_PLACES = 64


@dataclass(frozen=True)
class ClassPlaces:
    """Where a class is in a case.

    Attributes:
        voxels: the number of its voxels.
        places: some of them, evenly spaced in the order in which they are stored; at most 64.
    """

    voxels: int
    places: tuple[Index, ...]


@dataclass(frozen=True)
class CaseClasses:
    """The classes of a case.

    Attributes:
        case: the name of the case, as the data set has it.
        classes: where each class of the case is, keyed by the number of the class.
    """

    case: str
    classes: Mapping[int, ClassPlaces]


def find_classes(store: Store, case: int) -> dict[int, ClassPlaces]:
    """Look for the classes of a case, one stored block after another.

    Args:
        store: the store of a split.
        case: the position of the case in the split, from 0.

    Returns:
        Where each class is, by its number; the classes that the case does not have are left out.

    Example:

    ```python
    store = ks.data.Store("data/lits/64/2.0.0", "train")
    places = ks.data.find_classes(store, case=0)
    print({number: found.voxels for number, found in places.items()})
    ```
    """
    shape = store.shape(case)
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    for index in np.ndindex(*store.blocks):
        box = Part((index[0], index[1], index[2]), store.blocks).box(shape)
        _, label = store.read(case, box)
        for number in np.flatnonzero(np.bincount(label.ravel(), minlength=1)).tolist():
            places = np.flatnonzero(label == number)
            few = np.unravel_index(_evenly(places, _PLACES), label.shape)
            found.setdefault(number, []).append((places.size, np.stack(few, 1) + box.start))
    return {number: _joined(parts) for number, parts in sorted(found.items())}


def write_classes(builder: Any, splits: Sequence[str] = ("train", "validation", "test")) -> Path:
    """Write the digest of the classes of a data set into its folder; it appears when it is complete.

    Args:
        builder: a TFDS builder of a data set on disk, as for `Store`.
        splits: the splits to look through.

    Returns:
        The path of the file.

    Raises:
        StoreError: if a split does not exist or is damaged.

    Example:

    ```python
    ks.data.write_classes(ks.data.open_builder("data/lits/64/2.0.0"))
    ```
    """
    digest = {}
    for split in splits:
        store = Store(builder, split)
        names = (builder.info.metadata or {})["order"][split]
        digest[split] = [
            {
                "case": name,
                "classes": {
                    str(number): {"voxels": places.voxels, "places": [list(place) for place in places.places]}
                    for number, places in find_classes(store, case).items()
                },
            }
            for case, name in enumerate(names)
        ]
    path = Path(builder.data_path) / CLASSES
    part = path.with_name(f".part-{path.name}")
    part.write_text(json.dumps(digest), encoding="utf-8")
    return part.replace(path)


def read_classes(builder: Any, split: str) -> list[CaseClasses]:
    """Read the digest of the classes of a split, in the order of its cases.

    Raises:
        StoreError: if there is none, or it is damaged.

    Example:

    ```python
    found = ks.data.read_classes(ks.data.open_builder("data/lits/64/2.0.0"), "train")
    ```
    """
    path = Path(builder.data_path) / CLASSES
    try:
        found = [
            CaseClasses(
                str(entry["case"]),
                {
                    int(number): ClassPlaces(int(facts["voxels"]), tuple(as_index(place) for place in facts["places"]))
                    for number, facts in entry["classes"].items()
                },
            )
            for entry in json.loads(path.read_text(encoding="utf-8"))[split]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path}: missing or damaged; write it with ks.data.write_classes, or run the step preprocess again. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    names = (builder.info.metadata or {}).get("order", {}).get(split)
    if names != [entry.case for entry in found]:
        raise StoreError(f"{path}: expected the cases {names} of {split!r}. Received: {[e.case for e in found]}")
    return found


def _joined(parts: Sequence[tuple[int, np.ndarray]]) -> ClassPlaces:
    """Join the places of several blocks: from each block in proportion to its voxels, and at least one."""
    voxels = sum(count for count, _ in parts)
    share = [_evenly(places, max(1, _PLACES * count // voxels)) for count, places in parts]
    places = _evenly(np.concatenate(share), _PLACES)
    return ClassPlaces(voxels, tuple(as_index(place) for place in places.tolist()))


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most `count` of the values, evenly spaced."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).astype(int)]
