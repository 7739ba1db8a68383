"""Download what an evaluation reads from an object store: only the held-out cases and their stored blocks."""

from collections.abc import Iterator
from contextlib import contextmanager

from components.cases import some_cases
from components.preprocess.preprocess import near_dataset, open_dataset


@contextmanager
def needed(cases: str, dataset: str, *, thresholds: bool = False) -> Iterator[tuple[str, str]]:
    """Provide local folders with the checked cases and the data set inside a `with` block. Paths are left as they are.

    Args:
        cases: the folder of the step ingest, by path or URL.
        dataset: the folder of the step preprocess, by path or URL.
        thresholds: whether the training cases are needed as well.

    Raises:
        ChangedCaseError: if a file in an object store has changed since it was checked.
        StorageError: if the store refuses or cannot be reached.
    """
    near = near_dataset(dataset, ("test",))
    members = (open_dataset(near).info.metadata or {})["cases"]
    wanted = {*members["test"], *(members["train"] if thresholds else ())}
    with some_cases(cases, wanted) as folder:
        yield folder, near
