"""What an evaluation reads, brought from an object store: the held-out cases and their stored blocks, no others."""

from collections.abc import Iterator
from contextlib import contextmanager

from components.cases import some_cases
from components.preprocess.preprocess import near_dataset, open_dataset


@contextmanager
def needed(cases: str, dataset: str, *, thresholds: bool = False) -> Iterator[tuple[str, str]]:
    """Folders of this machine with the checked cases and the data set; a path stays what it is.

    Args:
        cases: folder of the step ingest, by path or URL.
        dataset: folder of the step preprocess, by path or URL.
        thresholds: whether the training's cases are needed as well.

    Raises:
        ChangedCaseError: if a file in an object store is not what was checked.
        StorageError: if the store refuses or cannot be reached.
    """
    near = near_dataset(dataset, ("test",))
    members = (open_dataset(near).info.metadata or {})["cases"]
    wanted = {*members["test"], *(members["train"] if thresholds else ())}
    with some_cases(cases, wanted) as folder:
        yield folder, near
