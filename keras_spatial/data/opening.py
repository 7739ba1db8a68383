"""Opening the folder of a built data set: what is missing or damaged in it is named."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StoreError(ValueError):
    """A data set is missing, damaged, or not stored in blocks that can be read as asked."""


def open_builder(folder: str | os.PathLike) -> Any:
    """The TFDS builder of a data set on disk.

    A data set names the Python classes of its features, which TFDS imports: open only data sets that you trust as you
    would trust a program.

    Args:
        folder: with `dataset_info.json` and `features.json`, such as `data/lits/64/1.1.0`.

    Raises:
        StoreError: if one of these files, or `metadata.json`, is missing or damaged.
    """
    # Only reading TFDS's folders needs it; the package itself does not.
    import tensorflow_datasets as tfds

    with named(folder):
        builder = tfds.builder_from_directory(str(folder))
        # What TFDS reads late, it reads here.
        _ = builder.info.metadata, builder.info.features, dict(builder.info.splits)
        return builder


@contextmanager
def named(folder: str | os.PathLike) -> Iterator[None]:
    """Raise what the body finds wrong with a data set's files as a StoreError with the folder's name."""
    try:
        yield
    except StoreError:
        raise
    # TFDS lets through whatever JSON, protobuf and its own asserts raise on damaged files.
    except Exception as error:
        missing = [
            name for name in ("dataset_info.json", "features.json") if not (Path(os.fspath(folder)) / name).is_file()
        ]
        what = f"{' and '.join(missing)} missing" if missing else f"{type(error).__name__}: {error}"
        raise StoreError(
            f"{folder}: not a complete data set; delete the folder and build it again. Received: {what}"
        ) from error
