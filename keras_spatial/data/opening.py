"""Open the folder of a built data set, with errors that name what is missing or damaged in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StoreError(ValueError):
    """A data set is missing or damaged, or is not stored in blocks from which the wanted part can be read."""


def open_builder(folder: str | os.PathLike) -> Any:
    """Make the TFDS builder of a data set on disk.

    A data set names the Python classes of its features, and TFDS imports them: open only data sets that you trust as
    you would trust a program.

    Args:
        folder: a folder with `dataset_info.json` and `features.json`, such as `data/lits/64/2.0.0`.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        StoreError: if one of these files, or `metadata.json`, is missing or damaged.

    Example:

    ```python
    builder = ks.data.open_builder("data/lits/64/2.0.0")
    ```
    """
    # Imported here because only this function needs TFDS.
    import tensorflow_datasets as tfds

    with named(folder):
        builder = tfds.builder_from_directory(str(folder))
        # TFDS reads these lazily; reading them here makes it find damaged files now.
        _ = builder.info.metadata, builder.info.features, dict(builder.info.splits)
        return builder


@contextmanager
def named(folder: str | os.PathLike) -> Iterator[None]:
    """Turn errors of the `with` block about a data set's files into a `StoreError` that names the folder."""
    try:
        yield
    except StoreError:
        raise
    # For damaged files, TFDS lets through whatever JSON, protobuf and its own asserts raise.
    except Exception as error:
        # For an object store the error says more: TensorFlow may lack its file system.
        local = "://" not in os.fspath(folder)
        missing = [
            name
            for name in ("dataset_info.json", "features.json")
            if local and not (Path(os.fspath(folder)) / name).is_file()
        ]
        what = f"{' and '.join(missing)} missing" if missing else f"{type(error).__name__}: {error}"
        raise StoreError(
            f"{folder}: not a complete data set; delete the folder and build it again. Received: {what}"
        ) from error
