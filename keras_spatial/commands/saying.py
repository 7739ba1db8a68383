"""What the commands print."""

from typing import TextIO

from keras_spatial._texts import visible


def say(text: object, file: TextIO | None = None) -> None:
    """Print a text at once. It may contain names of files and of what is in them, so it gets escapes for whatever a
    terminal would obey.
    """
    print(visible(text), file=file, flush=True)
